"""Tells an orchestrator what a worker is doing: at once on every change of status, and else every 30 seconds.

Knows an address and how to ask for the newest state; nothing of jobs. Nothing that the orchestrator does or fails to do
reaches the worker: what could not be told is told anew from the state of that moment, never from a backlog.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import Callable
from datetime import UTC, datetime

import httpx
from tenacity import AsyncRetrying, retry_if_exception_type, wait_random_exponential
from tenacity.wait import wait_base

from shared_worker.contract import WorkerInfo, WorkerStatus

logger = logging.getLogger(__name__)

PATH = "/v1/worker-heartbeat"
EVERY_S = 30.0
TIMEOUT_S = 5.0
"""For one attempt as a whole, however slowly the orchestrator answers."""
MOST_ANSWER_BYTES = 10_000
BACK_OFF = wait_random_exponential(multiplier=1.0, max=30.0)
"""Full jitter up to 1, 2, 4, … 30 seconds (Brooker, "Exponential Backoff And Jitter", 2015)."""


class Undelivered(Exception):
    """The orchestrator does not know the worker's state."""


class Heartbeat:
    """`describe` gives the newest state; `url` is the orchestrator's, without the path.

    `token` is the orchestrator's, sent as a bearer token. All of this lives on one event loop.
    """

    def __init__(
        self,
        url: str,
        describe: Callable[[], WorkerInfo],
        *,
        token: str | None = None,
        every_s: float = EVERY_S,
        timeout_s: float = TIMEOUT_S,
        back_off: wait_base = BACK_OFF,
    ) -> None:
        self._url = url.rstrip("/") + PATH
        self._describe = describe
        # Uncompressed, so that the bound on the answer is one on what comes over the wire.
        self._headers = {"Accept-Encoding": "identity"}
        if token is not None:
            self._headers["Authorization"] = f"Bearer {token}"
        self._every_s = every_s
        self._timeout_s = timeout_s
        self._back_off = back_off
        self._changed = asyncio.Event()
        self._told: WorkerStatus | None = None
        self._troubled = False

    def changed(self) -> None:
        """Something happened; if the status is another one, the orchestrator hears of it."""
        self._changed.set()

    async def run(self) -> None:
        """Until cancelled."""
        async with self._client() as client:
            while True:
                async for attempt in AsyncRetrying(wait=self._back_off, retry=retry_if_exception_type(Undelivered)):
                    with attempt:
                        await self._tell(client, self._describe())
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._every_s):
                        while self._describe().status is self._told:
                            await self._changed.wait()
                            self._changed.clear()

    async def tell_last(self, status: WorkerStatus, timeout_s: float) -> None:
        """One attempt with the state of this moment and `status`, for a worker that is about to go and cannot wait for
        long."""
        async with self._client() as client:
            with contextlib.suppress(Undelivered, TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await self._tell(client, self._describe().model_copy(update={"status": status}))

    def _client(self) -> httpx.AsyncClient:
        # No proxy, certificate or credential that somebody's environment or .netrc names.
        return httpx.AsyncClient(headers=self._headers, follow_redirects=False, trust_env=False)

    async def _tell(self, client: httpx.AsyncClient, worker: WorkerInfo) -> None:
        """Raises Undelivered."""
        body: dict[str, object] = {"worker": worker.model_dump(mode="json"), "timestamp": datetime.now(UTC).isoformat()}
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._post(client, body)
        except (
            *(Undelivered, httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, TimeoutError, OSError),
            RuntimeError,  # there is no memory for a thread that resolves its name
        ) as trouble:
            if not self._troubled:  # an orchestrator that is away for days is one line in the log
                logger.warning("the orchestrator does not hear of this worker: %s", _told_by(trouble))
            self._troubled = True
            raise Undelivered from None
        if self._troubled:
            logger.info("the orchestrator hears of this worker again")
        self._troubled = False
        self._told = worker.status

    async def _post(self, client: httpx.AsyncClient, body: dict[str, object]) -> None:
        async with client.stream("POST", self._url, json=body) as response:
            answer = b""
            async for piece in response.aiter_raw():
                answer += piece
                if len(answer) > MOST_ANSWER_BYTES:
                    raise Undelivered("its answer is too long")
            if not response.is_success:
                raise Undelivered(f"it answers {response.status_code}")
        try:
            status = json.loads(answer).get("status")
        except (ValueError, AttributeError, RecursionError):
            raise Undelivered("its answer is not JSON as agreed") from None
        if status != "ok":
            raise Undelivered("it answers with an error")


def _told_by(trouble: Exception) -> str:
    """In a few words that name no address."""
    match trouble:
        case Undelivered():
            return str(trouble)
        case TimeoutError() | httpx.TimeoutException():
            return "it does not answer in time"
        case _:
            return type(trouble).__name__
