"""Server-Sent Events as a client reads them, out of bytes that may be cut anywhere; knows nothing of jobs."""

from __future__ import annotations

import codecs
import io
from typing import NamedTuple

MOST_RETRY_DIGITS = 9


class ServerSentEvent(NamedTuple):
    """One event of a stream; `id` is the last one that was sent, as the standard has it."""

    id: str
    name: str
    data: str


class EventReader:
    """One connection's bytes in, its events out, as the HTML standard reads them (9.2.6).

    `retry_s` is how long the server asks to be left alone after the connection's end, None if it does not.
    """

    def __init__(self) -> None:
        # Lines end at CR, LF or CRLF and nowhere else; str.splitlines would also cut at U+2028 inside the data.
        self._decoder = io.IncrementalNewlineDecoder(
            codecs.getincrementaldecoder("utf-8-sig")("replace"), translate=True
        )
        self._rest: list[str] = []
        self._id, self._name, self._data = "", "", list[str]()
        self.retry_s: float | None = None

    def feed(self, chunk: bytes) -> list[ServerSentEvent]:
        """The events that `chunk` completes."""
        first, *others = self._decoder.decode(chunk).split("\n")
        self._rest.append(first)
        if not others:
            return []
        lines = ["".join(self._rest), *others[:-1]]
        self._rest = others[-1:]
        return [event for line in lines if (event := self._line(line)) is not None]

    def _line(self, line: str) -> ServerSentEvent | None:
        if not line:
            name, data = self._name or "message", self._data
            self._name, self._data = "", []
            return ServerSentEvent(self._id, name, "\n".join(data)) if data else None
        field, _, value = line.partition(":")  # a comment is a line whose field has no name
        value = value.removeprefix(" ")
        match field:
            case "data":
                self._data.append(value)
            case "event":
                self._name = value
            case "id" if "\0" not in value:
                self._id = value
            case "retry" if value.isascii() and value.isdecimal() and len(value) <= MOST_RETRY_DIGITS:
                self.retry_s = int(value) / 1000
        return None
