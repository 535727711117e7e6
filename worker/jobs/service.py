"""Accepts, cancels and follows jobs: where the event loop's side and the engine's side meet.

Knows the engine by four words (submit, cancel, snapshot, drain) and gets its events through `receive`.
Lives on the event loop alone.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Iterable

from worker import errors
from worker.jobs.engine import Engine, EngineState, Snapshot
from worker.jobs.events import Cancelled, CancelReason, Ending, Event, Queued, Started, Timings
from worker.jobs.job import Job
from worker.jobs.params import JobParams, Limits, OnDisconnect
from worker.jobs.queue import Full, Work
from worker.jobs.store import JobStore

POSITION_EVERY_S = 1.0
"""How often one waiting job is told where it stands, at most."""
SETTLE_S = 0.05
"""How long changes are gathered before positions are told, so that a burst of them costs one round."""
UNRESPONSIVE_S = 2.0
"""How long after the drain's end an engine may take to end its jobs before they are ended for it."""


class JobService:
    """One per worker. `on_event` is told of every recorded event, for metrics."""

    def __init__(
        self, engine: Engine, limits: Limits, on_event: Callable[[Job, Event], None] = lambda job, event: None
    ) -> None:
        self.engine = engine
        self.limits = limits
        self.store = JobStore(limits)
        self._on_event = on_event
        self._accepting = True
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._positions_due: asyncio.TimerHandle | None = None
        self._quiet = asyncio.Event()
        self._hurried = False

    def submit(self, params: JobParams, key: str | None = None, digest: bytes = b"") -> tuple[Job, bool]:
        """The accepted job and True, or the one this idempotency key already stands for and False.

        Raises IdempotencyConflict, Draining, WorkerFailed, QueueFull.
        """
        if key is not None and (known := self.store.by_key(key, digest)) is not None:
            return known, False
        snapshot = self.engine.snapshot()
        if snapshot.state is EngineState.FAILED:
            raise errors.WorkerFailed
        if not self._accepting or snapshot.state in (EngineState.DRAINING, EngineState.STOPPED):
            raise errors.Draining
        job = Job(params)
        try:
            self.engine.submit(Work(job.id, params, accepted_at=job.accepted_at))
        except Full:
            raise errors.QueueFull(self._retry_after_s(snapshot)) from None
        self.store.add(job, key, digest)
        # The engine may have taken it already; its `Started` is then on the way and comes after this.
        self._record(job, Queued(*self.places().get(job.id, (0, None))))
        self._positions_changed()  # of those that it came in front of
        loop = asyncio.get_running_loop()
        self._timers[job.id] = loop.call_later(params.timeout_s, self.cancel, job.id, CancelReason.TIMEOUT)
        return job, True

    def cancel(self, job_id: str, reason: CancelReason = CancelReason.REQUESTED) -> Job:
        """Cancel if it has not ended; a running job ends within a step. Raises JobNotFound, JobExpired."""
        job = self.store.get(job_id)
        if not job.ended:
            job.cancel_reason = job.cancel_reason or reason
            if self.engine.cancel(job_id, job.cancel_reason):
                self._cancel_waiting(job, job.cancel_reason)
                self._positions_changed()
        return job

    def receive(self, events: Iterable[tuple[str, Event]]) -> None:
        """What the engine tells, in order. Events for a job that was ended here meanwhile come too late."""
        started = False
        for job_id, event in events:
            job = self.store.find(job_id)
            if job is None or job.ended:
                continue
            started = started or isinstance(event, Started)
            self._record(job, event)
        if started:
            self._positions_changed()

    def places(self) -> dict[str, tuple[int, float | None]]:
        """(position, eta_s) of every waiting job at this moment, the estimate as the engine was measured so far."""
        snapshot = self.engine.snapshot()
        places: dict[str, tuple[int, float | None]] = {}
        ahead, image_step_s = snapshot.running_image_steps, snapshot.image_step_s
        for position, job_id in enumerate(snapshot.waiting):
            if (job := self.store.find(job_id)) is not None:
                ahead += job.params.steps * job.params.num_images
            places[job_id] = position, None if image_step_s is None else round(ahead * image_step_s, 3)
        return places

    def eta_s(self) -> float | None:
        """Seconds until everything that was accepted is done; None while the engine's pace is unknown."""
        snapshot = self.engine.snapshot()
        if snapshot.image_step_s is None:
            return None
        waiting = (self.store.find(job_id) for job_id in snapshot.waiting)
        steps = sum(job.params.steps * job.params.num_images for job in waiting if job is not None)
        return round((snapshot.running_image_steps + steps) * snapshot.image_step_s, 3)

    def reader_left(self, job: Job) -> None:
        """Tell that a stream was closed by its reader; the last one may take the job along."""
        if job.params.on_disconnect is OnDisconnect.CANCEL and job.log.readers == 0 and not job.ended:
            self.cancel(job.id, CancelReason.DISCONNECTED)

    async def drain(self, budget_s: float) -> None:
        """Accept nothing more, end what waits, let what runs finish within `budget_s`, then end it too."""
        self._accepting = False
        for job_id in self.engine.drain():
            if (job := self.store.find(job_id)) is not None and not job.ended:
                self._cancel_waiting(job, CancelReason.SHUTDOWN)
        await self._until_quiet(0.0 if self._hurried else budget_s)
        for job in self.store.unended():
            self.cancel(job.id, CancelReason.SHUTDOWN)
        await self._until_quiet(UNRESPONSIVE_S)
        for job in self.store.unended():
            self._record(job, Cancelled(CancelReason.SHUTDOWN))

    def hurry(self) -> None:
        """Cut the budget of a drain short: what still runs is cancelled now."""
        self._hurried = True  # in case the drain has not begun to wait yet
        self._quiet.set()

    async def _until_quiet(self, timeout_s: float) -> None:
        self._quiet.clear()
        if self.store.unended():
            try:
                await asyncio.wait_for(self._quiet.wait(), timeout_s)
            except TimeoutError:
                return

    def _cancel_waiting(self, job: Job, reason: CancelReason) -> None:
        waited_s = round(time.monotonic() - job.accepted_at, 4)
        self._record(job, Cancelled(reason, Timings(queue_s=waited_s, total_s=waited_s)))

    def _record(self, job: Job, event: Event) -> None:
        job.record(event)
        self._on_event(job, event)
        if isinstance(event, Ending):
            if (timer := self._timers.pop(job.id, None)) is not None:
                timer.cancel()
            self.store.note_ended(job)
            if not self.store.unended():
                self._quiet.set()

    def _positions_changed(self, in_s: float = SETTLE_S) -> None:
        if self._positions_due is None:
            self._positions_due = asyncio.get_running_loop().call_later(in_s, self._tell_positions)

    def _tell_positions(self) -> None:
        """Tell waiting jobs that they moved, each at most once in `POSITION_EVERY_S`."""
        self._positions_due = None
        now, next_due_s = time.monotonic(), math.inf
        for job_id, (position, eta_s) in self.places().items():
            job = self.store.find(job_id)
            if job is None or job.ended or job.position == position:
                continue
            if (due_s := job.told_at + POSITION_EVERY_S - now) <= 0:
                self._record(job, Queued(position, eta_s))
            else:
                next_due_s = min(next_due_s, due_s)
        if next_due_s < math.inf:
            self._positions_changed(max(SETTLE_S, next_due_s))

    def _retry_after_s(self, snapshot: Snapshot) -> int:
        """Whole seconds until a place in the queue should be free: when the first waiting job is taken up."""
        if snapshot.image_step_s is None or snapshot.running == 0:
            return 5
        per_job = snapshot.running_image_steps / snapshot.running
        return max(1, min(600, math.ceil(per_job * snapshot.image_step_s)))
