"""What a client makes of refusals, the worker's own and those of whatever stands before it."""

from __future__ import annotations

import json

import httpx
import pytest

from worker.client.errors import FieldFault, refusal


def refused(status: int, body: object, **headers: str) -> tuple[object, ...]:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    error = refusal(status, httpx.Headers({name.replace("_", "-"): value for name, value in headers.items()}), content)
    return str(error), error.code, error.status, error.retriable, error.retry_after_s


def test_every_fault_is_in_one_line() -> None:
    problem = {
        "code": "invalid_request",
        "detail": "2 faults",
        "errors": [{"field": "steps", "message": "is too large"}, {"field": "seed", "message": "is negative"}],
    }
    told = "steps: is too large; seed: is negative (invalid_request, 422)"
    assert refused(422, problem) == (told, "invalid_request", 422, False, None)
    assert refusal(422, {}, json.dumps(problem).encode()).errors[1] == FieldFault("seed", "is negative")


def test_a_full_queue_says_when_to_come_back() -> None:
    problem = {"code": "queue_full", "detail": "The queue is full"}
    assert refused(429, problem, Retry_After="3") == ("The queue is full (queue_full, 429)", "queue_full", 429, True, 3)


@pytest.mark.parametrize("body", [b"<html>", b"\xff", b"[" * 100_000, b"[]", b"null", b'{"errors": [1, "2"]}'])
def test_answers_of_others_are_told_by_their_status(body: bytes) -> None:
    assert refused(502, body, Retry_After="Wed, 21 Oct 2026 07:28:00 GMT") == (
        *("HTTP 502 (http_502, 502)", "http_502", 502, True, None),
    )
