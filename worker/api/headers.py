"""Headers that every answer has, so that a browser takes nothing for what it is not."""

from __future__ import annotations

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

EVERYWHERE = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Resource-Policy": "same-origin",
}
NO_STORE = "no-store"
"""For whatever says nothing else: answers hold prompts."""
NOTHING = "default-src 'none'; frame-ancestors 'none'"
PAGES = ("/docs", "/redoc")
"""Pages load scripts and styles; everything else is data."""


class SecurityHeaders:
    """ASGI middleware. What a route sets itself stays. With CORS configured, other origins may read what they get."""

    def __init__(self, app: ASGIApp, *, other_origins: bool) -> None:
        self._app = app
        self._headers = {
            name: value
            for name, value in EVERYWHERE.items()
            if not (other_origins and name == "Cross-Origin-Resource-Policy")
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in self._headers.items():
                    headers.setdefault(name, value)
                headers.setdefault("Cache-Control", NO_STORE)
                if scope["path"] not in PAGES:
                    headers.setdefault("Content-Security-Policy", NOTHING)
            await send(message)

        await self._app(scope, receive, send_with_headers)
