"""Pictures by the `openai` package: what is asked for is what the one queue draws."""

from __future__ import annotations

import base64
import concurrent.futures
from collections.abc import Callable

import httpx
import openai
import pytest

from tests.api.openai.conftest import client_of, eventually_cancelled, newest, picture
from tests.conftest import eventually
from tests.fakes import LIMITS, FailsAtStep, FailsToDecode, OutOfMemory, Paced, StepByStep
from tests.serving import LEAKS, WAIT_S, ServedWorker, smaller
from worker import errors

Serve = Callable[..., ServedWorker]
Refusal = Callable[..., openai.APIStatusError]


def test_every_field_reaches_the_job(instant: ServedWorker, client: openai.OpenAI) -> None:
    answer = client.images.generate(
        prompt="a blue square",
        model="fake",
        n=2,
        size="128x64",
        quality="auto",
        background="opaque",
        moderation="low",
        output_format="webp",
        output_compression=40,
        response_format="b64_json",
        user="somebody",
        extra_body={
            "negative_prompt": "red",
            "num_inference_steps": 6,
            "guidance_scale": 2.5,
            "seed": 11,
            "sampler": "ddim",
        },
    )
    job = newest(instant)
    assert job["job_id"] == answer._request_id
    params = job["params"]
    asked = {name: params[name] for name in ("prompt", "negative_prompt", "width", "height", "steps", "guidance_scale")}
    assert asked == {
        "prompt": "a blue square",
        "negative_prompt": "red",
        "width": 128,
        "height": 64,
        "steps": 6,
        "guidance_scale": 2.5,
    }
    assert (params["seed"], params["num_images"], params["sampler"]) == (11, 2, "ddim")
    assert params["output"] == {"format": "webp", "quality": 40, "inline": False, "metadata": True}
    assert job["labels"] == {"user": "somebody"}
    assert answer.data is not None
    for index, one in enumerate(answer.data):
        drawn = picture(one.b64_json)
        assert (drawn.format, drawn.size) == ("WEBP", (128, 64))
        assert one.b64_json is not None
        fetched = instant.client.get(f"/v1/jobs/{answer._request_id}/images/{index}")
        assert fetched.content == base64.b64decode(one.b64_json)
    assert (answer.size, answer.output_format, answer.background) == ("128x64", "webp", "opaque")
    assert answer.safety_identifier == "somebody"


def test_what_is_left_out_is_the_models(instant: ServedWorker, client: openai.OpenAI) -> None:
    answer = client.images.generate(prompt="x", size="auto", n=None, extra_body={"seed": None})
    params = newest(instant)["params"]
    assert (params["width"], params["height"], params["steps"], params["sampler"]) == (64, 64, 4, "euler")
    assert answer.data is not None
    assert picture(answer.data[0].b64_json).format == "PNG"


def test_a_link_can_be_fetched(client: openai.OpenAI) -> None:
    answer = client.images.generate(prompt="x", n=2, response_format="url", output_format="jpeg")
    assert answer.data is not None
    for one in answer.data:
        assert one.url is not None
        assert one.b64_json is None
        fetched = httpx.get(one.url, timeout=WAIT_S)
        assert (fetched.status_code, fetched.headers["content-type"]) == (200, "image/jpeg")


def test_usage_grows_with_what_was_asked_and_drawn(client: openai.OpenAI) -> None:
    small = client.images.generate(prompt="two words").usage
    large = client.images.generate(prompt="three words, now", n=3, size="128x64").usage
    assert small is not None
    assert large is not None
    assert (small.input_tokens, small.output_tokens, small.total_tokens) == (2, 64, 66)
    assert (large.input_tokens, large.output_tokens, large.total_tokens) == (4, 3 * 128, 388)


def test_the_model_is_the_one_that_is_loaded(client: openai.OpenAI) -> None:
    (model,) = client.models.list().data
    assert (model.id, model.object, model.owned_by) == ("fake", "model", "sd-worker")
    assert client.models.retrieve("fake") == model
    for name in ("gpt-image-1", "a/b", "fake/", "FAKE"):
        with pytest.raises(openai.NotFoundError) as missing:
            client.models.retrieve(name)
        assert (missing.value.code, missing.value.param) == ("model_not_found", "model")


async def test_asynchronously(instant: ServedWorker) -> None:
    async with openai.AsyncOpenAI(base_url=f"{instant.url}/v1", api_key="unused", timeout=WAIT_S) as client:
        answer = await client.images.generate(prompt="x", n=2)
        assert answer.data is not None
        assert [picture(one.b64_json).size for one in answer.data] == [(64, 64)] * 2
        assert [model.id async for model in client.models.list()] == ["fake"]


@pytest.mark.parametrize(
    ("arguments", "param"),
    [
        ({"prompt": ""}, "prompt"),
        ({"prompt": "\x00"}, "prompt"),
        ({"prompt": "x" * 4001}, "prompt"),
        ({"size": "64"}, "size"),
        ({"size": "65x64"}, "size"),
        ({"size": "4096x64"}, "size"),
        ({"size": "64x64\n"}, "size"),
        ({"n": 0}, "n"),
        ({"n": 9}, "n"),
        ({"quality": "high"}, "quality"),
        ({"background": "transparent"}, "background"),
        ({"style": "vivid"}, "style"),
        ({"output_format": "gif"}, "output_format"),
        ({"output_compression": 101, "output_format": "webp"}, "output_compression"),
        ({"output_compression": 50}, "output_compression"),
        ({"partial_images": 1}, "partial_images"),
        ({"partial_images": 4, "stream": True}, "partial_images"),
        ({"response_format": "url", "stream": True}, "response_format"),
        ({"user": "x" * 201}, "user"),
        ({"extra_body": {"seed": 2**63}}, "seed"),
        ({"extra_body": {"seed": True}}, "seed"),
        ({"extra_body": {"num_inference_steps": 151}}, "num_inference_steps"),
        ({"extra_body": {"guidance_scale": 31}}, "guidance_scale"),
        ({"extra_body": {"sampler": "magic"}}, "sampler"),
        ({"extra_body": {"steps": 3}}, "steps"),
        ({"extra_body": {"image": "x"}}, "image"),
        ({"complexity": "high"}, "complexity"),
    ],
    ids=str,
)
def test_what_cannot_be_honoured_is_refused_by_its_name(
    refusal: Refusal, arguments: dict[str, object], param: str
) -> None:
    refused = refusal(**arguments)
    assert isinstance(refused, openai.BadRequestError)
    assert (refused.type, refused.param, refused.code) == ("invalid_request_error", param, "invalid_request")
    assert refused.body
    assert not [leak for leak in LEAKS if leak in refused.response.text]


def test_all_faults_are_told_at_once(refusal: Refusal) -> None:
    told = refusal(n=9, size="7", background="transparent").message
    assert all(name in told for name in ("n:", "size:", "background:"))


def test_what_is_at_odds_hides_nothing_else(refusal: Refusal) -> None:
    told = str(refusal(n=2, size="65x64", extra_body={"partial_images": 1}).body)
    assert "partial_images: needs stream" in told
    assert "size: " in told


def test_another_model_is_not_found(refusal: Refusal) -> None:
    refused = refusal(model="gpt-image-1")
    assert isinstance(refused, openai.NotFoundError)
    assert (refused.code, refused.param) == ("model_not_found", "model")


@pytest.mark.parametrize(
    ("content", "content_type", "status"),
    [
        (b"{", "application/json", 400),
        (b"[]", "application/json", 400),
        (b'{"prompt": NaN}', "application/json", 400),
        (b'{"prompt": "\\ud800"}', "application/json", 400),
        (b"prompt=x", "application/x-www-form-urlencoded", 415),
        (b'{"prompt": "' + b"x" * LIMITS.text_body_bytes + b'"}', "application/json", 413),
    ],
)
def test_crooked_bodies_in_this_apis_shape(
    instant: ServedWorker, content: bytes, content_type: str, status: int
) -> None:
    response = httpx.post(
        f"{instant.url}/v1/images/generations",
        content=content,
        headers={"Content-Type": content_type},
        timeout=WAIT_S,
    )
    assert response.status_code == status
    assert set(response.json()["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/images/generations", 405),
        ("POST", "/v1/images/variations", 404),
        ("DELETE", "/v1/models/fake", 405),
    ],
)
def test_what_is_not_there_in_this_apis_shape(instant: ServedWorker, method: str, path: str, status: int) -> None:
    response = httpx.request(method, f"{instant.url}{path}")
    assert response.status_code == status
    assert set(response.json()) == {"error"}


def test_the_token_is_the_api_key(serve: Serve) -> None:
    worker = serve(tokens=["secret"])
    with client_of(worker, "secret") as client:
        assert client.images.generate(prompt="x").data
    with client_of(worker, "another") as client, pytest.raises(openai.AuthenticationError) as refused:
        client.images.generate(prompt="x")
    assert (refused.value.code, refused.value.type) == ("invalid_api_key", "invalid_request_error")
    assert refused.value.response.headers["www-authenticate"] == "Bearer"


def test_a_full_queue_says_when_to_come_back(serve: Serve) -> None:
    worker = serve(StepByStep(), limits=smaller(queue_capacity=1), max_rows=2)
    worker.post()
    worker.runner.wait_for_calls(1)
    while worker.try_post().status_code == 202:
        pass
    with client_of(worker) as client, pytest.raises(openai.RateLimitError) as refused:
        client.images.generate(prompt="x")
    assert (refused.value.code, refused.value.type) == ("rate_limit_exceeded", "rate_limit_error")
    assert int(refused.value.response.headers["retry-after"]) >= 1
    assert refused.value.response.headers["x-should-retry"] == "true"


def test_a_worker_that_shuts_down_says_so(serve: Serve) -> None:
    runner = StepByStep()
    worker = serve(runner, drain_s=10)
    job_id = worker.post()["job_id"]
    runner.wait_for_calls(1)
    worker.begin_shutdown()
    with client_of(worker) as client, pytest.raises(openai.InternalServerError) as refused:
        client.images.generate(prompt="x")
    assert (refused.value.status_code, refused.value.code) == (503, "draining")
    runner.allow_all()
    worker.stream(job_id)


@pytest.mark.parametrize(
    ("runner", "status", "code", "again"),
    [
        (FailsAtStep(2), 503, "engine_failed", "true"),
        (OutOfMemory(1), 500, "out_of_memory", "false"),
        (FailsToDecode(), 500, "nan_output", "false"),
        (FailsAtStep(1, error=errors.InvalidInput()), 400, "invalid_input", None),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_a_job_that_fails_is_an_error(serve: Serve, runner: object, status: int, code: str, again: str | None) -> None:
    worker = serve(runner)
    with client_of(worker) as client, pytest.raises(openai.APIStatusError) as failed:
        client.images.generate(prompt="x")
    assert (failed.value.status_code, failed.value.code) == (status, code)
    assert failed.value.response.headers.get("x-should-retry") == again
    assert not [leak for leak in LEAKS if leak in failed.value.response.text]


def test_a_client_that_leaves_takes_its_job_along(serve: Serve) -> None:
    runner = StepByStep()
    worker = serve(runner)
    with client_of(worker) as client, pytest.raises(openai.APITimeoutError):
        client.with_options(timeout=2.0).images.generate(prompt="x", extra_body={"num_inference_steps": 150})
    eventually_cancelled(worker, newest(worker)["job_id"])
    runner.allow_all()
    assert worker.finish()["status"] == "completed"


def test_a_job_that_somebody_cancels_is_an_error(serve: Serve) -> None:
    worker = serve(StepByStep())
    with client_of(worker) as client, concurrent.futures.ThreadPoolExecutor(1) as pool:
        asked = pool.submit(client.images.generate, prompt="x", extra_body={"num_inference_steps": 150})
        eventually(lambda: worker.client.get("/v1/jobs").json()["jobs"])
        job_id = newest(worker)["job_id"]
        worker.client.delete(f"/v1/jobs/{job_id}")
        eventually_cancelled(worker, job_id)
        with pytest.raises(openai.ConflictError) as cancelled:
            asked.result(WAIT_S)
    assert cancelled.value.code == "job_cancelled"
    assert cancelled.value.response.headers["x-should-retry"] == "false"


def test_a_job_that_the_shutdown_ends_is_an_error(serve: Serve) -> None:
    worker = serve(Paced(0.02))
    with client_of(worker) as client, concurrent.futures.ThreadPoolExecutor(1) as pool:
        asked = pool.submit(client.images.generate, prompt="x", extra_body={"num_inference_steps": 150})
        eventually(lambda: worker.client.get("/v1/jobs").json()["jobs"])
        worker.begin_shutdown()
        with pytest.raises(openai.InternalServerError) as ended:
            asked.result(WAIT_S)
    assert (ended.value.status_code, ended.value.code) == (503, "draining")
    assert ended.value.response.headers["x-should-retry"] == "true"
