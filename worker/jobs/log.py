"""The event log of one job: numbered from 1, followed by any number of readers from any number on.

Lives on the event loop alone. A reader that is slow, absent or late misses nothing but old previews.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import AsyncGenerator
from dataclasses import dataclass

from worker.jobs.events import Completed, Ending, Event, Preview

PREVIEW_BYTES = 4_000_000
"""So much of a job's previews is kept, and always the newest; the numbers of older ones are skipped."""


@dataclass(slots=True)
class Entry:
    """An event and its number; `wire` keeps its encoded form if that is small: many readers, one encoding."""

    id: int
    event: Event
    wire: str | None = None

    @property
    def is_ending(self) -> bool:
        return isinstance(self.event, Ending)


class EventLog:
    """Append-only; the entry that holds an ending is the last."""

    def __init__(self) -> None:
        self._entries: list[Entry] = []
        self._waiting: set[asyncio.Event] = set()
        self._preview_bytes = 0
        self.closed = False
        self.last_id = 0
        self.readers = 0

    @property
    def ended(self) -> bool:
        return bool(self._entries) and self._entries[-1].is_ending

    def append(self, event: Event) -> Entry:
        """Number `event` and wake every reader. Raises RuntimeError once the log has ended."""
        if self.ended:
            raise RuntimeError(f"the log has ended; {type(event).__name__} comes too late")
        self.last_id += 1
        entry = Entry(self.last_id, event)
        self._entries.append(entry)
        if isinstance(event, Preview):
            self._preview_bytes += len(event.data)
            self._drop_old_previews()
        self._wake()
        return entry

    def skip(self) -> None:
        """Use up a number for an event that is no longer there."""
        self.last_id += 1

    def close(self) -> None:
        """Let every reader go, without an ending: the job goes on at another time, under the same numbers."""
        self.closed = True
        self._wake()

    async def follow(self, after: int) -> AsyncGenerator[Entry]:
        """Every entry with a number above `after`, in order, until the ending has been given or the log is closed."""
        more = asyncio.Event()
        self._waiting.add(more)
        self.readers += 1
        try:
            while True:
                more.clear()
                while (entry := self._first_after(after)) is not None:
                    after = entry.id
                    yield entry
                if self.ended or self.closed:
                    return
                await more.wait()
        finally:
            self._waiting.discard(more)
            self.readers -= 1

    def held_bytes(self) -> int:
        """Bytes of pictures, finished and previewed, that this log keeps."""
        finished = self._entries[-1].event if self._entries else None
        images = finished.images if isinstance(finished, Completed) else ()
        return self._preview_bytes + sum(len(image.data) for image in images)

    def _first_after(self, number: int) -> Entry | None:
        place = bisect_right(self._entries, number, key=lambda entry: entry.id)
        return self._entries[place] if place < len(self._entries) else None

    def _drop_old_previews(self) -> None:
        if self._preview_bytes <= PREVIEW_BYTES:
            return
        previews = [entry for entry in self._entries if isinstance(entry.event, Preview)]
        for entry in previews[:-1]:
            if self._preview_bytes <= PREVIEW_BYTES:
                break
            assert isinstance(entry.event, Preview)
            self._preview_bytes -= len(entry.event.data)
            self._entries.remove(entry)

    def _wake(self) -> None:
        for waiting in self._waiting:
            waiting.set()
