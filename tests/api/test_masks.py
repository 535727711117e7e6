"""Masks: transparent here is white there."""

from __future__ import annotations

import base64
import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from tests.serving import smaller
from worker.api.masks import white_as_it_is, white_where_transparent
from worker.errors import InvalidRequest

LIMITS = smaller()


def encode(picture: Image.Image, form: str = "PNG", **settings: object) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, form, **settings)
    return base64.b64encode(buffer.getvalue()).decode()


def turned(encoded: str) -> np.ndarray:
    mask = Image.open(io.BytesIO(base64.b64decode(white_where_transparent(encoded, LIMITS))))
    assert (mask.format, mask.mode) == ("PNG", "L")
    return np.asarray(mask)


def rgba() -> Image.Image:
    """Opaque on the left, half transparent in the middle, transparent on the right; its colours mean nothing."""
    pixels = np.random.default_rng(0).integers(0, 256, (8, 12, 4), dtype=np.uint8)
    pixels[:, :4, 3], pixels[:, 4:8, 3], pixels[:, 8:, 3] = 255, 128, 0
    return Image.fromarray(pixels)


@pytest.mark.parametrize("prefix", ["", "data:image/png;base64,"])
def test_what_is_transparent_becomes_white(prefix: str) -> None:
    mask = turned(prefix + encode(rgba()))
    assert (mask[:, :4] == 0).all()
    assert (mask[:, 4:8] == 127).all()
    assert (mask[:, 8:] == 255).all()


def test_every_kind_of_transparency_counts() -> None:
    whole = turned(encode(rgba()))
    assert (turned(encode(rgba(), "WEBP", lossless=True)) == whole).all()
    assert (turned(encode(rgba().convert("LA"))) == whole).all()
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([0, 0, 0, 255, 255, 255])
    palette.paste(0, (0, 0, 2, 4))
    assert turned(encode(palette, transparency=0)).tolist() == [[255, 255, 0, 0]] * 4


def test_a_mask_of_16_bits_is_scaled() -> None:
    pixels = np.array([[0, 0x0200, 0x8000, 0xFFFF]], np.uint16)
    encoded = white_as_it_is(encode(Image.fromarray(pixels)), LIMITS, inverted=False, blur_px=(0, 0))
    mask = np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded))))
    assert mask.tolist() == [[0, 1, 127, 255]]


def huge_png(side: int) -> str:
    """A few bytes that promise `side` times `side` pixels."""
    head = struct.pack(">IIBBBBB", side, side, 8, 6, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")]
    data = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        for name, content in chunks
    )
    return base64.b64encode(data).decode()


@pytest.mark.parametrize(
    "encoded",
    [
        "",
        "?",
        "data:image/png;base64",
        "data:,",
        "AAAA",
        "ä",
        encode(Image.new("RGB", (8, 8))),
        encode(Image.new("L", (8, 8))),
        encode(Image.new("RGB", (8, 8)), "JPEG"),
        encode(Image.new("P", (8, 8)), "GIF", transparency=0),
        base64.b64encode(base64.b64decode(encode(rgba()))[:90]).decode(),
        huge_png(4000),
        huge_png(30000),
    ],
    ids=range(13),
)
def test_anything_else_is_refused_by_its_name(encoded: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        white_where_transparent(encoded, LIMITS)
    (fault,) = refused.value.errors
    assert fault.field == "mask"
    assert "0x" not in fault.message
