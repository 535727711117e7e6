"""A job's event log as Server-Sent Events: from any id, for any number of readers, also after the end."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass

from anyio.lowlevel import checkpoint
from fastapi import APIRouter, Request
from sse_starlette import EventSourceResponse
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from worker.api.document import REFUSED, TEXT, Schema, header, query, stream_content
from worker.api.wire import entry_frame
from worker.errors import FieldFault, InvalidRequest
from worker.jobs.job import Job
from worker.jobs.log import Entry
from worker.jobs.service import JobService
from worker.metrics import Metrics

PING_S = 15
COME_BACK = b": the job goes on when the worker is back\nretry: 2000\n\n"
"""What the reader of a job that outlives the process is told at its end."""
MAX_ID_DIGITS = 18
EVENT_ID: Schema = {**TEXT, "pattern": f"^[0-9]{{0,{MAX_ID_DIGITS}}}$"}
LINE_END = "\n"


@dataclass(frozen=True, slots=True)
class StreamTimes:
    """`grace_s`: how long streams may go on after the server was told to exit, so that they get their ending.

    A comment goes out every `ping_s`.
    """

    grace_s: float
    ping_s: float = PING_S


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
                header("Last-Event-ID", "the last id that was seen: what is behind it comes", EVENT_ID),
                query("last_event_id", "the same, for whoever cannot send headers", EVENT_ID),
            ]
        },
    )
    async def stream(request: Request, job_id: str) -> Response:
        """Continues after `Last-Event-ID` (or `?last_event_id=`); 204 when nothing comes any more."""
        job = service.store.get(job_id)
        after = _last_event_id(request)
        if job.log.ended and after >= job.log.last_id:
            return Response(status_code=204)
        # Ahead of a log that goes on, since a disk lost what was told: what is still to come shall come.
        events = _events(job, min(after, job.log.last_id), _writer(request))
        return EventStream(events, functools.partial(service.reader_left, job), metrics, times)

    return routes


class EventStream(EventSourceResponse):
    """A job's Server-Sent Events, already as bytes, for one reader; `left` is called when it leaves."""

    def __init__(
        self,
        events: AsyncIterator[bytes],
        left: Callable[[], None],
        metrics: Metrics,
        times: StreamTimes,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(
            events,
            headers=headers,
            ping=times.ping_s,
            sep=LINE_END,
            shutdown_grace_period=times.grace_s,
        )
        self._left = left
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI has it; counted here and not in the events, which never begin for a client that is gone at once."""

        async def send_while_open(message: Message) -> None:
            if scope["state"]["closing"]():  # let the server notice, which then takes no more
                await checkpoint()
            await send(message)

        self._metrics.streams.inc()
        try:
            await super().__call__(scope, receive, send_while_open)
        finally:
            self._metrics.streams.dec()
            self._left()


async def _events(job: Job, after: int, write: Callable[[bytes], bool]) -> AsyncIterator[bytes]:
    batches = job.log.batches(after, lambda batch: write(_frames(job, batch)))
    try:
        async for batch in batches:
            yield _frames(job, batch)
        if not job.ended:
            yield COME_BACK
    finally:
        await batches.aclose()


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
