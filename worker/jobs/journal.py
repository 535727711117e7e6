"""Where jobs are written down so that they outlive the process; and the journal of a worker that keeps none.

The service writes before anybody is told: what a client has seen, a journal has.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from worker.jobs.events import Image
from worker.jobs.job import Job
from worker.jobs.log import Entry


@dataclass(frozen=True, slots=True)
class Kept:
    """A job as the last process left it. `kills` counts the processes that died while it ran, that one included;
    `model_id` is what it was accepted for."""

    job: Job
    key: str | None
    digest: bytes
    kills: int
    model_id: str


@dataclass(frozen=True, slots=True)
class Restored:
    """Jobs in order of acceptance, and the ids of those that were forgotten, the last one last."""

    jobs: list[Kept] = field(default_factory=list)
    expired: Sequence[str] = ()


class Journal(Protocol):
    """All calls come from the event loop, but for `restore`, `keep_images` and `checkpoint`, which may come from any
    thread."""

    durable: bool
    """Whether unended jobs live on when the process ends."""

    def restore(self) -> Restored:
        """What was written by earlier processes; called once, first. It takes as long as reading all their pictures."""

    def accept(self, job: Job, first: Entry, key: str | None, digest: bytes) -> None:
        """Write a new job with its first event. Raises StorageFull, and has then written nothing."""

    def record(self, entries: Iterable[tuple[Job, Entry]]) -> None:
        """Write events. What cannot be written now is written with what comes next."""

    def keep_images(self, job_id: str, images: Sequence[Image]) -> None:
        """Write pictures, before the `Completed` that names them is recorded.

        If they cannot be written that `Completed` will not be either, and the next process draws them again.
        """

    def forget(self, job_ids: Sequence[str]) -> None:
        """Remove ended jobs with their pictures, now or soon; only their ids stay, for a while."""

    def tidy(self) -> None:
        """Write down what was forgotten."""

    def checkpoint(self) -> None:
        """Bring what was written into its final place, and remove pictures that nobody needs any more."""

    def close(self) -> None:
        """Write no more."""


class NoJournal:
    """Everything ends with the process."""

    durable = False

    def restore(self) -> Restored:
        """Nothing."""
        return Restored()

    def accept(self, job: Job, first: Entry, key: str | None, digest: bytes) -> None:
        """Nothing to do; so with the others."""

    def record(self, entries: Iterable[tuple[Job, Entry]]) -> None: ...

    def keep_images(self, job_id: str, images: Sequence[Image]) -> None: ...

    def forget(self, job_ids: Sequence[str]) -> None: ...

    def tidy(self) -> None: ...

    def checkpoint(self) -> None: ...

    def close(self) -> None: ...
