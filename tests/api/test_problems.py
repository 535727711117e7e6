"""Refusals as problem+json; `tests.serving.check_refusal` looks at every one that any test gets."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable

import httpx
import pytest
from fastapi import FastAPI

from tests.fakes import SECRET
from tests.serving import LEAKS, PROMPT, ServedWorker
from worker.api import problems
from worker.errors import FieldFault, InvalidRequest, QueueFull


@pytest.mark.parametrize("path", ["/v2/jobs", "/v1/jobs/", "/v1/jobs/a/b", "/%00", "/" + "x" * 5000, "/../etc/passwd"])
def test_a_path_that_leads_nowhere(instant: ServedWorker, path: str) -> None:
    response = instant.client.get(path)
    assert (response.status_code, response.json()["code"]) == (404, "not_found")


@pytest.mark.parametrize(
    ("method", "path"),
    [("PUT", "/v1/jobs"), ("DELETE", "/v1/jobs"), ("POST", "/health"), ("PATCH", "/v1/jobs/x"), ("X", "/v1/info")],
)
def test_a_method_that_is_not_there(instant: ServedWorker, method: str, path: str) -> None:
    response = instant.client.request(method, path)
    assert (response.status_code, response.json()["code"]) == (405, "method_not_allowed")
    assert response.headers["allow"]


@pytest.mark.parametrize(
    ("path", "methods"),
    [
        ("/v1/jobs", "GET, HEAD, POST"),
        ("/v1/jobs/x", "GET, HEAD, DELETE"),
        ("/v1/jobs/x/stream", "GET"),
        ("/v1/jobs/x/images/0", "GET, HEAD"),
        ("/v1/images/generations", "POST"),
        ("/", "GET, HEAD"),
    ],
)
def test_all_methods_that_are_there_are_told(instant: ServedWorker, path: str, methods: str) -> None:
    refused = httpx.put(instant.url + path)
    assert (refused.status_code, refused.headers["allow"]) == (405, methods)


def test_what_can_be_got_has_a_head(instant: ServedWorker) -> None:
    job = instant.finish()["job_id"]
    for path in (
        "/health",
        "/ready",
        "/metrics",
        "/v1/info",
        "/v1/jobs",
        f"/v1/jobs/{job}",
        "/v1/models",
        "/v1/models/fake",
    ):
        head, whole = instant.client.head(path), instant.client.get(path)
        assert (head.status_code, head.content) == (200, b""), path
        assert head.headers["content-type"] == whole.headers["content-type"]
        assert int(head.headers["content-length"]) > 0


def test_a_problem_holds_what_rfc_9457_and_the_contract_name(instant: ServedWorker) -> None:
    assert instant.try_post(steps=0).json() == {
        "type": "urn:sd-worker:invalid_request",
        "title": "The request is not valid",
        "status": 422,
        "detail": "steps: Input should be greater than or equal to 1",
        "code": "invalid_request",
        "errors": [{"field": "steps", "message": "Input should be greater than or equal to 1"}],
    }


def test_headers_of_an_error_are_sent() -> None:
    assert problems.problem(QueueFull(7)).headers["retry-after"] == "7"


def test_a_detail_is_short() -> None:
    error = InvalidRequest(*(FieldFault("field", "message " * 20) for _ in range(100)))
    assert len(error.detail) <= 1000


async def test_the_unforeseen_is_a_500_that_tells_nothing(caplog: pytest.LogCaptureFixture) -> None:
    app = FastAPI()
    problems.install(app)

    @app.get("/")
    async def fail() -> None:
        raise RuntimeError(SECRET + PROMPT)

    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        with caplog.at_level(logging.ERROR):
            response = await client.get("/")
    assert (response.status_code, response.json()["code"]) == (500, "internal_error")
    assert response.headers["content-type"] == "application/problem+json"
    assert not [leak for leak in LEAKS if leak in response.text]
    assert "unexpected error" in caplog.text


def test_a_client_that_leaves_in_the_middle_of_its_body_is_no_error(
    serve: Callable[..., ServedWorker], caplog: pytest.LogCaptureFixture
) -> None:
    worker = serve()
    for body in (b'{"prompt": ', b""):
        with socket.create_connection(("127.0.0.1", worker.port), timeout=10) as connection:
            head = b"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n"
            connection.sendall(head + body)
    worker.leave()
    worker.wait_stopped()  # which it does once every request was dealt with
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


@pytest.mark.parametrize(
    "request_line",
    [
        "GET",
        "\x00\x01",
        "GET / HTTP/1.1\r\nX: " + "x" * 100_000,
        "POST /v1/jobs HTTP/1.1\r\nContent-Length: -1",
    ],
    ids=["short", "binary", "large header", "negative length"],
)
def test_what_is_no_http_is_refused_without_a_word_too_many(instant: ServedWorker, request_line: str) -> None:
    with socket.create_connection(("127.0.0.1", instant.port), timeout=10) as connection:
        connection.sendall(request_line.encode() + b"\r\n\r\n")
        answer = connection.makefile("rb").read().decode()
    assert answer.startswith("HTTP/1.1 4")
    assert not [leak for leak in LEAKS if leak in answer]
    assert instant.client.get("/health").status_code == 200
