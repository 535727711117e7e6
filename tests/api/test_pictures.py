"""Pictures in a request: what is taken, what is refused before anything is decoded, what is shown of them."""

from __future__ import annotations

import base64
import io
import json
import random
import struct
import zlib
from dataclasses import replace
from typing import Any

import pytest
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo

from tests.fakes import FACTS, LIMITS
from worker.api import pictures
from worker.api.body import parse_job
from worker.api.masks import white_as_it_is
from worker.api.wire import params_json
from worker.engine.pictures import read_pixels
from worker.errors import BodyTooLarge, InvalidRequest
from worker.jobs.params import JobParams, Task

MANY = replace(FACTS, tasks=tuple(Task))
SMALL = replace(LIMITS, max_input_pixels=100 * 100)


def encoded(width: int = 64, height: int = 64, form: str = "PNG", exif: int | None = None) -> bytes:
    buffer = io.BytesIO()
    options: dict[str, Any] = {}
    if exif is not None:
        options["exif"] = Image.Exif()
        options["exif"][0x0112] = exif
    Image.new("RGB", (width, height), (200, 30, 30)).save(buffer, form, **options)
    return buffer.getvalue()


def text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def png_of_any_size(width: int, height: int) -> bytes:
    """A header that promises so many pixels, and almost no data."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\x00" * 999))
        + chunk(b"IEND", b"")
    )


def webp_of_any_size(width: int, height: int) -> bytes:
    flags = b"\x00\x00\x00\x00" + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    body = b"WEBP" + b"VP8X" + struct.pack("<I", 10) + flags
    return b"RIFF" + struct.pack("<I", len(body)) + body


def parse(limits: Any = LIMITS, facts: Any = MANY, **fields: object) -> JobParams:
    return parse_job(json.dumps({"prompt": "x"} | fields).encode(), facts, limits)


def faults(limits: Any = LIMITS, facts: Any = MANY, **fields: object) -> dict[str, str]:
    with pytest.raises(InvalidRequest) as refused:
        parse(limits, facts, **fields)
    return {fault.field: fault.message for fault in refused.value.errors}


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize(
    "prefix",
    [
        *("", "data:image/png;base64,", "data:image/svg+xml;base64,", "data:;base64,"),
        *("data:application/octet-stream;base64,", "DATA:image/png;charset=utf-8;base64,"),
    ],
)
def test_a_picture_is_kept_as_it_came(form: str, prefix: str) -> None:
    data = encoded(72, 64, form)
    asked = parse(task="image-to-image", image=prefix + text(data))
    assert asked.image is not None
    assert (asked.image.width, asked.image.height, asked.image.data) == (72, 64, data)
    assert (asked.width, asked.height, asked.strength) == (72, 64, 0.8), "the input's size, unless another is asked for"
    assert params_json(asked)["image"] == {"width": 72, "height": 64, "bytes": len(data)}


def test_sizes_that_are_asked_for_win() -> None:
    asked = parse(task="image-to-image", image=text(encoded(100, 90)), width=128)
    assert (asked.width, asked.height) == (128, 90)


def test_a_turned_picture_has_the_size_that_people_see() -> None:
    asked = parse(task="image-to-image", image=text(encoded(80, 64, "JPEG", exif=6)))
    assert (asked.width, asked.height) == (64, 80)
    asked = parse(task="image-to-image", image=text(encoded(80, 64, "JPEG", exif=3)))
    assert (asked.width, asked.height) == (80, 64)


XMP = '<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/>'


def redder_on_the_left(form: str, **options: Any) -> bytes:
    picture, buffer = Image.new("RGB", (80, 64), "blue"), io.BytesIO()
    picture.paste("red", (0, 0, 40, 64))
    picture.save(buffer, form, **options)
    return buffer.getvalue()


def png_saying_behind_its_pixels(exif: Image.Exif) -> bytes:
    data, chunks = redder_on_the_left("PNG", exif=exif), []
    at = 8
    while at < len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        chunks.append(data[at:end])
        at = end
    chunks.sort(key=lambda chunk: (chunk[4:8] == b"IEND", chunk[4:8] == b"eXIf"))
    return data[:8] + b"".join(chunks)


def turned_by_other_words() -> dict[str, bytes]:
    """Pictures that Pillow turns by a quarter, though no EXIF says so before their pixels."""
    exif, other, xmp, raw = Image.Exif(), Image.Exif(), PngInfo(), PngInfo()
    exif[0x0112] = 6
    other[0x0131] = "a program"
    xmp.add_itxt("XML:com.adobe.xmp", XMP)
    raw.add_text("Raw profile type exif", f"\nexif\n{len(exif.tobytes()):8}\n{exif.tobytes().hex()}\n")
    return {
        "PNG with XMP": redder_on_the_left("PNG", pnginfo=xmp),
        "JPEG with XMP": redder_on_the_left("JPEG", xmp=XMP.encode()),
        "JPEG with XMP beside EXIF": redder_on_the_left("JPEG", xmp=XMP.encode(), exif=other),
        "WebP with XMP": redder_on_the_left("WEBP", xmp=XMP.encode()),
        "PNG with a raw profile": redder_on_the_left("PNG", pnginfo=raw),
        "PNG with late EXIF": png_saying_behind_its_pixels(exif),
    }


@pytest.mark.parametrize("data", turned_by_other_words().values(), ids=turned_by_other_words())
def test_a_picture_is_turned_by_what_its_size_was_read_with_and_by_nothing_else(data: bytes) -> None:
    assert ImageOps.exif_transpose(Image.open(io.BytesIO(data))).size == (64, 80)
    asked = parse(task="inpainting", image=text(data), mask=text(data))
    assert asked.image is not None
    assert (asked.width, asked.height, asked.image.width, asked.image.height) == (80, 64, 80, 64)
    pixels = read_pixels(asked.image, 80, 64)
    assert (pixels[:, :32, 0] > 200).all()
    assert (pixels[:, 48:, 2] > 200).all()
    mask = Image.open(io.BytesIO(base64.b64decode(white_as_it_is(text(data), LIMITS, inverted=False, blur_px=(0, 0)))))
    assert mask.size == (80, 64)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"task": "image-to-image"}, "image"),
        ({"task": "inpainting", "image": "P"}, "mask"),
        ({"image": "P"}, "image"),
        ({"mask": "P"}, "mask"),
        ({"strength": 0.5}, "strength"),
        ({"task": "image-to-image", "image": "P", "mask": "P"}, "mask"),
        ({"task": "image-to-image", "image": "P", "strength": 0}, "strength"),
        ({"task": "image-to-image", "image": "P", "strength": 1.01}, "strength"),
        ({"task": "image-to-image", "image": "P", "loras": [{"name": "unknown"}]}, "loras.0.name"),
        ({"controls": [{"name": "unknown", "image": "P"}]}, "controls.0.name"),
        ({"task": "upscale"}, "image"),
        ({"task": "upscale", "image": "P", "mask": "P"}, "mask"),
        ({"task": "upscale", "image": "P", "width": 128}, "width"),
        ({"task": "upscale", "image": "P", "height": 128}, "height"),
        ({"task": "upscale", "image": "P", "upscale": {"factor": 3}}, "upscale.factor"),
        ({"task": "upscale", "image": "P", "upscale": {"factor": "2"}}, "upscale.factor"),
        ({"task": "upscale", "image": "P", "upscale": {"upscaler": "../esrgan"}}, "upscale.upscaler"),
        ({"task": "upscale", "image": "P", "upscale": {"by": 2}}, "upscale.by"),
        ({"task": "image-to-image", "image": "P", "upscale": {}}, "upscale"),
        ({"upscale": {"factor": 4}}, "upscale"),
    ],
)
def test_fields_go_with_their_task(fields: dict[str, Any], field: str) -> None:
    picture = text(encoded())
    given = json.loads(json.dumps(fields).replace('"P"', json.dumps(picture)))
    assert set(faults(**given)) == {field}


def test_every_fault_is_told_at_once() -> None:
    told = faults(task="inpainting", image="@", mask=text(b"GIF89a"), steps=0, strength=2)
    assert set(told) == {"image", "mask", "steps", "strength"}
    assert told["image"] == pictures.NOT_BASE64
    assert told["mask"] == pictures.NO_PICTURE


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x89PNG\r\n\x1a\n",
        b"GIF89a" + b"\x01\x00\x01\x00" * 10,
        b"BM" + b"\x00" * 100,
        b"II*\x00" + b"\x00" * 100,
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"%PDF-1.7",
        b"\xff\xd8\xff\xe0\x00\x10JFIF",
        b"RIFF\x00\x00\x00\x00WEBPVP8X",
        b"RIFF\x1c\x00\x00\x00WEBPXXXX" + b"\x00" * 20,
        b"\x00" * 1000,
    ],
)
def test_what_is_no_picture_is_refused_in_words_of_ours(data: bytes) -> None:
    assert faults(task="image-to-image", image=text(data) or "=") in (
        {"image": pictures.NO_PICTURE},
        {"image": pictures.NOT_BASE64},
    )


@pytest.mark.parametrize(
    "bomb",
    [
        png_of_any_size(20_000, 20_000),
        png_of_any_size(2**31 - 1, 1),
        webp_of_any_size(16_000, 16_000),
        encoded(101, 100),
    ],
)
def test_bombs_are_refused_by_their_headers(bomb: bytes) -> None:
    assert faults(SMALL, task="image-to-image", image=text(bomb)) == {"image": "must have at most 10000 pixels"}


def test_a_picture_too_large_to_draw_needs_a_size() -> None:
    wide = text(encoded(2100, 64))
    told = faults(task="image-to-image", image=wide)
    assert told == {"image": "its width is 2100 pixels; give a width from 64 to 2048"}
    assert parse(task="image-to-image", image=wide, width=1024).width == 1024


def test_an_upscaled_picture_has_the_factors_size() -> None:
    asked = parse(task="upscale", image=text(encoded(100, 70)))
    assert (asked.width, asked.height, asked.strength) == (200, 140, 0.35)
    assert params_json(asked)["upscale"] == {"factor": 2, "upscaler": "latent", "tiles": 12}
    asked = parse(task="upscale", image=text(encoded(30, 80, "JPEG", exif=6)), upscale={"factor": 4}, strength=0.2)
    assert (asked.width, asked.height, asked.strength) == (320, 120, 0.2), "of the picture as people see it"


def test_what_would_become_too_large_is_refused_by_its_header() -> None:
    told = faults(task="upscale", image=text(png_of_any_size(1025, 100)))
    assert told == {"image": "its width becomes 2050 pixels; from 64 to 2048 are drawn"}
    told = faults(task="upscale", image=text(png_of_any_size(100, 513)), upscale={"factor": 4})
    assert told == {"image": "its height becomes 2052 pixels; from 64 to 2048 are drawn"}
    told = faults(task="upscale", image=text(png_of_any_size(31, 31)))
    assert "becomes 62 pixels" in told["image"]
    few = replace(LIMITS, max_pixels=40_000)
    assert faults(few, task="upscale", image=text(png_of_any_size(101, 100))) == {
        "image": "width x height must be at most 40000"
    }


def test_a_body_with_a_picture_may_be_larger() -> None:
    noise = text(Image.effect_noise((400, 400), 90).tobytes())
    with pytest.raises(BodyTooLarge):
        parse(labels={"a": noise})
    assert "image" in faults(image=noise)


def test_a_job_that_has_ended_holds_no_picture() -> None:
    asked = parse(task="inpainting", image=text(encoded()), mask=text(encoded()))
    emptied = asked.without_pictures()
    assert emptied.image is not None
    assert emptied.mask is not None
    assert (emptied.image.data, emptied.mask.data) == (b"", b"")
    assert params_json(emptied) == params_json(asked), "what is shown stays"


def jpeg_of_scans(count: int) -> bytes:
    """A progressive picture that says its last scan again and again, without any data in it."""
    buffer = io.BytesIO()
    Image.new("L", (64, 64)).save(buffer, "JPEG", progressive=True)
    scan = b"\xff\xda\x00\x08\x01\x01\x00\x00\x00\x10"
    return buffer.getvalue()[:-2] + scan * count + b"\xff\xd9"


def png_of_texts(count: int) -> bytes:
    """Compressed texts, each of which grows a thousandfold when it is read."""
    import zlib

    whole = encoded()
    text = b"zTXt" + b"a\0\0" + zlib.compress(bytes(1000))
    chunk = (len(text) - 4).to_bytes(4, "big") + text + zlib.crc32(text).to_bytes(4, "big")
    return whole[:33] + chunk * count + whole[33:]


@pytest.mark.parametrize(
    "bomb", [jpeg_of_scans(1000), png_of_texts(100), b"\xff\xd8" + b"\xff\xe1\0\x08Exif\0\0" * 100]
)
def test_what_takes_long_to_read_is_refused(bomb: bytes) -> None:
    assert faults(task="image-to-image", image=text(bomb)) == {"image": "must be a PNG, JPEG or WebP picture"}


def test_what_tools_write_is_not() -> None:
    film = random.Random(1).randbytes(10_000_000)  # as telephones put behind a picture
    for data in (png_of_texts(8), jpeg_of_scans(8), encoded(form="JPEG") + film):
        assert parse(task="image-to-image", image=text(data)).image is not None
