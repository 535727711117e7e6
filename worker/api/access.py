"""Who may come in: a bearer token on every route but the probes and the metrics, where tokens are set."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

from shared_worker.auth import Tokens
from worker.api.problems import problem
from worker.errors import Unauthorized

OPEN_PATHS = ("/health", "/ready", "/metrics")


class RequireToken:
    """ASGI middleware. Decides by the path of the request line alone: a Host header can say anything."""

    def __init__(self, app: ASGIApp, tokens: Tokens) -> None:
        self._app = app
        self._tokens = tokens

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or scope.get("path") in OPEN_PATHS or not self._tokens:
            await self._app(scope, receive, send)
            return
        headers = dict(scope.get("headers", ()))
        if self._tokens.accept(headers.get(b"authorization")):
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await problem(Unauthorized())(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1008})
