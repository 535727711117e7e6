"""The waiting jobs: bounded, ordered by priority and then by arrival. Safe from any thread.

The event loop puts work in; the engine takes it out.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from worker.jobs.params import JobParams, Priority


class Full(Exception):
    """As many jobs wait as may wait."""


@dataclass(frozen=True, slots=True)
class Work:
    """A job as the engine sees it; `accepted_at` is on the monotonic clock.

    `alone` keeps it from sharing the device: a process has died while it ran, and whether it was the cause is only
    known if nobody else runs beside it.
    """

    job_id: str
    params: JobParams
    attempt: int = 1
    alone: bool = False
    accepted_at: float = field(default_factory=time.monotonic)


class JobQueue:
    """Holds at most `capacity` pieces of work."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._lanes: dict[Priority, deque[Work]] = {priority: deque() for priority in Priority}
        self._changed = threading.Condition()
        self._news = False

    def __len__(self) -> int:
        return sum(len(lane) for lane in self._lanes.values())

    def put(self, work: Work, *, whatever_waits: bool = False) -> None:
        """Append behind its equals and wake the engine. Raises Full, unless it is to be taken whatever waits."""
        with self._changed:
            if len(self) >= self.capacity and not whatever_waits:
                raise Full
            self._lanes[work.params.priority].append(work)
            self._tell()

    def take(self, may_start: Callable[[Work], bool] = lambda work: True) -> Work | None:
        """The next piece of work; None when nothing waits, or when that one may not start yet."""
        with self._changed:
            for lane in self._lanes.values():
                if lane:
                    return lane.popleft() if may_start(lane[0]) else None
            return None

    def remove(self, job_id: str) -> bool:
        """Take one job out; False when it does not wait (any more)."""
        with self._changed:
            for lane in self._lanes.values():
                for work in lane:
                    if work.job_id == job_id:
                        lane.remove(work)
                        self._tell()  # the next one may start where this one might not
                        return True
            return False

    def clear(self) -> list[Work]:
        """Take everything out, in order."""
        with self._changed:
            waiting = [work for lane in self._lanes.values() for work in lane]
            for lane in self._lanes.values():
                lane.clear()
            return waiting

    def waiting(self) -> list[Work]:
        """What waits, in the order in which it would be taken."""
        with self._changed:
            return [work for lane in self._lanes.values() for work in lane]

    def wait(self, timeout_s: float) -> bool:
        """Return when something was put or removed, or somebody called `wake`, since the last wait; False if the time
        is over. What waits already, and may not start yet, is no reason."""
        with self._changed:
            told = self._changed.wait_for(lambda: self._news, timeout_s)
            self._news = False
            return told

    def wake(self) -> None:
        """End a `wait` from another thread."""
        with self._changed:
            self._tell()

    def _tell(self) -> None:
        self._news = True
        self._changed.notify_all()
