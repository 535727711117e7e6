"""A job as this API's events: partial images, then one completed event for each picture, or an error."""

from __future__ import annotations

from collections.abc import AsyncIterator

from starlette.types import Receive, Scope, Send

from worker.api.ending import without_pictures
from worker.api.openai.bodies import ImageRequest
from worker.api.openai.errors import error_json
from worker.api.openai.wire import Kind, completed_json, frame, partial_json
from worker.api.stream import EventStream, StreamTimes
from worker.jobs.events import Completed, Preview
from worker.jobs.job import Job
from worker.jobs.service import JobService
from worker.metrics import Metrics


class PictureStream(EventStream):
    """Ends with the job; a client that leaves takes the job along."""

    def __init__(
        self,
        service: JobService,
        job: Job,
        kind: Kind,
        asked: ImageRequest,
        metrics: Metrics,
        times: StreamTimes,
        headers: dict[str, str],
    ) -> None:
        super().__init__(_frames(job, kind, asked), times, headers)
        self._service = service
        self._job = job
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI has it; here and not in the events, which never begin for a client that is gone at once."""
        self._metrics.streams.inc()
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._metrics.streams.dec()
            self._service.reader_left(self._job)


async def _frames(job: Job, kind: Kind, asked: ImageRequest) -> AsyncIterator[bytes]:
    partials, last = 0, None
    entries = job.log.follow(0)
    try:
        async for entry in entries:
            last = entry.event
            match last:
                case Preview() as preview if partials < asked.partials and preview.step < preview.steps:
                    yield frame(partial_json(kind, job, preview, partials))
                    partials += 1
                case Completed(images):
                    for image in images:
                        yield frame(completed_json(kind, job, image, asked))
        if not isinstance(last, Completed):
            yield frame({"type": "error", "error": error_json(without_pictures(last))})
    finally:
        await entries.aclose()
