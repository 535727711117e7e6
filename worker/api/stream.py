"""A job's event log as Server-Sent Events: from any id, for any number of readers, also after the end."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass

import anyio
from anyio.lowlevel import checkpoint
from fastapi import APIRouter, Request
from sse_starlette import EventSourceResponse
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from worker.api.document import REFUSED, header, query, stream_content
from worker.api.wire import entry_frame
from worker.errors import FieldFault, InvalidRequest
from worker.jobs.job import Job
from worker.jobs.log import Entry
from worker.jobs.service import JobService
from worker.metrics import Metrics

PING_S = 15
STALL_S = 10
COME_BACK = b": the job goes on when the worker is back\nretry: 2000\n\n"
"""What the reader of a job that outlives the process is told at its end."""
MAX_ID_DIGITS = 18
LINE_END = "\n"


@dataclass(frozen=True, slots=True)
class StreamTimes:
    """`grace_s`: how long streams may go on after the server was told to exit, so that they get their ending.

    A comment goes out every `ping_s`; a reader that reads nothing for `stall_s` is cut.
    """

    grace_s: float
    ping_s: float = PING_S
    stall_s: float = STALL_S


def router(service: JobService, metrics: Metrics, times: StreamTimes) -> APIRouter:
    """`GET /v1/jobs/{job_id}/stream`."""
    routes = APIRouter(tags=["jobs"], responses=REFUSED)

    @routes.get(
        "/v1/jobs/{job_id}/stream",
        summary="Follow a job",
        response_class=Response,
        responses={200: {"content": stream_content()}, 204: {"description": "the end was seen already"}},
        openapi_extra={
            "parameters": [
                header("Last-Event-ID", "the last id that was seen: what is behind it comes"),
                query("last_event_id", "the same, for whoever cannot send headers", {"type": "integer", "minimum": 0}),
            ]
        },
    )
    async def stream(request: Request, job_id: str) -> Response:
        """Continues after `Last-Event-ID` (or `?last_event_id=`); 204 when nothing comes any more."""
        job = service.store.get(job_id)
        after = _last_event_id(request)
        if job.log.ended and after >= job.log.last_id:
            return Response(status_code=204)
        return EventStream(_events(service, job, after, metrics, _writer(request)), times)

    return routes


class EventStream(EventSourceResponse):
    """Server-Sent Events, already as bytes. Cuts off a reader that reads nothing for `stall_s`.

    The library's own `send_timeout` leaves the last message unbounded, and then closes the connection politely,
    which waits for the reader again.
    """

    def __init__(self, events: AsyncIterator[bytes], times: StreamTimes, headers: dict[str, str] | None = None) -> None:
        super().__init__(
            events,
            headers=headers,
            ping=times.ping_s,
            sep=LINE_END,
            shutdown_event=anyio.Event(),
            shutdown_grace_period=times.grace_s,
        )
        self._stall_s = times.stall_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI has it."""

        async def send_or_cut(message: Message) -> None:
            if scope["state"]["closing"]():  # let the server notice, which then takes no more
                await checkpoint()
            with anyio.move_on_after(self._stall_s) as patience:
                await send(message)
            if patience.cancelled_caught:
                scope["state"]["cut"]()

        await super().__call__(scope, receive, send_or_cut)


async def _events(
    service: JobService, job: Job, after: int, metrics: Metrics, write: Callable[[bytes], bool]
) -> AsyncIterator[bytes]:
    metrics.streams.inc()
    batches = job.log.batches(after, lambda batch: write(_frames(job, batch)))
    try:
        async for batch in batches:
            yield _frames(job, batch)
        if not job.ended:
            yield COME_BACK
    finally:
        await batches.aclose()
        metrics.streams.dec()
        service.reader_left(job)


def _frames(job: Job, batch: Sequence[Entry]) -> bytes:
    """In one piece: through all layers, that takes as long as one event."""
    return b"".join([entry_frame(job, entry) for entry in batch])


def _writer(request: Request) -> Callable[[bytes], bool]:
    """Straight into the connection, where the server offers that: a fifth of the work of going through all layers."""
    write: Callable[[bytes], bool] | None = request.scope.get("state", {}).get("write")
    return write or (lambda data: False)


def _last_event_id(request: Request) -> int:
    text = request.headers.get("last-event-id") or request.query_params.get("last_event_id") or "0"
    if not (text.isascii() and text.isdecimal() and len(text) <= MAX_ID_DIGITS):
        raise InvalidRequest(FieldFault("Last-Event-ID", "must be the id of an event of this stream"))
    return int(text)
