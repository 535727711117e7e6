"""Parameters and events as JSON text and back; knows no database and no file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from typing import Any

from pydantic import TypeAdapter

from worker.jobs.events import Cancelled, Completed, Event, Failed, Preview, Progress, Queued, Started
from worker.jobs.params import JobParams

_PARAMS = TypeAdapter(JobParams)
_EVENTS: dict[str, TypeAdapter[Any]] = {
    kind.__name__: TypeAdapter(kind) for kind in (Queued, Started, Progress, Completed, Failed, Cancelled)
}
_DATA: Any = {"images": {"__all__": {"data"}}}


def write_params(params: JobParams) -> str:
    """All of them, so that a later version's defaults change nothing."""
    return _PARAMS.dump_json(params).decode()


def read_params(text: str) -> JobParams:
    """Raises ValueError for a text that this version does not understand."""
    return _PARAMS.validate_json(text)


def checksum(data: bytes) -> str:
    """Of a picture's bytes."""
    return hashlib.sha256(data).hexdigest()


def write_event(event: Event, checksums: Sequence[str] = ()) -> tuple[str, str | None]:
    """Its kind and its content, with `checksums` for the bytes of its pictures; a preview has no content at all."""
    kind = type(event).__name__
    if isinstance(event, Preview):
        return kind, None
    if not isinstance(event, Completed):
        return kind, _EVENTS[kind].dump_json(event).decode()
    content = _EVENTS[kind].dump_python(event, mode="json", exclude=_DATA)
    for image, written, sha256 in zip(content["images"], event.images, checksums, strict=False):
        image |= {"bytes": len(written.data), "sha256": sha256}
    return kind, json.dumps(content)


def read_event(kind: str, text: str, picture: Callable[[int, str], bytes]) -> Event:
    """`picture` gives the bytes by index and format. Raises ValueError as above, and for bytes that are not the ones
    that were written."""
    if kind not in _EVENTS:
        raise ValueError(f"no event is called {kind}")
    content = json.loads(text)
    if kind == Completed.__name__:
        for image in content["images"]:
            data = image["data"] = picture(image["index"], image["format"])
            # Earlier versions wrote neither.
            if image.pop("bytes", len(data)) != len(data) or image.pop("sha256", None) not in (None, checksum(data)):
                raise ValueError("a picture is not as it was written")
    event: Event = _EVENTS[kind].validate_python(content)
    return event
