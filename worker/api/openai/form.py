"""A `multipart/form-data` body (RFC 7578), whole and in memory: texts and files by name, within bounds.

Knows nothing of what the fields mean.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from worker.api.body import shown_name
from worker.errors import BodyTooLarge, FieldFault, InvalidRequest, MalformedBody
from worker.jobs.facts import Limits

MAX_PARTS = 50
MAX_LINES_LIKE_BOUNDARIES = 1000
"""Lines that begin as a boundary does; the parser looks at each of them byte by byte."""
BROKEN = "The body is not valid multipart/form-data"


@dataclass(slots=True)
class _Part:
    headers: dict[bytes, bytes] = field(default_factory=dict)
    name: str = ""
    is_file: bool = False
    data: bytearray = field(default_factory=bytearray)


class _Collector:
    """What the parser calls, piece by piece."""

    def __init__(self) -> None:
        self.parts: list[_Part] = []
        self.whole = False
        self._header = bytearray()
        self._value = bytearray()

    def begin(self) -> None:
        if len(self.parts) == MAX_PARTS:
            raise InvalidRequest(FieldFault("body", f"must not hold more than {MAX_PARTS} parts"))
        self.parts.append(_Part())

    def header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def header_end(self) -> None:
        self.parts[-1].headers[bytes(self._header).lower()] = bytes(self._value)
        self._header.clear()
        self._value.clear()

    def headers_finished(self) -> None:
        _, options = parse_options_header(self.parts[-1].headers.get(b"content-disposition"))
        if b"name" not in options:
            raise MalformedBody(BROKEN)
        self.parts[-1].name = options[b"name"].decode("latin-1")
        self.parts[-1].is_file = b"filename" in options

    def data(self, data: bytes, start: int, end: int) -> None:
        self.parts[-1].data += data[start:end]

    def end(self) -> None:
        self.whole = True


def parse_form(body: bytes, content_type: str, limits: Limits) -> tuple[dict[str, str], dict[str, list[bytes]]]:
    """Texts by name, and the files of each name. Raises MalformedBody, BodyTooLarge, InvalidRequest."""
    if body.count(b"\r\n--") > MAX_LINES_LIKE_BOUNDARIES:
        raise InvalidRequest(FieldFault("body", f"must not hold more than {MAX_PARTS} parts"))
    boundary = parse_options_header(content_type)[1].get(b"boundary", b"")
    if not boundary:
        raise MalformedBody(BROKEN)
    collected = _Collector()
    try:
        parser = MultipartParser(
            boundary,
            {
                "on_part_begin": collected.begin,
                "on_header_field": collected.header_field,
                "on_header_value": collected.header_value,
                "on_header_end": collected.header_end,
                "on_headers_finished": collected.headers_finished,
                "on_part_data": collected.data,
                "on_end": collected.end,
            },
        )
        parser.write(body)
        parser.finalize()
    except FormParserError:
        raise MalformedBody(BROKEN) from None
    if not collected.whole:
        raise MalformedBody(BROKEN)
    return _texts(collected.parts, limits), _files(collected.parts)


def _texts(parts: list[_Part], limits: Limits) -> dict[str, str]:
    texts: dict[str, str] = {}
    given = [part for part in parts if not part.is_file]
    if sum(len(part.data) for part in given) > limits.text_body_bytes:
        raise BodyTooLarge(f"The texts of a body may hold at most {limits.text_body_bytes} bytes")
    for part in given:
        try:
            text = part.data.decode()
        except UnicodeDecodeError:
            raise MalformedBody("The texts of a body must be UTF-8") from None
        if part.name in texts:
            raise InvalidRequest(FieldFault(shown_name(part.name), "is there more than once"))
        texts[part.name] = text
    return texts


def _files(parts: list[_Part]) -> dict[str, list[bytes]]:
    files: dict[str, list[bytes]] = {}
    for part in parts:
        if part.is_file:
            files.setdefault(part.name, []).append(bytes(part.data))
    return files
