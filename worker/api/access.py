"""Who may come in: a bearer token on every route but the probes, the files of the studio's page, which hold nothing of
anybody's, and, unless they are guarded too, the metrics. Where there is no token, pages of other origins change
nothing: a browser sends some of their requests without asking first, and says so.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from starlette.types import ASGIApp, Receive, Scope, Send

from shared_worker.auth import Tokens
from worker.api.problems import refusal
from worker.api.readiness import HEALTH, METRICS, READY
from worker.errors import CrossSite, Unauthorized

READS = ("GET", "HEAD", "OPTIONS")


class RequireToken:
    """ASGI middleware. Decides by the path of the request line and, where there are no tokens, by what a browser says
    of the page that asks; never by a Host header, which can say anything."""

    def __init__(
        self, app: ASGIApp, tokens: Tokens, *, metrics_too: bool, page: Iterable[str], origins: Collection[str] = ()
    ) -> None:
        self._app = app
        self._tokens = tokens
        self._open = frozenset((HEALTH, READY, *page, *(() if metrics_too else (METRICS,))))
        """Whole paths, compared letter by letter."""
        self._origins = origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or scope.get("path") in self._open:
            await self._app(scope, receive, send)
            return
        headers = dict(scope.get("headers", ()))
        if not self._tokens:
            foreign = scope["type"] == "http" and self._is_foreign(scope["method"], headers)
            app = refusal(scope["path"], CrossSite()) if foreign else self._app
            await app(scope, receive, send)
            return
        if self._tokens.accept(headers.get(b"authorization")):
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await refusal(scope["path"], Unauthorized())(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1008})

    def _is_foreign(self, method: str, headers: Mapping[bytes, bytes]) -> bool:
        """Whether a browser says that a page from elsewhere asks for a change (Fetch Metadata Request Headers, W3C)."""
        elsewhere = headers.get(b"sec-fetch-site") in (b"cross-site", b"same-site")  # the latter at another port too
        if method in READS or not elsewhere or "*" in self._origins:
            return False
        return headers.get(b"origin", b"").decode("latin-1") not in self._origins
