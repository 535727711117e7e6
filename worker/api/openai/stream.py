"""A job as this API's events: partial images, then one completed event for each picture, or an error."""

from __future__ import annotations

from collections.abc import AsyncIterator

from worker.api.ending import without_pictures
from worker.api.openai.bodies import ImageRequest
from worker.api.openai.errors import error_json
from worker.api.openai.wire import Kind, completed_json, frame, partial_json
from worker.jobs.events import Completed, Preview
from worker.jobs.job import Job


async def frames(job: Job, kind: Kind, asked: ImageRequest) -> AsyncIterator[bytes]:
    """Until the job's end."""
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
