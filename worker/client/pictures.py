"""Pictures that go to the worker: whatever a program has becomes base64 of a PNG, JPEG or WebP."""

from __future__ import annotations

import base64
import io
import os
from pathlib import Path

from PIL import Image, ImageOps

Picture = Image.Image | bytes | str | os.PathLike[str]
"""A PIL picture, an encoded picture, or the path of a file."""
SENT_AS_THEY_ARE = ("PNG", "JPEG", "WEBP", "MPO")
"""MPO is what Pillow calls a JPEG with more pictures behind the first, as telephones write them."""
KEPT_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")
"""What a PNG can hold; everything else becomes RGB."""


def encoded(picture: Picture) -> str:
    """Base64. A file of another format than the worker takes is turned into PNG.

    Raises OSError for a file that cannot be read, ValueError for what is no picture.
    """
    match picture:
        case Image.Image():
            data = _png(picture)
        case bytes():
            data = _acceptable(picture, "what was given")
        case _:
            data = _acceptable(Path(picture).read_bytes(), str(picture))
    return base64.b64encode(data).decode("ascii")


def _acceptable(data: bytes, name: str) -> bytes:
    try:
        with Image.open(io.BytesIO(data)) as image:
            return data if image.format in SENT_AS_THEY_ARE else _png(image)
    except (OSError, SyntaxError, Image.DecompressionBombError):
        raise ValueError(f"{name} is no picture that can be read") from None


def _png(image: Image.Image) -> bytes:
    upright = ImageOps.exif_transpose(image)
    if upright.mode not in KEPT_MODES:
        upright = upright.convert("RGB")
    buffer = io.BytesIO()
    upright.save(buffer, "PNG", compress_level=1)  # level 1 takes a sixth of the usual time and little more room
    return buffer.getvalue()
