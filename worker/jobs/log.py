"""The event log of one job: numbered from 1, followed by any number of readers from any number on.

Lives on the event loop alone. A reader that is slow, absent or late misses nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass

from worker.jobs.events import Completed, Ending, Event, Preview


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
        self.readers = 0

    @property
    def last_id(self) -> int:
        return len(self._entries)

    @property
    def ended(self) -> bool:
        return bool(self._entries) and self._entries[-1].is_ending

    def append(self, event: Event) -> Entry:
        """Number `event` and wake every reader. Raises RuntimeError once the log has ended."""
        if self.ended:
            raise RuntimeError(f"the log has ended; {type(event).__name__} comes too late")
        entry = Entry(self.last_id + 1, event)
        self._entries.append(entry)
        for waiting in self._waiting:
            waiting.set()
        return entry

    async def follow(self, after: int) -> AsyncGenerator[Entry]:
        """Every entry with a number above `after`, in order, until the ending has been given."""
        more = asyncio.Event()
        self._waiting.add(more)
        self.readers += 1
        try:
            position = max(0, after)
            while True:
                more.clear()
                while position < len(self._entries):
                    entry = self._entries[position]
                    position += 1
                    yield entry
                if self.ended:
                    return
                await more.wait()
        finally:
            self._waiting.discard(more)
            self.readers -= 1

    def held_bytes(self) -> int:
        """Bytes of pictures, finished and previewed, that this log keeps."""
        held = 0
        for entry in self._entries:
            match entry.event:
                case Preview(data=data):
                    held += len(data)
                case Completed(images):
                    held += sum(len(image.data) for image in images)
        return held
