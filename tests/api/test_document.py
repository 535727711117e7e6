"""The OpenAPI document: every operation is told in words, its examples work, and what comes is what it says."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import httpx
import jsonschema_rs
import pytest

from tests.fakes import FACTS
from tests.serving import ServedWorker, events_of
from worker.api.document import EVENTS, event_schema
from worker.api.wire import event_data
from worker.jobs.events import (
    Cancelled,
    CancelReason,
    Completed,
    Event,
    Failed,
    Image,
    Preview,
    Progress,
    Queued,
    Started,
    Timings,
)
from worker.jobs.params import ImageFormat, Task

PICTURE = Image(0, 7, 64, 64, ImageFormat.PNG, b"png")
EVERY: list[Event] = [
    Queued(0, None),
    Started(1),
    Progress(1, 3, 0.5),
    Preview(1, 3, 32, 32, ImageFormat.WEBP, b"webp"),
    Completed((PICTURE,), Timings(0.1), ("cut",)),
    Failed("nan_output", "words", False),
    Cancelled(CancelReason.TIMEOUT),
]


def fits(value: object, schema: dict[str, Any]) -> None:
    jsonschema_rs.validate(schema, value)


@pytest.fixture
def document(instant: ServedWorker) -> dict[str, Any]:
    found: dict[str, Any] = instant.client.get("/openapi.json").json()
    return found


def operations(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """By method and path."""
    return {
        f"{method.upper()} {path}": operation
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }


def test_every_operation_is_told_in_words(document: dict[str, Any]) -> None:
    found = operations(document)
    assert len(found) >= 14
    for name, operation in found.items():
        assert operation["summary"], name
        assert operation["description"], name
        assert all(response["description"] for response in operation["responses"].values()), name


def test_every_json_body_has_examples_that_are_taken(serve: Callable[..., ServedWorker]) -> None:
    worker = serve(facts=replace(FACTS, tasks=tuple(Task)), sdapi=True)
    document, tried = worker.client.get("/openapi.json").json(), 0
    for name, operation in operations(document).items():
        content = operation.get("requestBody", {}).get("content", {})
        if not content:
            continue
        shown = content["application/json"]
        assert shown["examples"], name
        for example in shown["examples"].values():
            fits(example["value"], shown["schema"])
            method, path = name.split()
            answer = worker.client.request(method, path, json=example["value"])
            assert answer.status_code in (200, 202), (name, example["summary"], answer.text)
            tried += 1
    assert tried >= 7


def test_a_job_is_what_the_document_says(instant: ServedWorker, document: dict[str, Any]) -> None:
    found = operations(document)

    def schema(name: str, status: str) -> dict[str, Any]:
        shown: dict[str, Any] = found[name]["responses"][status]["content"]["application/json"]["schema"]
        return shown

    posted = instant.client.post("/v1/jobs", json={"prompt": "x", "labels": {"a": "b"}}).json()
    fits(posted, schema("POST /v1/jobs", "202"))
    with instant.client.stream("GET", posted["sse_url"]) as stream:
        assert list(events_of(stream))[-1].name == "completed"
    path = f"/v1/jobs/{posted['job_id']}"
    fits(instant.client.get(path).json(), schema("GET /v1/jobs/{job_id}", "200"))
    fits(instant.client.delete(path).json(), schema("DELETE /v1/jobs/{job_id}", "200"))
    fits(instant.client.get("/v1/jobs").json(), schema("GET /v1/jobs", "200"))


def test_a_refusal_is_what_the_document_says(instant: ServedWorker, document: dict[str, Any]) -> None:
    shown = operations(document)["POST /v1/jobs"]["responses"]["4XX"]["content"]["application/problem+json"]["schema"]
    fits(instant.client.post("/v1/jobs", json={"steps": 0}).json(), shown)


def test_refusals_of_other_apis_are_what_the_document_says(serve: Callable[..., ServedWorker]) -> None:
    worker = serve(sdapi=True)
    found = operations(worker.client.get("/openapi.json").json())
    for path in ("/v1/images/generations", "/sdapi/v1/txt2img"):
        answer = httpx.post(worker.url + path, json={"prompt": 1}, trust_env=False)
        content = found[f"POST {path}"]["responses"]["4XX"]["content"]
        fits(answer.json(), content[answer.headers["content-type"]]["schema"])


def test_the_document_names_every_kind_of_answer(document: dict[str, Any]) -> None:
    found = {name: set(operation["responses"]) for name, operation in operations(document).items()}
    picture = found["GET /v1/jobs/{job_id}/images/{index}"]
    assert picture == {"200", "206", "304", "4XX", "5XX"}
    assert found["GET /health"] == found["GET /ready"] == {"200", "503"}
    assert {"4XX", "5XX"} <= found["POST /v1/jobs"]
    assert "HTTPValidationError" not in json.dumps(document), "the framework's own, which is never sent"


@pytest.mark.parametrize("inline", [False, True])
@pytest.mark.parametrize("event", EVERY, ids=lambda event: type(event).__name__)
def test_every_event_is_what_the_document_says(document: dict[str, Any], event: Event, inline: bool) -> None:
    content = operations(document)["GET /v1/jobs/{job_id}/stream"]["responses"]["200"]["content"]
    data = event_data("job_1", event, inline=inline)
    fits(data, content["text/event-stream"]["schema"])
    fits(data, event_schema(data["type"]))
    with pytest.raises(jsonschema_rs.ValidationError):
        fits(data | {"more": 1}, content["text/event-stream"]["schema"])


def test_every_event_is_in_the_document(document: dict[str, Any]) -> None:
    content = operations(document)["GET /v1/jobs/{job_id}/stream"]["responses"]["200"]["content"]["text/event-stream"]
    shown = {one["properties"]["type"]["const"] for one in content["schema"]["oneOf"]}
    assert shown == set(EVENTS) == {event_data("j", event)["type"] for event in EVERY}
    for block in content["example"].strip().split("\n\n"):
        fits(json.loads(block.rpartition("data: ")[2]), content["schema"])
