"""Pictures that are not meant well: bombs, and formats that nobody asked for. None is decoded, none takes memory."""

from __future__ import annotations

import base64
import io
import itertools
import time

import pytest
from PIL import Image

from tests.api.test_pictures import png_of_any_size, webp_of_any_size
from tests.process import WorkerProcess
from tests.reliability.conftest import Report, p99, resident_bytes

MOST_BYTES = 40_000_000
"""What the worker may grow by: bodies of up to 10 MB are in it."""


def small_png_of_400_megapixels() -> bytes:
    buffer = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(buffer, "PNG")
    return buffer.getvalue()


def in_format(form: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64)).save(buffer, form)
    return buffer.getvalue()


def jpeg_of_any_size(width: int, height: int) -> bytes:
    """A good one whose frame header promises another size."""
    data = bytearray(in_format("JPEG"))
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = height.to_bytes(2, "big") + width.to_bytes(2, "big")
    return bytes(data)


@pytest.mark.guard(600)
def test_bombs_and_odd_formats(report: Report) -> None:
    posts = report.pick(2000, 100)
    hostile = [
        small_png_of_400_megapixels(),
        png_of_any_size(2**31 - 1, 2**31 - 1),
        webp_of_any_size(16_384, 16_384),
        jpeg_of_any_size(65_500, 65_500),
        *(in_format(form) for form in ("GIF", "BMP", "TIFF", "ICO", "PPM", "TGA", "PDF")),
        b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>",
        in_format("PNG")[:40],
        b"\x00" * 7_000_000,
    ]
    assert len(hostile[0]) < 100_000, "a small file"
    bodies = [
        b'{"prompt": "x", "task": "image-to-image", "image": "' + base64.b64encode(data) + b'"}' for data in hostile
    ]
    headers = {"Content-Type": "application/json"}
    waits: list[float] = []
    with WorkerProcess(None) as worker:
        # What threads keep at hand is there after a while, and not after the first large one.
        for body in itertools.islice(itertools.cycle(bodies), max(3 * len(bodies), posts // 4)):
            assert worker.client.post("/v1/jobs", content=body, headers=headers).status_code == 422
        before = resident_bytes(worker.process.pid)
        for body in itertools.islice(itertools.cycle(bodies), posts):
            refused = worker.client.post("/v1/jobs", content=body, headers=headers)
            assert refused.status_code == 422
            assert "image" in {fault["field"] for fault in refused.json()["errors"]}
            asked = time.monotonic()
            assert worker.client.get("/health").status_code == 200
            waits.append(time.monotonic() - asked)
        grown = resident_bytes(worker.process.pid) - before
    report.add(
        "Hostile input",
        "bombs and odd formats are refused before anything is decoded",
        f"{posts} posts: PNG of 400 megapixels in {len(hostile[0]) // 1000} kB, headers that promise 2^62 pixels, "
        "GIF, BMP, TIFF, ICO, PPM, TGA, PDF, SVG, cut off, 7 MB of zeros",
        f"all 422; memory {grown / 1e6:+.1f} MB, health beside them p99 {1e3 * p99(waits):.1f} ms",
    )
    assert grown <= MOST_BYTES
