"""Refusals in the shape that clients of the OpenAI API understand; knows no request but its path."""

from __future__ import annotations

from typing import Any

from starlette.responses import JSONResponse, Response

from worker.errors import ModelMismatch, QueueFull, RequestError, Unauthorized

Json = dict[str, Any]
CODES = {
    Unauthorized.code: "invalid_api_key",
    ModelMismatch.code: "model_not_found",
    QueueFull.code: "rate_limit_exceeded",
}
"""Where that API has a word of its own; all others are the worker's."""
RETRIED = (408, 409, 429)
"""Statuses below 500 after which that API's clients try again unless they are told not to."""


def speaks_openai(path: str) -> bool:
    """Whether what is asked for by `path` belongs to this API."""
    return path.startswith(("/v1/images/", "/v1/models/")) or path in ("/v1/images", "/v1/models")


def error_json(error: RequestError) -> Json:
    """The object under `error`."""
    return {
        "message": error.detail,
        "type": _type_of(error),
        "param": "model" if isinstance(error, ModelMismatch) else _first_field(error),
        "code": CODES.get(error.code, error.code),
    }


def openai_error(error: RequestError) -> Response:
    """The answer to a request that is refused. `x-should-retry` is what those clients look at before they repeat it."""
    status = status_of(error)
    headers = dict(error.headers)
    if status in RETRIED or status >= 500:
        headers["x-should-retry"] = str(error.retriable).lower()
    return JSONResponse({"error": error_json(error)}, status_code=status, headers=headers)


def status_of(error: RequestError) -> int:
    """The status that this API has for it."""
    if isinstance(error, ModelMismatch):
        return 404
    return 400 if error.status == 422 else error.status


def _type_of(error: RequestError) -> str:
    if error.status == QueueFull.status:
        return "rate_limit_error"
    return "server_error" if error.status >= 500 else "invalid_request_error"


def _first_field(error: RequestError) -> str | None:
    field = error.errors[0].field if error.errors else None
    return None if field == "body" else field
