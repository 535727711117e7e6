"""Where the waiting jobs stand: asked for, and told to each of them when it moved. Lives on the event loop alone."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Sequence

from worker.jobs import estimates
from worker.jobs.engine import Engine, Snapshot
from worker.jobs.estimates import Place
from worker.jobs.events import Queued
from worker.jobs.facts import Guidance
from worker.jobs.job import Job, Status
from worker.jobs.params import JobParams
from worker.jobs.store import JobStore

EVERY_S = 1.0
"""How often one waiting job is told where it stands, at most."""
SETTLE_S = 0.05
"""How long changes are gathered before they are told, so that a burst of them costs one round."""


class Positions:
    """`record` is given what waiting jobs are to be told; `guidance` is the model's."""

    def __init__(
        self,
        engine: Engine,
        store: JobStore,
        record: Callable[[Sequence[tuple[Job, Queued]]], None],
        guidance: Guidance,
    ) -> None:
        self._engine = engine
        self._store = store
        self._record = record
        self._guidance = guidance
        self._due: asyncio.TimerHandle | None = None
        self._known: tuple[Snapshot, dict[str, Place]] | None = None

    def all(self) -> dict[str, Place]:
        """Of every waiting job at this moment, by its id."""
        snapshot = self._engine.snapshot()
        if self._known is None or self._known[0] != snapshot:  # many ask between two steps
            self._known = snapshot, estimates.places(snapshot, self._params, self._guidance)
        return self._known[1]

    def of(self, job: Job) -> Place | None:
        """Of one job; None if it does not wait."""
        return self.all().get(job.id) if job.status is Status.QUEUED else None

    def queued(self, job: Job) -> Queued:
        """What a job that has begun to wait is told."""
        return Queued(*self.all().get(job.id, (0, None)))

    def eta_s(self) -> float | None:
        """Seconds until everything that was accepted is done; None while the engine's pace is unknown."""
        return estimates.all_done_s(self._engine.snapshot(), self._params, self._guidance)

    def changed(self, in_s: float = SETTLE_S) -> None:
        """Tell those that moved, after a while."""
        if self._due is None:
            self._due = asyncio.get_running_loop().call_later(in_s, self._tell)

    def _tell(self) -> None:
        self._due = None
        now, next_due_s = time.monotonic(), math.inf
        told: list[tuple[Job, Queued]] = []
        for job_id, (position, eta_s) in self.all().items():
            job = self._store.find(job_id)
            if job is None or job.ended or job.position == position:
                continue
            if (due_s := job.told_at + EVERY_S - now) <= 0:
                told.append((job, Queued(position, eta_s)))
            else:
                next_due_s = min(next_due_s, due_s)
        self._record(told)
        if next_due_s < math.inf:
            self.changed(max(SETTLE_S, next_due_s))

    def _params(self, job_id: str) -> JobParams | None:
        job = self._store.find(job_id)
        return None if job is None else job.params
