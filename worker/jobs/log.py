"""The event log of one job: numbered from 1, followed by any number of readers from any number on.

Lives on the event loop alone. A reader that is slow, absent or late misses nothing but old previews. Readers hear of
an event when the loop goes on, so whoever appended it can do what must be done first.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field

from worker.jobs.events import Completed, Ending, Event, Preview

PREVIEW_BYTES = 4_000_000
"""So much of a job's previews is kept, and always the newest; the numbers of older ones are skipped."""
BATCH = 64
BATCH_PREVIEW_BYTES = 16384
"""A batch ends behind the preview that makes it so many: a slow reader holds on to what it was given, and is cut if it
cannot take it in time."""


@dataclass(slots=True)
class Entry:
    """An event and its number; `wire` keeps its encoded form if that is small: many readers, one encoding."""

    id: int
    event: Event
    wire: bytes | None = None

    @property
    def is_ending(self) -> bool:
        return isinstance(self.event, Ending)


Push = Callable[[Sequence[Entry]], bool]
"""Hands a batch to a reader at once; False if that cannot be done now."""


@dataclass(slots=True, eq=False)
class _Follower:
    """`after` is the number of the last entry it was given; `idle` while it waits for more."""

    after: int
    push: Push | None
    more: asyncio.Event = field(default_factory=asyncio.Event)
    idle: bool = False


class EventLog:
    """Append-only; the entry that holds an ending is the last."""

    def __init__(self) -> None:
        self._entries: list[Entry] = []
        self._followers: set[_Follower] = set()
        self._telling = False
        self._last_batch: tuple[tuple[int, int], Sequence[Entry]] = (-1, -1), ()
        """Behind which number, when the log was at which, and what was found."""
        self._preview_bytes = 0
        self.closed = False
        self.last_id = 0

    @property
    def readers(self) -> int:
        """How many follow it now."""
        return len(self._followers)

    @property
    def ended(self) -> bool:
        return bool(self._entries) and self._entries[-1].is_ending

    def append(self, event: Event) -> Entry:
        """Number `event`. Raises RuntimeError once the log has ended."""
        if self.ended:
            raise RuntimeError(f"the log has ended; {type(event).__name__} comes too late")
        self.last_id += 1
        entry = Entry(self.last_id, event)
        self._entries.append(entry)
        if isinstance(event, Preview):
            self._preview_bytes += len(event.data)
            self._drop_old_previews()
        self._tell_soon()
        return entry

    def skip(self) -> None:
        """Use up a number for an event that is no longer there."""
        self.last_id += 1

    def close(self) -> None:
        """Let every reader go, without an ending: the job goes on at another time, under the same numbers."""
        self.closed = True
        self._tell_soon()

    async def follow(self, after: int) -> AsyncGenerator[Entry]:
        """Every entry with a number above `after`, in order, until the ending has been given or the log is closed."""
        batches = self.batches(after)
        try:
            async for batch in batches:
                for entry in batch:
                    yield entry
        finally:
            await batches.aclose()

    async def batches(self, after: int, push: Push | None = None) -> AsyncGenerator[Sequence[Entry]]:
        """As `follow`, with as many entries at once as there are, up to a batch.

        While the reader waits for more, what is appended is given to `push`, which saves waking it; what `push` does
        not take, and the ending in any case, comes out here.
        """
        follower = _Follower(after, push)
        self._followers.add(follower)
        try:
            while True:
                follower.more.clear()
                while batch := self._batch_after(follower.after):
                    follower.after = batch[-1].id
                    yield batch
                if self.ended or self.closed:
                    return
                follower.idle = True
                await follower.more.wait()
                follower.idle = False
        finally:
            self._followers.discard(follower)

    def held_bytes(self) -> int:
        """Bytes of pictures, finished and previewed, that this log keeps."""
        finished = self._entries[-1].event if self._entries else None
        images = finished.images if isinstance(finished, Completed) else ()
        return self._preview_bytes + sum(len(image.data) for image in images)

    def _batch_after(self, number: int) -> Sequence[Entry]:
        """The same for all readers who are as far, so it is looked for once."""
        asked = number, self.last_id
        if self._last_batch[0] != asked:
            self._last_batch = asked, self._look_for_batch(number)
        return self._last_batch[1]

    def _look_for_batch(self, number: int) -> Sequence[Entry]:
        place = bisect_right(self._entries, number, key=lambda entry: entry.id)
        batch = self._entries[place : place + BATCH]
        previews = 0
        for count, entry in enumerate(batch, start=1):
            previews += len(entry.event.data) if isinstance(entry.event, Preview) else 0
            if previews >= BATCH_PREVIEW_BYTES:
                return batch[:count]
        return batch

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

    def _tell_soon(self) -> None:
        if self._followers and not self._telling:
            self._telling = True
            asyncio.get_running_loop().call_soon(self._tell)

    def _tell(self) -> None:
        self._telling = False
        for follower in tuple(self._followers):
            if not self._pushed(follower):
                follower.more.set()

    def _pushed(self, follower: _Follower) -> bool:
        """Whether all that is new was given to an idle follower's `push`."""
        if follower.push is None or not follower.idle or self.ended or self.closed:
            return False
        while follower.after < self.last_id and (batch := self._batch_after(follower.after)):
            if not follower.push(batch):
                return False
            follower.after = batch[-1].id
        return True
