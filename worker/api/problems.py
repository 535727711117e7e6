"""Errors as `application/problem+json` (RFC 9457), or as the API that was asked has them: no traceback, path, address
or prompt ever goes out."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from starlette.exceptions import HTTPException
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Match

from worker.api.openai.errors import openai_error, speaks_openai
from worker.errors import InternalError, MalformedBody, MethodNotAllowed, RequestError, RouteNotFound

if TYPE_CHECKING:
    from fastapi import FastAPI  # refusals are also told before it is imported

METHODS = ("GET", "HEAD", "POST", "DELETE")
logger = logging.getLogger(__name__)


def problem(error: RequestError) -> Response:
    """The answer to a request that is refused."""
    return JSONResponse(
        {
            "type": f"urn:sd-worker:{error.code}",
            "title": error.title(),
            "status": error.status,
            "detail": error.detail,
            "code": error.code,
            "errors": [{"field": fault.field, "message": fault.message} for fault in error.errors],
        },
        status_code=error.status,
        headers=error.headers,
        media_type="application/problem+json",
    )


def refusal(path: str, error: RequestError) -> Response:
    """The same in the words of whatever is asked for by `path`."""
    return openai_error(error) if speaks_openai(path) else problem(error)


def _answers(request: Request, method: str) -> bool:
    """Whether what a request asks for would be there by this method, which the route that refuses it cannot know."""
    scope = {**request.scope, "method": method}
    return any(route.matches(scope)[0] is Match.FULL for route in request.app.routes)


def install(app: FastAPI) -> None:
    """Answer every error of `app` this way."""

    async def on_request_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestError)
        return refusal(request.scope["path"], error)

    async def on_http_exception(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        match error.status_code:
            case 404:
                return refusal(request.scope["path"], RouteNotFound())
            case 405:
                refused = MethodNotAllowed()
                refused.headers = {"Allow": ", ".join(filter(lambda method: _answers(request, method), METHODS))}
                return refusal(request.scope["path"], refused)
            case _:
                return refusal(request.scope["path"], InternalError())

    async def on_disconnect(request: Request, error: Exception) -> Response:
        return refusal(request.scope["path"], MalformedBody("The client left before its body was complete"))

    async def on_anything_else(request: Request, error: Exception) -> Response:
        logger.error("unexpected error while answering", exc_info=error)
        return refusal(request.scope["path"], InternalError())

    app.add_exception_handler(RequestError, on_request_error)
    app.add_exception_handler(HTTPException, on_http_exception)
    app.add_exception_handler(ClientDisconnect, on_disconnect)
    app.add_exception_handler(Exception, on_anything_else)
    # That one stands outside of all middleware; within, the answer gets the headers that every answer has.
    app.add_middleware(ExceptionMiddleware, handlers={Exception: on_anything_else})
