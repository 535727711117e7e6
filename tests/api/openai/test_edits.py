"""Edits by the `openai` package and by hand: forms and JSON, pictures and masks."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from typing import Any

import httpx
import openai
import pytest
from PIL import Image

from tests.serving import LEAKS, ServedWorker

Serve = Callable[..., ServedWorker]


def png(mode: str = "RGB", size: tuple[int, int] = (64, 64)) -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, size).save(buffer, "PNG")
    return buffer.getvalue()


def post(worker: ServedWorker, **request: Any) -> httpx.Response:
    """An edit that may be refused, but in this API's shape and without a word too many."""
    response = httpx.post(f"{worker.url}/v1/images/edits", **request)
    if response.status_code >= 400:
        assert response.status_code < 500, response.text
        assert set(response.json()["error"]) == {"message", "type", "param", "code"}
        assert not [leak for leak in LEAKS if leak in response.text]
    return response


def test_a_model_that_takes_no_pictures_says_so(client: openai.OpenAI) -> None:
    for mask in (openai.omit, png("RGBA")):
        with pytest.raises(openai.BadRequestError) as refused:
            client.images.edit(image=png(), prompt="a red circle", mask=mask)
        assert refused.value.param == "image"


@pytest.mark.parametrize(
    ("parts", "param"),
    [
        ([("prompt", (None, "x"))], "image"),
        ([("image", ("a.png", png()))], "prompt"),
        ([("image", ("a.png", png())), ("image", ("b.png", png())), ("prompt", (None, "x"))], "image"),
        ([("image[]", ("a.png", png())), ("image[]", ("b.png", png())), ("prompt", (None, "x"))], "image"),
        ([("image", ("a.png", png())), ("image[]", ("b.png", png())), ("prompt", (None, "x"))], "image"),
        ([("image", ("a.png", png())), ("image", (None, "x")), ("prompt", (None, "x"))], "image"),
        ([("image", ("a.png", b"")), ("prompt", (None, "x"))], "image"),
        ([("image", ("a.png", png())), ("prompt", (None, "x")), ("n", (None, "2.5"))], "n"),
        ([("image", ("a.png", png())), ("prompt", (None, "x")), ("stream", (None, "perhaps"))], "stream"),
        ([("image", ("a.png", png())), ("prompt", (None, "x")), ("colour", (None, "red"))], "colour"),
        ([("image", ("a.png", png())), ("prompt", (None, "x")), ("input_fidelity", (None, "high"))], "input_fidelity"),
        ([("image", ("a.png", png())), ("prompt", (None, "x")), ("mask", ("m.png", png("L")))], "mask"),
        ([("image", ("a.png", png())), ("prompt", (None, "x")), ("mask", ("m.png", b"x"))], "mask"),
        ([("image", ("a.png", png())), ("prompt", (None, "x")), *[("mask", ("m.png", png("LA")))] * 2], "mask"),
        ([("image", ("a.png", png())), ("prompt", (None, "x")), ("picture", ("m.png", png()))], None),
    ],
    ids=range(15),
)
def test_what_is_wrong_with_a_form_is_told_by_its_name(
    instant: ServedWorker, parts: list[tuple[str, Any]], param: str | None
) -> None:
    response = post(instant, files=parts)
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({}, "image"),
        ({"image": ""}, "image"),
        ({"image": "x", "images": [{"image_url": "data:,"}]}, "image"),
        ({"images": []}, "image"),
        ({"images": [{"image_url": "data:,"}] * 2}, "images"),
        ({"images": [{"image_url": "https://example.org/a.png"}]}, "images.0.image_url"),
        ({"images": [{"file_id": "file-1"}]}, "images.0.image_url"),
        ({"image": base64.b64encode(png()).decode(), "mask": "?"}, "mask"),
        ({"image": base64.b64encode(png()).decode(), "mask": {"image_url": "data:,"}}, "mask"),
        ({"image": base64.b64encode(png()).decode(), "strength": 0}, "strength"),
    ],
    ids=range(10),
)
def test_what_is_wrong_with_a_body_is_told_by_its_name(
    instant: ServedWorker, fields: dict[str, Any], param: str
) -> None:
    response = post(instant, json={"prompt": "x"} | fields)
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)


FORM = "multipart/form-data; boundary=b"


@pytest.mark.parametrize(
    ("content", "content_type", "status"),
    [
        (b"", FORM, 400),
        (b"--b--\r\n", FORM, 400),
        (b"x" * 1000, FORM, 400),
        (b"--b\r\n" * 100, FORM, 400),
        (b'--b\r\nContent-Disposition: form-data; name="\xff"\r\n\r\n\xff\r\n--b--\r\n', FORM, 400),
        (b'--b\r\nContent-Disposition: form-data; name="prompt"\r\n\r\nx\r\n--b--\r\n', "multipart/form-data", 400),
        (b"--b--\r\n", FORM + "; charset=undefined", 400),
        (b"--b--\r\n", "multipart/mixed; boundary=b", 415),
        (b"image=x", "application/x-www-form-urlencoded", 415),
        (b"x" * 10_000_001, FORM, 413),
        (b'{"prompt": "' + b"x" * 70_000 + b'"}', "application/json", 413),
    ],
    ids=range(11),
)
def test_crooked_bodies(instant: ServedWorker, content: bytes, content_type: str, status: int) -> None:
    response = post(instant, content=content, headers={"Content-Type": content_type})
    assert response.status_code == status, response.text
