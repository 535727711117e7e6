"""How jobs and events look on the wire: one place for every JSON name that clients see."""

from __future__ import annotations

import base64
import functools
import json
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, assert_never

from worker.api.ending import without_pictures
from worker.jobs.events import (
    Cancelled,
    CancelReason,
    Completed,
    Event,
    Failed,
    Image,
    Preview,
    Progress,
    Queued,
    Started,
    Timings,
)
from worker.jobs.job import Job, Status
from worker.jobs.log import Entry
from worker.jobs.params import JobParams, Picture

Json = dict[str, Any]
PREVIEWS_REMEMBERED = 16


def job_json(job: Job, place: tuple[int, float | None] | None = None) -> Json:
    """A job as `GET /v1/jobs/{job_id}` answers it; `place` is where it stands if it waits, else as it was last told."""
    position, eta_s = place or (job.position, job.eta_s)
    return {
        "job_id": job.id,
        "sse_url": f"/v1/jobs/{job.id}/stream",
        "status": job.status.value,
        "position": position,
        "eta_s": eta_s,
        "progress": {
            "step": job.progress.step,
            "steps": job.progress.steps,
            "percent": job.progress.percent,
        },
        "params": params_json(job.params),
        "images": [image_json(job.id, image) for image in job.images],
        "warnings": list(job.warnings),
        "error": _error_json(job),
        "timings": timings_json(job.timings),
        "attempt": job.attempt,
        "created_at": timestamp(job.created_at),
        "started_at": timestamp(job.started_at),
        "finished_at": timestamp(job.finished_at),
        "labels": dict(job.params.labels),
    }


def _error_json(job: Job) -> Json | None:
    """Why there are no pictures, if the worker ended the job; null where somebody cancelled it."""
    if job.failure is not None:
        return {"code": job.failure.code, "message": job.failure.message, "retriable": job.failure.retriable}
    if job.status is Status.CANCELLED and job.cancel_reason in (CancelReason.TIMEOUT, CancelReason.SHUTDOWN):
        told = without_pictures(Cancelled(job.cancel_reason))
        return {"code": job.cancel_reason.value, "message": told.detail, "retriable": told.retriable}
    return None


def params_json(params: JobParams) -> Json:
    """Everything that decides the pictures, defaults filled in and the seed that was used."""
    preview, output = params.preview, params.output
    return {
        "task": params.task.value,
        "prompt": params.prompt,
        "negative_prompt": params.negative_prompt,
        "width": params.width,
        "height": params.height,
        "steps": params.steps,
        "guidance_scale": params.guidance_scale,
        "seed": params.seed,
        "num_images": params.num_images,
        "sampler": params.sampler or None,
        "image": params.image and _size(params.image),
        "mask": params.mask and _size(params.mask),
        "strength": params.strength,
        "upscale": params.upscale and asdict(params.upscale),
        "loras": [{"name": one.name, "scale": one.scale} for one in params.loras],
        "controls": [
            {
                "name": one.name,
                "image": _size(one.image),
                "scale": one.scale,
                "start": one.start,
                "end": one.end,
                "preprocessor": one.preprocessor.value,
            }
            for one in params.controls
        ],
        "preview": preview and {"every": preview.every, "size": preview.size, "format": preview.format.value},
        "output": {
            "format": output.format.value,
            "quality": output.quality,
            "inline": output.inline,
            "metadata": output.metadata,
        },
        "priority": params.priority.value,
        "on_disconnect": params.on_disconnect.value,
        "timeout_s": params.timeout_s,
    }


def _size(picture: Picture) -> Json:
    """What is shown of a picture that came with the job."""
    return {"width": picture.width, "height": picture.height, "bytes": picture.size_bytes}


def image_json(job_id: str, image: Image) -> Json:
    """A finished picture, by URL."""
    return {
        "index": image.index,
        "url": f"/v1/jobs/{job_id}/images/{image.index}",
        "seed": image.seed,
        "width": image.width,
        "height": image.height,
        "format": image.format.value,
        "bytes": len(image.data),
    }


def timings_json(timings: Timings) -> Json:
    """Seconds by phase; null for what was not reached."""
    return {
        "queue_s": timings.queue_s,
        "encode_s": timings.encode_s,
        "denoise_s": timings.denoise_s,
        "decode_s": timings.decode_s,
        "total_s": timings.total_s,
    }


def event_name(event: Event) -> str:
    """The value of the stream's `event:` field."""
    match event:
        case Queued():
            return "queued"
        case Started():
            return "started"
        case Progress():
            return "progress"
        case Preview():
            return "preview"
        case Completed():
            return "completed"
        case Failed():
            return "failed"
        case Cancelled():
            return "cancelled"
        case _:
            assert_never(event)


def event_data(job_id: str, event: Event, *, inline: bool = False) -> Json:
    """The object in the stream's `data:` field; `inline` puts finished pictures into it."""
    data: Json = {"type": event_name(event), "job_id": job_id}
    match event:
        case Queued(position, eta_s):
            return data | {"position": position, "eta_s": eta_s}
        case Started(attempt):
            return data | {"attempt": attempt}
        case Progress(step, steps, eta_s):
            return data | {"step": step, "steps": steps, "percent": event.percent, "eta_s": eta_s}
        case Preview(step, steps, width, height, form, content):
            picture = {"image": in_base64(content), "format": form.value, "width": width, "height": height}
            return data | {"step": step, "steps": steps} | picture
        case Completed(images, timings, warnings):
            pictures = [
                image_json(job_id, image) | ({"image": in_base64(image.data)} if inline else {}) for image in images
            ]
            return data | {"images": pictures, "warnings": list(warnings), "timings": timings_json(timings)}
        case Failed(code, message, retriable):
            return data | {"code": code, "message": message, "retriable": retriable}
        case Cancelled(reason):
            return data | {"reason": reason.value}
        case _:
            assert_never(event)


def entry_frame(job: Job, entry: Entry) -> bytes:
    """A log entry as the stream has it, `id:`, `event:` and one line of `data:`; JSON escapes every line break in that.

    Made once for all readers and kept with the entry. One that holds pictures is not, since the log keeps those
    already; of the newest previews a few are remembered, for all who read them now.
    """
    match entry.event:
        case Preview():
            return _preview_frame(job.id, entry.id, entry.event)
        case Completed():
            return _frame(job.id, entry.id, entry.event, inline=job.params.output.inline)
        case _:
            entry.wire = entry.wire or _frame(job.id, entry.id, entry.event)
            return entry.wire


def _frame(job_id: str, number: int, event: Event, *, inline: bool = False) -> bytes:
    data = json.dumps(event_data(job_id, event, inline=inline), separators=(",", ":"))
    return f"id: {number}\nevent: {event_name(event)}\ndata: {data}\n\n".encode()


_preview_frame = functools.lru_cache(maxsize=PREVIEWS_REMEMBERED)(_frame)


def timestamp(moment: datetime | None) -> str | None:
    """RFC 3339 in UTC, to the millisecond."""
    if moment is None:
        return None
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def in_base64(data: bytes) -> str:
    """As JSON holds bytes."""
    return base64.b64encode(data).decode("ascii")
