"""What stands at the open port from the first moment on, while all behind it is still being imported and read."""

from __future__ import annotations

import asyncio

from starlette.types import ASGIApp, Receive, Scope, Send

from worker.api.headers import SecurityHeaders
from worker.api.problems import refusal
from worker.api.readiness import HEALTH, READY, health_answer, ready_answer
from worker.errors import Draining
from worker.jobs.engine import EngineState


class Door:
    """ASGI application. Answers the probes and holds every other call until it is opened or closed; then all calls go
    on to what is behind it, those that were held with whatever they brought."""

    def __init__(self, *, other_origins: bool) -> None:
        self._other_origins = other_origins
        self._decided = asyncio.Event()
        self._behind: ASGIApp = self._wait
        self._probes = self._answering(health_answer(True), ready_answer(EngineState.LOADING, 0.0))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._behind(scope, receive, send)

    def open(self, app: ASGIApp) -> None:
        """From now on `app` answers."""
        self._behind = app
        self._decided.set()

    def close(self) -> None:
        """Nothing will ever be behind it: every call is refused."""
        self._probes = self._answering(health_answer(False), ready_answer(EngineState.DRAINING, 0.0))
        self.open(self._refuse)

    async def _wait(self, scope: Scope, receive: Receive, send: Send) -> None:
        # A page of another origin could read no answer from here: which may, the application behind knows.
        asked_here = scope["method"] == "GET" and all(name != b"origin" for name, _ in scope["headers"])
        if asked_here and (probe := self._probes.get(scope["path"])) is not None:
            await probe(scope, receive, send)
            return
        await self._decided.wait()
        await self._behind(scope, receive, send)

    async def _refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        answer = self._probes.get(path) or self._with_headers(refusal(path, Draining()))
        await answer(scope, receive, send)

    def _answering(self, health: ASGIApp, ready: ASGIApp) -> dict[str, ASGIApp]:
        return {HEALTH: self._with_headers(health), READY: self._with_headers(ready)}

    def _with_headers(self, answer: ASGIApp) -> ASGIApp:
        return SecurityHeaders(answer, other_origins=self._other_origins)
