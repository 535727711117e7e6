"""Server-Sent Events as a client reads them."""

from __future__ import annotations

import codecs
import io
from collections.abc import Iterable, Iterator
from typing import NamedTuple


class ServerSentEvent(NamedTuple):
    """One event of a stream; `id` is the last one that was sent, as the standard has it."""

    id: str
    name: str
    data: str


def read_events(chunks: Iterable[bytes]) -> Iterator[ServerSentEvent]:
    """Server-Sent Events out of bytes that may be cut anywhere, as the HTML standard reads them."""
    # Lines end at CR, LF or CRLF and nowhere else; str.splitlines would also cut at U+2028 inside the data.
    decoder = io.IncrementalNewlineDecoder(codecs.getincrementaldecoder("utf-8-sig")("replace"), translate=True)
    rest, last_id, name, data = "", "", "", list[str]()
    for chunk in chunks:
        *lines, rest = (rest + decoder.decode(chunk)).split("\n")
        for line in lines:
            if not line:
                if data:
                    yield ServerSentEvent(last_id, name or "message", "\n".join(data))
                name, data = "", []
                continue
            field, _, value = line.partition(":")  # a comment is a line whose field has no name
            value = value.removeprefix(" ")
            match field:
                case "data":
                    data.append(value)
                case "event":
                    name = value
                case "id" if "\0" not in value:
                    last_id = value
