"""Server-Sent Events out of bytes as they arrive, each with the moment at which its last byte came."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Arrived:
    """One event; `at` is on the monotonic clock of this machine, in seconds."""

    name: str
    data: dict[str, Any]
    at: float


class SseParser:
    """Takes bytes that may be cut anywhere. Lines end at LF or CRLF; comments and ids are passed over."""

    def __init__(self) -> None:
        self._rest = b""
        self._name = ""
        self._data: list[bytes] = []

    def feed(self, chunk: bytes, at: float) -> list[Arrived]:
        """The events that `chunk`, received at `at`, completes."""
        events = []
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        for line in lines:
            field, _, value = line.rstrip(b"\r").partition(b":")
            value = value.removeprefix(b" ")
            if field == b"event":
                self._name = value.decode()
            elif field == b"data":
                self._data.append(value)
            elif not field and not value:
                if self._data:
                    events.append(Arrived(self._name or "message", json.loads(b"\n".join(self._data)), at))
                self._name, self._data = "", []
        return events
