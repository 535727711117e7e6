"""What the documentation shows is run as it stands, against the real worker on the built-in model."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from tests.real import Worker, start, stop

DOCS = Path(__file__).parents[1] / "docs"
ADDRESS = "http://127.0.0.1:8600"
BLOCK = re.compile(r"^```(sh|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
RUN_S = 100.0


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    worker = start("--sdapi")
    try:
        worker.wait_until_ready()
        yield worker
    finally:
        stop(worker)


def blocks(page: str) -> list[tuple[str, str]]:
    """(language, text) of every example on a page."""
    found: list[tuple[str, str]] = BLOCK.findall((DOCS / page).read_text(encoding="utf-8"))
    return found


def run(language: str, text: str, worker: Worker, folder: Path) -> str:
    """What an example writes; it must end well."""
    if language == "sh" and shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    assert ADDRESS in text
    command = [sys.executable, "-c"] if language == "python" else ["bash", "-euo", "pipefail", "-c"]
    told = subprocess.run(
        [*command, text.replace(ADDRESS, worker.url)],
        cwd=folder,
        env={**os.environ, "NO_PROXY": "127.0.0.1"},
        capture_output=True,
        text=True,
        timeout=RUN_S,
    )
    assert told.returncode == 0, told.stderr
    return told.stdout


def test_clients_of_other_apis(worker: Worker, tmp_path: Path) -> None:
    for language, text in blocks("openai.md"):
        told = run(language, text, worker, tmp_path)
        if language == "sh":
            assert "error" not in json.loads(told)
    for name in ("circle-0", "circle-1", "heart-0", "heart-1", "heart-2", "heart"):
        with Image.open(tmp_path / f"{name}.png") as picture:
            picture.load()
            assert picture.format == "PNG", name
    with Image.open(tmp_path / "circle-0.png") as circle:
        red, green, blue = circle.convert("RGB").getpixel((64, 64))  # type: ignore[misc]
        assert red > 150 > max(green, blue), "a red circle in the middle"
        with Image.open(tmp_path / "edited.png") as edited:
            assert edited.size == circle.size
            lower = (0, 64, 128, 128)
            assert edited.crop(lower).tobytes() == circle.crop(lower).tobytes(), "opaque in the mask: as it was"
            assert edited.tobytes() != circle.tobytes(), "transparent in the mask: drawn again"
