"""Standard error as a stream that nobody waits for: lines are queued within a bound, and one thread writes them.

A pipe that is not read would otherwise hold up whoever logs, the event loop and the engine too, and one that is gone
would fail them.
"""

from __future__ import annotations

import contextlib
import io
import os
import select
import threading
from collections import deque
from collections.abc import Callable
from typing import TextIO

HELD_BYTES = 1_000_000
LAST_LINES_S = 1.0


class QueuedStream(io.TextIOBase):
    """Writes to the descriptor of `stream`; with None, nowhere. What cannot be written is dropped.

    `tell_dropped` makes the line that stands for so many others, for which the queue had no room.
    """

    def __init__(self, stream: TextIO | None, tell_dropped: Callable[[int], str]) -> None:
        super().__init__()
        self._descriptor = os.open(os.devnull, os.O_WRONLY) if stream is None else stream.fileno()
        self._tell_dropped = tell_dropped
        self._begun = threading.local()
        self._queued: deque[bytes | int] = deque()  # an int: so many were dropped there
        self._held_bytes = 0
        self._writing = False
        self._changed = threading.Condition()  # its lock can be taken twice: finalizers may write at any moment
        threading.Thread(target=self._write_for_ever, name="standard error", daemon=True).start()

    def write(self, text: str) -> int:
        """Queue all whole lines; the rest of a line comes with its end, or with `flush`."""
        lines, end, rest = (getattr(self._begun, "text", "") + text).rpartition("\n")
        self._begun.text = rest
        if end:
            self._put(lines + end)
        return len(text)

    def flush(self) -> None:
        """Queue what this thread has begun. Nobody waits for it to be written."""
        begun, self._begun.text = getattr(self._begun, "text", ""), ""
        if begun:
            self._put(begun)

    def write_out(self, timeout_s: float = LAST_LINES_S) -> None:
        """Wait until all that is queued was written, or for so long."""
        self.flush()
        with self._changed:
            self._changed.wait_for(lambda: not self._queued and not self._writing, timeout_s)

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def writable(self) -> bool:
        return True

    def _put(self, text: str) -> None:
        line = text.encode(errors="backslashreplace")
        with self._changed:
            last = self._queued[-1] if self._queued else b""
            # Half of it is written before lines are taken again: a slow reader is not told of every other one.
            if self._held_bytes <= (HELD_BYTES // 2 if isinstance(last, int) else HELD_BYTES):
                self._queued.append(line)
                self._held_bytes += len(line)
            elif isinstance(last, int):
                self._queued[-1] = last + 1
            else:
                self._queued.append(1)
            self._changed.notify_all()

    def _write_for_ever(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queued)
                self._writing = True
                first = self._queued.popleft()
            line = first if isinstance(first, bytes) else f"{self._tell_dropped(first)}\n".encode()
            with contextlib.suppress(OSError):  # the disk is full, or the reader is gone
                self._write_now(line)
            with self._changed:
                self._writing = False
                self._held_bytes -= len(first) if isinstance(first, bytes) else 0
                self._changed.notify_all()

    def _write_now(self, line: bytes) -> None:
        """Raises OSError."""
        while line:
            try:
                line = line[os.write(self._descriptor, line) :]
            except BlockingIOError:  # whoever shares the pipe has made it so
                select.select((), (self._descriptor,), ())
