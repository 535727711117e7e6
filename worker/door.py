"""What stands at the open port from the first moment on, while all behind it is still being imported and read."""

from __future__ import annotations

import asyncio

from starlette.types import ASGIApp, Receive, Scope, Send

from worker.api.headers import SecurityHeaders
from worker.api.problems import refusal
from worker.api.readiness import HEALTH, METRICS, READY, health_answer, ready_answer
from worker.errors import Draining, TooManyConnections, WorkerFailed
from worker.jobs.engine import EngineState


class Door:
    """ASGI application. Answers the probes and holds every other call until it is opened or closed; then all calls go
    on to what is behind it, those that were held with whatever they brought. On a connection too many it lets only
    what is asked to watch the worker through, once."""

    def __init__(self, *, other_origins: bool) -> None:
        self._other_origins = other_origins
        self._decided = asyncio.Event()
        self._behind: ASGIApp = self._wait
        self._probes = self._answering(EngineState.LOADING)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope.get("state", {}).get("crowded"):
            scope["headers"].append((b"connection", b"close"))  # the server then answers so, and closes
            if (path := scope["path"]) not in (HEALTH, READY, METRICS):
                await self._with_headers(refusal(path, TooManyConnections()))(scope, receive, send)
                return
        await self._behind(scope, receive, send)

    def open(self, app: ASGIApp) -> None:
        """From now on `app` answers."""
        self._behind = app
        self._decided.set()

    def close(self, *, failed: bool) -> None:
        """Nothing will ever be behind it, since what was to be has `failed` or nobody wants it now: every call is
        refused."""
        probes = self._answering(EngineState.FAILED if failed else EngineState.DRAINING)
        why = WorkerFailed() if failed else Draining()

        async def refuse(scope: Scope, receive: Receive, send: Send) -> None:
            path = scope["path"]
            await (probes.get(path) or self._with_headers(refusal(path, why)))(scope, receive, send)

        self.open(refuse)

    async def _wait(self, scope: Scope, receive: Receive, send: Send) -> None:
        # A page of another origin could read no answer from here: which may, the application behind knows.
        asked_here = scope["method"] == "GET" and all(name != b"origin" for name, _ in scope["headers"])
        if asked_here and (probe := self._probes.get(scope["path"])) is not None:
            await probe(scope, receive, send)
            return
        await self._decided.wait()
        await self._behind(scope, receive, send)

    def _answering(self, state: EngineState) -> dict[str, ASGIApp]:
        answers = {HEALTH: health_answer(state is not EngineState.FAILED), READY: ready_answer(state, 0.0)}
        return {path: self._with_headers(answer) for path, answer in answers.items()}

    def _with_headers(self, answer: ASGIApp) -> ASGIApp:
        return SecurityHeaders(answer, other_origins=self._other_origins)
