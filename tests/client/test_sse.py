"""Server-Sent Events out of bytes that are cut anywhere."""

from __future__ import annotations

import pytest

from worker.client.sse import EventReader, ServerSentEvent


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("size", [1, 2, 3, 1000])
def test_events_survive_any_cut_and_any_line_end(end: str, size: int) -> None:
    lines = [
        ": a comment",
        "id: 1", "event: progress", "data: {", "data:  1}", "",
        "event: forgotten, since it has no data", "",
        "data: é\u2028💚", "retry: 5", "retry: soon", "unknown: field", "",
        "id: 2", "id: with a \0", "data", "", "",
        "data: cut off",
    ]  # fmt: skip
    sent = ("\ufeff" + end.join(lines)).encode()
    chunks = [sent[start : start + size] for start in range(0, len(sent), size)]
    reader = EventReader()
    assert [event for chunk in chunks for event in reader.feed(chunk)] == [
        ServerSentEvent("1", "progress", "{\n 1}"),
        ServerSentEvent("1", "message", "é\u2028💚"),
        ServerSentEvent("2", "message", ""),
    ]
    assert reader.retry_s == 0.005


def test_a_long_line_is_put_together_once() -> None:
    reader = EventReader()
    picture = b"x" * 65536
    assert [reader.feed(piece) for piece in (b"data: ", *[picture] * 64, b"\n")] == [[]] * 66
    (event,) = reader.feed(b"\n")
    assert len(event.data) == 64 * len(picture)
