"""The checksum that an operator pins a model by, and the canonical way in which a folder has one.

Of a file: its SHA-256. Of a folder: the SHA-256 of what `sha256sum` prints for its safetensors files, sorted by path.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from worker.errors import ModelUnusable

HEX = re.compile(r"[0-9a-f]{64}")


def of_file(file: Path) -> str:
    """In hexadecimal; reads it all. Raises ModelUnusable."""
    try:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise ModelUnusable(f"the weights cannot be read ({type(error).__name__})") from None


def of_folder(folder: Path) -> str:
    """Of every safetensors file below it, used or not; reads them all. Raises ModelUnusable."""
    places = {file.relative_to(folder).as_posix(): file for file in folder.rglob("*.safetensors")}
    lines = (f"{of_file(places[place])}  {place}\n" for place in sorted(places, key=str.encode))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def refuse_another(expected: str, found: str) -> None:
    """Raises ModelUnusable where a checksum is not the expected one."""
    if found != expected:
        raise ModelUnusable(f"the model is not the one that --model-sha256 names: its checksum is {found}")


def expected(text: str) -> str:
    """What an operator wrote, in one form. Raises ModelUnusable for what is no SHA-256."""
    if HEX.fullmatch(digits := text.strip().lower()) is None:
        raise ModelUnusable("--model-sha256 is no SHA-256: that has 64 hexadecimal digits")
    return digits
