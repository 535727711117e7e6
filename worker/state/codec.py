"""Parameters and events as JSON text and back; knows no database and no file."""

from __future__ import annotations

import json
from collections.abc import Callable
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


def write_event(event: Event) -> tuple[str, str | None]:
    """Its kind and its content, without the bytes of pictures; a preview has no content at all."""
    kind = type(event).__name__
    if isinstance(event, Preview):
        return kind, None
    exclude = _DATA if isinstance(event, Completed) else None
    return kind, _EVENTS[kind].dump_json(event, exclude=exclude).decode()


def read_event(kind: str, text: str, picture: Callable[[int, str], bytes]) -> Event:
    """`picture` gives the bytes by index and format. Raises ValueError as above."""
    if kind not in _EVENTS:
        raise ValueError(f"no event is called {kind}")
    content = json.loads(text)
    if kind == Completed.__name__:
        for image in content["images"]:
            image["data"] = picture(image["index"], image["format"])
    event: Event = _EVENTS[kind].validate_python(content)
    return event
