"""Who may come in: a bearer token on every route but the probes, the files of the studio's page, which hold nothing of
anybody's, and, unless they are guarded too, the metrics.
"""

from __future__ import annotations

from collections.abc import Iterable

from starlette.types import ASGIApp, Receive, Scope, Send

from shared_worker.auth import Tokens
from worker.api.problems import refusal
from worker.api.readiness import HEALTH, READY
from worker.errors import Unauthorized

METRICS = "/metrics"


class RequireToken:
    """ASGI middleware. Decides by the path of the request line alone: a Host header can say anything."""

    def __init__(self, app: ASGIApp, tokens: Tokens, *, metrics_too: bool, page: Iterable[str]) -> None:
        self._app = app
        self._tokens = tokens
        self._open = frozenset((HEALTH, READY, *page, *(() if metrics_too else (METRICS,))))
        """Whole paths, compared letter by letter."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or scope.get("path") in self._open or not self._tokens:
            await self._app(scope, receive, send)
            return
        headers = dict(scope.get("headers", ()))
        if self._tokens.accept(headers.get(b"authorization")):
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await refusal(scope["path"], Unauthorized())(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1008})
