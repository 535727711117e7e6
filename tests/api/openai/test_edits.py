"""Edits by the `openai` package and by hand: forms and JSON, pictures and masks."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import httpx
import openai
import pytest
from PIL import Image

from tests.api.openai.conftest import client_of, picture
from tests.fakes import FACTS, LIMITS
from tests.serving import LEAKS, WAIT_S, ServedWorker
from worker.jobs.params import JobParams, Task

Serve = Callable[..., ServedWorker]


def png(mode: str = "RGB", size: tuple[int, int] = (64, 64)) -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, size).save(buffer, "PNG")
    return buffer.getvalue()


def post(worker: ServedWorker, **request: Any) -> httpx.Response:
    """An edit that may be refused, but in this API's shape and without a word too many."""
    response = httpx.post(f"{worker.url}/v1/images/edits", timeout=WAIT_S, **request)
    if response.status_code >= 400:
        assert response.status_code < 500, response.text
        assert set(response.json()["error"]) == {"message", "type", "param", "code"}
        assert not [leak for leak in LEAKS if leak in response.text]
    return response


@pytest.fixture(scope="module")
def editor(leaving: list[ServedWorker]) -> Iterator[ServedWorker]:
    """A worker whose model offers every task."""
    worker = ServedWorker(facts=replace(FACTS, tasks=tuple(Task)))
    yield worker
    worker.leave()
    leaving.append(worker)


def opened(worker: ServedWorker) -> JobParams:
    """What the model was given last."""
    return worker.runner.opened[-1]


def half_transparent() -> bytes:
    """128 by 64, its right half transparent."""
    mask = Image.new("RGBA", (128, 64), "black")
    mask.paste((9, 9, 9, 0), (64, 0, 128, 64))
    buffer = io.BytesIO()
    mask.save(buffer, "PNG")
    return buffer.getvalue()


def check_mask(worker: ServedWorker) -> None:
    """White on the right."""
    mask = opened(worker).mask
    assert mask is not None
    painted = Image.open(io.BytesIO(mask.data))
    assert painted.size == (128, 64)
    assert [painted.getpixel((x, 10)) for x in (0, 63, 64, 127)] == [0, 0, 255, 255]


def test_a_picture_is_drawn_from_a_picture(editor: ServedWorker) -> None:
    given = png(size=(128, 64))
    with client_of(editor) as client:
        answer = client.images.edit(image=given, prompt="a blue square", n=2, output_format="jpeg", user="somebody")
    params = opened(editor)
    assert (params.task, params.prompt, params.num_images) == (Task.IMAGE_TO_IMAGE, "a blue square", 2)
    assert (params.width, params.height, params.strength) == (128, 64, 0.8)
    assert params.image is not None
    assert params.image.data == given
    assert params.mask is None
    assert answer.data is not None
    assert [picture(one.b64_json).size for one in answer.data] == [(128, 64)] * 2
    assert (answer.size, answer.output_format, answer.safety_identifier) == ("128x64", "jpeg", "somebody")


def test_what_is_transparent_in_the_mask_is_drawn_again(editor: ServedWorker) -> None:
    with client_of(editor) as client:
        client.images.edit(
            image=[("a.png", png(size=(128, 64)))],
            mask=("m.png", half_transparent()),
            prompt="x",
            size="64x64",
            extra_body={"strength": 0.5, "seed": 3, "negative_prompt": "y", "num_inference_steps": 9},
        )
    params = opened(editor)
    assert (params.task, params.strength, params.seed, params.steps) == (Task.INPAINTING, 0.5, 3, 9)
    assert (params.width, params.height, params.negative_prompt) == (64, 64, "y")
    check_mask(editor)


async def test_asynchronously_and_as_events(editor: ServedWorker) -> None:
    async with openai.AsyncOpenAI(base_url=f"{editor.url}/v1", api_key="unused", timeout=WAIT_S) as client:
        stream = await client.images.edit(
            image=png(), prompt="x", stream=True, partial_images=2, extra_body={"num_inference_steps": 20}
        )
        events = [event async for event in stream]
    assert [event.type for event in events] == ["image_edit.partial_image"] * 2 + ["image_edit.completed"]
    assert [picture(event.b64_json).size for event in events] == [(64, 64)] * 3


@pytest.mark.parametrize("kind", ["base64", "data", "images"])
def test_json_with_pictures_in_base64(editor: ServedWorker, kind: str) -> None:
    image, mask = (base64.b64encode(data).decode() for data in (png(size=(128, 64)), half_transparent()))
    prefix = "" if kind == "base64" else "data:image/png;base64,"
    if kind == "images":
        fields: dict[str, Any] = {"images": [{"image_url": prefix + image}], "mask": {"image_url": prefix + mask}}
    else:
        fields = {"image": prefix + image, "mask": prefix + mask}
    response = post(editor, json={"prompt": "x"} | fields)
    assert response.status_code == 200, response.text
    assert opened(editor).task is Task.INPAINTING
    check_mask(editor)


def test_a_large_picture_may_be_sent(editor: ServedWorker) -> None:
    noise = Image.effect_noise((1600, 1600), 90).convert("RGB")
    buffer = io.BytesIO()
    noise.save(buffer, "PNG", compress_level=1)
    assert len(buffer.getvalue()) > 1_000_000
    with client_of(editor) as client:
        answer = client.images.edit(image=buffer.getvalue(), prompt="x", size="64x64")
    assert answer.size == "64x64"


@pytest.mark.parametrize("data", [b"x", b"\x89PNG\r\n\x1a\n", png()[:40], b"GIF89a"])
def test_what_is_no_picture_is_told_by_its_name(editor: ServedWorker, data: bytes) -> None:
    response = post(editor, files=[("image", ("a.png", data)), ("prompt", (None, "x"))])
    assert (response.status_code, response.json()["error"]["param"]) == (400, "image")


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
        (b'{"prompt": "' + b"x" * LIMITS.text_body_bytes + b'"}', "application/json", 413),
    ],
    ids=range(11),
)
def test_crooked_bodies(instant: ServedWorker, content: bytes, content_type: str, status: int) -> None:
    response = post(instant, content=content, headers={"Content-Type": content_type})
    assert response.status_code == status, response.text
