"""Standard error as a queue: nobody who writes waits or fails, and what is written keeps its order."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import pytest

from tests.conftest import eventually
from worker import queued_stream
from worker.queued_stream import QueuedStream


class Pipe:
    """Its two ends, the one for writing as a stream."""

    def __init__(self) -> None:
        self.reader, writer = os.pipe()
        self.stream = os.fdopen(writer, "w")

    def fill(self) -> int:
        """Until it takes nothing more; how many bytes that are."""
        os.set_blocking(self.stream.fileno(), False)
        filled = 0
        with contextlib.suppress(BlockingIOError):
            while True:
                filled += os.write(self.stream.fileno(), b".")
        os.set_blocking(self.stream.fileno(), True)
        return filled

    def read(self, size: int) -> str:
        """Exactly so much."""
        read = b""
        while len(read) < size:
            read += os.read(self.reader, size - len(read))
        return read.decode()


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    made = Pipe()
    yield made
    with contextlib.suppress(OSError):
        os.close(made.reader)  # so that the thread that writes is not left in it
    made.stream.close()


def told(count: int) -> str:
    return f"{count} dropped"


def test_lines_come_out_whole_and_in_order(pipe: Pipe) -> None:
    stream = QueuedStream(pipe.stream, told)
    stream.write("one, ")
    stream.write("whole\ntwo\nbegun")
    stream.flush()
    stream.write(" \udcff\n")
    stream.write_out()
    assert pipe.read(28) == "one, whole\ntwo\nbegun \\udcff\n"


def test_nobody_waits_for_a_pipe_that_is_not_read(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queued_stream, "HELD_BYTES", 10)
    filled = pipe.fill()
    stream = QueuedStream(pipe.stream, told)
    for number in range(10):
        stream.write(f"line {number}\n")
    stream.write_out(timeout_s=0.0)
    assert pipe.read(filled) == "." * filled
    assert pipe.read(24) == "line 0\nline 1\n8 dropped\n"
    stream.write("it moves again\n")
    assert pipe.read(15) == "it moves again\n"


def test_a_line_that_cannot_be_written_is_dropped(pipe: Pipe) -> None:
    os.close(pipe.reader)
    stream = QueuedStream(pipe.stream, told)
    for _ in range(3):
        print("nobody reads this", file=stream, flush=True)
    stream.write_out()
    assert not stream._queued


def test_a_pipe_that_does_not_wait_is_waited_for(pipe: Pipe) -> None:
    filled = pipe.fill()
    os.set_blocking(pipe.stream.fileno(), False)
    stream = QueuedStream(pipe.stream, told)
    stream.write("there\n")
    eventually(lambda: stream._writing)
    assert pipe.read(filled + 6).endswith("there\n")


def test_where_there_is_no_standard_error_nothing_is_written() -> None:
    stream = QueuedStream(None, told)
    stream.write("to nobody\n")
    stream.write_out()
    assert not stream._queued
    os.close(stream.fileno())
