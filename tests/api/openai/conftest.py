"""The `openai` package as its users have it, against a real worker on a real port."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest
from PIL import Image

from tests.conftest import eventually
from tests.fakes import StepByStep
from tests.serving import WAIT_S, ServedWorker


def client_of(worker: ServedWorker, api_key: str = "unused", retries: int = 0) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{worker.url}/v1", api_key=api_key, max_retries=retries, timeout=WAIT_S)


@pytest.fixture
def client(instant: ServedWorker) -> Iterator[openai.OpenAI]:
    with client_of(instant) as client:
        yield client


@pytest.fixture
def refusal(client: openai.OpenAI) -> Callable[..., openai.APIStatusError]:
    """What the package raises for a generation with these arguments."""

    def ask(**arguments: Any) -> openai.APIStatusError:
        with pytest.raises(openai.APIStatusError) as refused:
            client.images.generate(**{"prompt": "a red circle"} | arguments)
        return refused.value

    return ask


def picture(encoded: str | None) -> Image.Image:
    assert encoded is not None
    return Image.open(io.BytesIO(base64.b64decode(encoded, validate=True)))


def newest(worker: ServedWorker) -> dict[str, Any]:
    """The job that was posted last, as the worker's own API shows it."""
    job: dict[str, Any] = worker.client.get("/v1/jobs?limit=1").json()["jobs"][0]
    return job


def eventually_cancelled(worker: ServedWorker, job_id: str) -> None:
    """Let the job do single steps until its cancel has taken effect."""
    runner = worker.runner
    assert isinstance(runner, StepByStep)

    def step() -> bool:
        status = worker.job(job_id)["status"]
        if status == "running":
            runner.allow()
        return bool(status == "cancelled")

    eventually(step)
