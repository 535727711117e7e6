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
from worker.jobs.facts import EmbeddingFacts, LoraFacts
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


def fits(value: object, schema: dict[str, Any], document: dict[str, Any]) -> None:
    """References are to `document`."""
    jsonschema_rs.validate({"components": document["components"]} | schema, value)


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
        assert "traceparent" in [one["name"] for one in operation["parameters"]], name
        for example in shown["examples"].values():
            fits(example["value"], shown["schema"], document)
            method, path = name.split()
            answer = worker.client.request(method, path, json=example["value"])
            assert answer.status_code in (200, 202), (name, example["summary"], answer.text)
            told = operation["responses"][str(answer.status_code)]["content"]
            media_type = answer.headers["content-type"].partition(";")[0]
            fits(
                answer.json() if media_type == "application/json" else answer.text, told[media_type]["schema"], document
            )
            tried += 1
    assert tried >= 7


def test_a_job_is_what_the_document_says(instant: ServedWorker, document: dict[str, Any]) -> None:
    found = operations(document)

    def schema(name: str, status: str) -> dict[str, Any]:
        shown: dict[str, Any] = found[name]["responses"][status]["content"]["application/json"]["schema"]
        return shown

    posted = instant.client.post("/v1/jobs", json={"prompt": "x", "labels": {"a": "b"}}).json()
    fits(posted, schema("POST /v1/jobs", "202"), document)
    with instant.client.stream("GET", posted["sse_url"]) as stream:
        assert list(events_of(stream))[-1].name == "completed"
    path = f"/v1/jobs/{posted['job_id']}"
    fits(instant.client.get(path).json(), schema("GET /v1/jobs/{job_id}", "200"), document)
    fits(instant.client.delete(path).json(), schema("DELETE /v1/jobs/{job_id}", "200"), document)
    fits(instant.client.get("/v1/jobs").json(), schema("GET /v1/jobs", "200"), document)


def test_a_refusal_is_what_the_document_says(instant: ServedWorker, document: dict[str, Any]) -> None:
    shown = operations(document)["POST /v1/jobs"]["responses"]["4XX"]["content"]["application/problem+json"]["schema"]
    fits(instant.client.post("/v1/jobs", json={"steps": 0}).json(), shown, document)


def test_refusals_of_other_apis_are_what_the_document_says(serve: Callable[..., ServedWorker]) -> None:
    worker = serve(sdapi=True)
    document = worker.client.get("/openapi.json").json()
    found = operations(document)
    for path in ("/v1/images/generations", "/sdapi/v1/txt2img"):
        answer = httpx.post(worker.url + path, json={"prompt": 1}, trust_env=False)
        content = found[f"POST {path}"]["responses"]["4XX"]["content"]
        fits(answer.json(), content[answer.headers["content-type"]]["schema"], document)


def test_answers_of_other_apis_are_what_the_document_says(serve: Callable[..., ServedWorker]) -> None:
    embeddings = (EmbeddingFacts("fits", 2, fits=True), EmbeddingFacts("other", 3, fits=False))
    loras = (LoraFacts("ink", ("inked",), None, fits=True, reason=None, size_bytes=9),)
    worker = serve(sdapi=True, facts=replace(FACTS, embeddings=embeddings, loras=loras))
    document, seen = worker.client.get("/openapi.json").json(), 0
    for name, operation in operations(document).items():
        method, path = name.split()
        if path.startswith(("/sdapi/", "/v1/models")) and "requestBody" not in operation:
            answer = worker.client.request(method, path.replace("{model_id}", FACTS.id))
            schema = operation["responses"]["200"]["content"]["application/json"]["schema"]
            fits(answer.json(), schema, document)
            for other in ({"more": 1}, [{"more": 1}]):
                with pytest.raises(jsonschema_rs.ValidationError):
                    fits(other, schema, document)
            seen += 1
    assert seen == 12


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
    data, schema = event_data("job_1", event, inline=inline), document["components"]["schemas"]["JobEvent"]
    fits(data, schema, document)
    fits(data, event_schema(data["type"]), document)
    with pytest.raises(jsonschema_rs.ValidationError):
        fits(data | {"more": 1}, schema, document)


def test_every_event_is_in_the_document(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    named = [schemas[one["$ref"].rpartition("/")[2]] for one in schemas["JobEvent"]["oneOf"]]
    shown = {one["properties"]["type"]["const"] for one in named}
    assert shown == set(EVENTS) == {event_data("j", event)["type"] for event in EVERY}


def test_a_stream_is_text_whose_data_are_events(instant: ServedWorker, document: dict[str, Any]) -> None:
    content = operations(document)["GET /v1/jobs/{job_id}/stream"]["responses"]["200"]["content"]["text/event-stream"]
    assert "JobEvent" in content["schema"]["description"]
    streamed = instant.client.get(instant.finish()["sse_url"]).text
    fits(streamed, content["schema"], document)
    for text in (content["example"], streamed):
        blocks = text.strip().split("\n\n")
        assert len(blocks) >= 3
        for block in blocks:
            event = json.loads(block.rpartition("data: ")[2])
            fits(event, document["components"]["schemas"]["JobEvent"], document)


def test_a_form_says_no_null_and_what_a_body_holds_has_one_name(document: dict[str, Any]) -> None:
    content = operations(document)["POST /v1/images/edits"]["requestBody"]["content"]
    form = content["multipart/form-data"]["schema"]
    assert '"null"' not in json.dumps(form)
    assert form["properties"]["n"] == {
        "type": "integer",
        "minimum": 1,
        "maximum": 8,
        "title": "N",
        "description": "how many pictures; picture k uses seed + k",
    }
    assert form["required"] == ["prompt", "image"]
    assert "style" not in form["properties"]
    reference = {"$ref": "#/components/schemas/ImageReference"}
    fields = content["application/json"]["schema"]["properties"]
    assert reference in fields["mask"]["anyOf"]
    assert fields["images"]["anyOf"][0]["items"] == reference


def test_parameters_are_bounded_as_they_are_judged(instant: ServedWorker, document: dict[str, Any]) -> None:
    found = operations(document)

    def judged(name: str, parameter: str, **values: int) -> None:
        (shown,) = [one for one in found[name]["parameters"] if one["name"] == parameter]
        method, path = name.split()
        path = path.replace("{job_id}", job_id)
        for value, status in values.items():
            where = {"headers": {parameter: value}} if shown["in"] == "header" else {"params": {parameter: value}}
            body = {"json": {"prompt": "x"}} if method == "POST" else {}
            assert instant.client.request(method, path, **where, **body).status_code == status, value
            assert jsonschema_rs.is_valid(shown["schema"], value) == (status < 400), value

    job_id = instant.finish()["job_id"]
    judged("POST /v1/jobs", "Idempotency-Key", **{"": 422, "k": 202, "k" * 255: 202, "k" * 256: 422})
    for parameter in ("Last-Event-ID", "last_event_id"):
        judged("GET /v1/jobs/{job_id}/stream", parameter, **{"": 200, "1": 200, "9" * 18: 204, "9" * 19: 422, "x": 422})


def test_a_front_ends_body_is_bounded_as_it_is_judged(serve: Callable[..., ServedWorker]) -> None:
    document = serve(sdapi=True).client.get("/openapi.json").json()
    schema = operations(document)["POST /sdapi/v1/img2img"]["requestBody"]["content"]["application/json"]["schema"]
    fits({"prompt": "x", "init_images": ["x"]}, schema, document)
    for images in ([], [""], ["x", "y"]):
        with pytest.raises(jsonschema_rs.ValidationError):
            fits({"prompt": "x", "init_images": images}, schema, document)
    for side in ("width", "height"):
        assert "multiple" in schema["properties"][side]["description"]
