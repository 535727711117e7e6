"""Partial and finished pictures as events, read by the `openai` package from a real server."""

from __future__ import annotations

import json
from collections.abc import Callable

import httpx
import openai
import pytest

from tests.api.openai.conftest import client_of, eventually_cancelled, newest, picture
from tests.fakes import FailsAtStep, Paced, StepByStep
from tests.serving import LEAKS, WAIT_S, ServedWorker

Serve = Callable[..., ServedWorker]
COMMON = {"type", "b64_json", "created_at", "size", "quality", "background", "output_format"}


@pytest.mark.parametrize("form", ["png", "jpeg", "webp"])
@pytest.mark.parametrize("partials", [None, 0, 1, 3])
def test_partial_pictures_and_then_the_finished_one(client: openai.OpenAI, partials: int | None, form: str) -> None:
    stream = client.images.generate(
        prompt="a red circle",
        stream=True,
        partial_images=partials,
        output_format=form,  # type: ignore[arg-type]
        extra_body={"num_inference_steps": 20},
    )
    *before, last = list(stream)
    assert [event.type for event in before] == ["image_generation.partial_image"] * (partials or 0)
    assert [event.partial_image_index for event in before if event.type == "image_generation.partial_image"] == list(
        range(partials or 0)
    )
    assert last.type == "image_generation.completed"
    assert last.usage.total_tokens == 3 + 64
    for event in (*before, last):
        assert picture(event.b64_json).format == form.upper()
        assert (event.size, event.quality, event.background, event.output_format) == ("64x64", "auto", "opaque", form)


def test_there_are_no_more_partial_pictures_than_steps_before_the_last(client: openai.OpenAI) -> None:
    for steps in (1, 2, 3, 4, 5, 7):
        stream = client.images.generate(
            prompt="x", stream=True, partial_images=3, extra_body={"num_inference_steps": steps}
        )
        assert len(list(stream)) == min(3, steps - 1) + 1


def test_several_pictures_are_several_completed_events(client: openai.OpenAI) -> None:
    events = list(client.images.generate(prompt="x", n=3, stream=True, partial_images=2))
    finished = [event for event in events if event.type == "image_generation.completed"]
    assert len(finished) == 3
    assert len({event.b64_json for event in finished}) == 3


async def test_asynchronously(instant: ServedWorker) -> None:
    async with openai.AsyncOpenAI(base_url=f"{instant.url}/v1", api_key="unused", timeout=WAIT_S) as client:
        stream = await client.images.generate(prompt="x", stream=True, partial_images=1)
        assert [event.type async for event in stream] == [
            "image_generation.partial_image",
            "image_generation.completed",
        ]


def test_the_events_have_their_documented_fields(instant: ServedWorker) -> None:
    body = {"prompt": "x", "stream": True, "partial_images": 1}
    response = httpx.post(f"{instant.url}/v1/images/generations", json=body, timeout=WAIT_S)
    assert response.headers["content-type"].partition(";")[0] == "text/event-stream"
    assert response.headers["x-accel-buffering"] == "no"
    blocks = [block.split("\n") for block in response.text.split("\n\n")[:-1]]
    assert all([line.partition(": ")[0] for line in block] == ["event", "data"] for block in blocks)
    partial, finished = (json.loads(block[1].removeprefix("data: ")) for block in blocks)
    assert [block[0] for block in blocks] == [f"event: {data['type']}" for data in (partial, finished)]
    assert set(partial) == COMMON | {"partial_image_index"}
    assert set(finished) == COMMON | {"usage"}


def test_a_partial_picture_comes_while_the_job_runs(serve: Serve) -> None:
    runner = StepByStep(allowed=2)
    worker = serve(runner)
    with client_of(worker) as client:
        stream = client.images.generate(prompt="x", stream=True, partial_images=1)
        assert next(stream).type == "image_generation.partial_image"
        runner.allow_all()
        assert [event.type for event in stream] == ["image_generation.completed"]


def test_a_job_that_fails_ends_with_an_error(serve: Serve) -> None:
    worker = serve(FailsAtStep(3))
    with client_of(worker) as client, pytest.raises(openai.APIError) as failed:
        list(client.images.generate(prompt="x", stream=True, partial_images=1))
    assert failed.value.code == "engine_failed"
    assert failed.value.type == "server_error"
    assert not [leak for leak in LEAKS if leak in str(failed.value.body)]


def test_a_shutdown_ends_with_an_error(serve: Serve) -> None:
    worker = serve(Paced(0.02))
    with client_of(worker) as client:
        stream = client.images.generate(
            prompt="x", stream=True, partial_images=3, extra_body={"num_inference_steps": 150}
        )
        next(stream)
        worker.begin_shutdown()
        with pytest.raises(openai.APIError) as ended:
            list(stream)
    assert ended.value.code == "draining"
    assert worker.wait_stopped() == 0


@pytest.mark.parametrize("steps_first", [0, 2])
def test_a_reader_that_leaves_takes_its_job_along(serve: Serve, steps_first: int) -> None:
    runner = StepByStep(allowed=steps_first)
    worker = serve(runner)
    with client_of(worker) as client:
        stream = client.images.generate(
            prompt="x", stream=True, partial_images=3, extra_body={"num_inference_steps": 8 if steps_first else 150}
        )
        if steps_first:
            next(stream)
        stream.close()
    eventually_cancelled(worker, newest(worker)["job_id"])
    runner.allow_all()
    assert worker.finish()["status"] == "completed"


def test_what_is_refused_is_refused_before_the_stream(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError):
        client.images.generate(prompt="x", stream=True, size="65x64")
