"""Which job the front ends mean by "the current one", since theirs draws one after the other.

The oldest that came through this API and has not ended. Jobs of other APIs are none of its business.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from worker.jobs.events import Event, Preview
from worker.jobs.job import Job


@dataclass(slots=True)
class Watched:
    """A job that somebody waits for, and what it looked like last."""

    job: Job
    preview: Preview | None = None

    def see(self, event: Event) -> None:
        """Keep the newest preview."""
        if isinstance(event, Preview):
            self.preview = event


class CurrentJobs:
    """In order of acceptance. Lives on the event loop alone."""

    def __init__(self) -> None:
        self._watched: dict[str, Watched] = {}

    @contextlib.contextmanager
    def watching(self, job: Job) -> Iterator[Watched]:
        """Know `job` for as long as its request lasts."""
        watched = self._watched[job.id] = Watched(job)
        try:
            yield watched
        finally:
            del self._watched[job.id]

    def first(self) -> Watched | None:
        """The current one."""
        return next((one for one in self._watched.values() if not one.job.ended), None)

    def __len__(self) -> int:
        return sum(not one.job.ended for one in self._watched.values())
