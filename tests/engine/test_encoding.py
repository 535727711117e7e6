"""Bytes that other programs read: pictures, previews, and what is written into them."""

from __future__ import annotations

import io
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import ExifTags, Image

from tests.fakes import PNG, make_params, paint
from worker import __version__
from worker.engine.encoding import describe_parameters, encode_image, encode_preview
from worker.jobs.params import (
    ControlParams,
    ImageFormat,
    LoraParams,
    OutputParams,
    Picture,
    Preprocessor,
    PreviewParams,
    Task,
)
from worker.jobs.provenance import DigitalSource

GENERATED = DigitalSource.GENERATED

PICTURE = paint(seed=9, width=48, height=32)
TEXT = "a red circle, ünknöwn 🦓\nSteps: 4"


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


def test_a_png_holds_every_pixel_as_it_was() -> None:
    assert np.array_equal(np.asarray(opened(encode_image(PICTURE, PNG, GENERATED, None))), PICTURE)


@pytest.mark.parametrize("format", [ImageFormat.WEBP, ImageFormat.JPEG])
def test_the_lossy_formats_obey_the_quality(format: ImageFormat) -> None:
    outputs = (OutputParams(format, quality, False, False) for quality in (5, 95))
    poor, good = (encode_image(PICTURE, output, GENERATED, None) for output in outputs)
    assert opened(good).format == opened(poor).format == format.value.upper()
    assert opened(good).size == (48, 32)
    assert len(poor) < len(good)


def test_the_parameters_stand_in_a_png_where_other_tools_look() -> None:
    picture = opened(encode_image(PICTURE, PNG, GENERATED, TEXT))
    assert picture.info["parameters"] == TEXT


@pytest.mark.parametrize("format", [ImageFormat.WEBP, ImageFormat.JPEG])
def test_the_parameters_stand_in_the_exif_comment_of_the_others(format: ImageFormat) -> None:
    exif = opened(encode_image(PICTURE, OutputParams(format, 90, False, True), GENERATED, TEXT)).getexif()
    comment = exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment]
    assert comment[:8] == b"UNICODE\0"
    assert comment[8:].decode("utf-16-be") == TEXT


@pytest.mark.parametrize("format", list(ImageFormat))
def test_without_parameters_there_is_nothing_of_them_in_the_picture(format: ImageFormat) -> None:
    picture = opened(encode_image(PICTURE, OutputParams(format, 90, False, False), GENERATED, None))
    assert "parameters" not in picture.info
    assert not picture.getexif().get_ifd(ExifTags.IFD.Exif)


@pytest.mark.parametrize("text", [TEXT, None])
@pytest.mark.parametrize("source", list(DigitalSource))
@pytest.mark.parametrize("format", list(ImageFormat))
def test_every_picture_says_that_a_model_made_it(format: ImageFormat, source: DigitalSource, text: str | None) -> None:
    data = encode_image(PICTURE, OutputParams(format, 90, False, text is not None), source, text)
    picture = opened(data)
    [[description]] = ElementTree.fromstring(picture.info["xmp"])  # noqa: S314 - our own
    assert description.get("{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}DigitalSourceType") == source.value
    assert description.get("{http://ns.adobe.com/xap/1.0/}CreatorTool") == f"sd-worker {__version__}"
    software = picture.info.get("Software") or picture.getexif().get(ExifTags.Base.Software)
    assert software == f"sd-worker {__version__}"
    assert encode_image(PICTURE, OutputParams(format, 90, False, text is not None), source, text) == data


@pytest.mark.parametrize("task", list(Task))
def test_what_begins_with_a_picture_is_composite(task: Task) -> None:
    generated = task is Task.TEXT_TO_IMAGE
    assert DigitalSource.of(task) is (GENERATED if generated else DigitalSource.COMPOSITE)


def test_the_parameters_are_told_as_stable_diffusion_tools_tell_them() -> None:
    params = make_params(prompt="a star", negative_prompt="blurry", steps=20, guidance_scale=7.5, width=128)
    assert describe_parameters(params, 42, "builtin") == (
        "a star\n"
        "Negative prompt: blurry\n"
        "Steps: 20, Sampler: euler, CFG scale: 7.5, Seed: 42, Size: 128x64, Model: builtin"
    )
    picture = Picture(8, 8, 3, b"PNG")
    edges = ControlParams("edges", picture, 0.5, 0.0, 0.8, Preprocessor.CANNY)
    controls = (edges, ControlParams("x", picture, 1.0, 0.0, 1.0))
    assert describe_parameters(make_params(controls=controls), 42, "builtin").endswith(
        "Model: builtin, "
        'ControlNet 0: "Module: canny, Model: edges, Weight: 0.5, Guidance Start: 0, Guidance End: 0.8", '
        'ControlNet 1: "Module: none, Model: x, Weight: 1, Guidance Start: 0, Guidance End: 1"'
    )
    assert "Negative" not in describe_parameters(make_params(negative_prompt=""), 1, "builtin")
    adapted = make_params(prompt="a star", loras=(LoraParams("ink", 0.8), LoraParams("old/paper", -1.0)))
    assert describe_parameters(adapted, 1, "x").startswith("a star <lora:ink:0.8> <lora:old/paper:-1>\n")


@pytest.mark.parametrize(
    ("width", "height", "size", "expected"),
    [
        (512, 512, 256, (256, 256)),
        (512, 256, 128, (128, 64)),
        (256, 512, 128, (64, 128)),
        (64, 64, 1024, (64, 64)),
        (2048, 64, 16, (16, 1)),
    ],
)
def test_a_preview_keeps_the_shape_and_is_never_larger_than_the_picture(
    width: int, height: int, size: int, expected: tuple[int, int]
) -> None:
    pixels = paint(1, width // 8, height // 8)
    data, *told = encode_preview(pixels, width, height, PreviewParams(1, size, ImageFormat.JPEG))
    assert tuple(told) == opened(data).size == expected
    assert opened(data).format == "JPEG"
