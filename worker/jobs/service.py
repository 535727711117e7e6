"""Accepts, cancels and follows jobs: where the event loop's side and the engine's side meet.

Knows the engine by four words (submit, cancel, snapshot, drain) and gets its events through `receive`.
Lives on the event loop alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence

from worker import errors
from worker.jobs import estimates
from worker.jobs.engine import Engine, EngineState
from worker.jobs.events import Cancelled, CancelReason, Event, Failed, Queued, Started, Timings
from worker.jobs.facts import Guidance, Limits
from worker.jobs.job import Job, Status
from worker.jobs.journal import Journal, NoJournal, Restored
from worker.jobs.params import JobParams, OnDisconnect
from worker.jobs.positions import Positions
from worker.jobs.queue import Full, Work
from worker.jobs.store import JobStore

logger = logging.getLogger(__name__)

MAX_KILLS = 2
"""A job during which the process died so many times is not tried again."""
HOUSEKEEPING_S = 5.0
UNRESPONSIVE_S = 2.0
"""How long after the drain's end an engine may take to end its jobs before they are ended for it."""


class JobService:
    """One per worker. `on_event` is told of every recorded event, for metrics; `guidance` is the model's."""

    def __init__(
        self,
        engine: Engine,
        limits: Limits,
        on_event: Callable[[Job, Event], None] = lambda job, event: None,
        journal: Journal | None = None,
        guidance: Guidance = Guidance.ROWS,
    ) -> None:
        self.engine = engine
        self.limits = limits
        self.journal = journal or NoJournal()
        self.store = JobStore(limits, self.journal.forget)
        self.positions = Positions(engine, self.store, self._record, guidance)
        self._on_event = on_event
        self._accepting = True
        self._closed = False
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._quiet = asyncio.Event()
        self._hurried = False
        self.last_ending_at = -math.inf
        """When a job ended last, by the monotonic clock."""

    def restore(self, restored: Restored, model_id: str) -> None:
        """Take over what an earlier process accepted: ended jobs as they are, the others to be drawn from the start.

        `restored` is what the journal has of them. Call it once, before the engine starts.
        """
        self.store.restore(((one.job, one.key, one.digest) for one in restored.jobs), restored.expired)
        for one in restored.jobs:
            job = one.job
            if job.ended:
                continue
            if one.kills >= MAX_KILLS:
                self._fail(job, errors.Poisoned())
            elif one.model_id != model_id:
                self._fail(job, errors.InvalidInput("The worker came back with another model than this job was for"))
            else:
                attempt, alone = job.attempt + 1, one.kills > 0
                work = Work(job.id, job.params, attempt, alone, accepted_at=job.accepted_at)
                self.engine.submit(work, whatever_waits=True)
                if job.status is Status.RUNNING:
                    self._record([(job, self.positions.queued(job))])
                self._end_in_time(job)
        self.positions.changed()
        restored.jobs.clear()  # it may be held for as long as the worker lives, and with it all their pictures

    def submit(
        self, params: JobParams, key: str | None = None, digest: bytes = b"", trace_id: str | None = None
    ) -> tuple[Job, bool]:
        """The accepted job and True, or the one this idempotency key already stands for and False.

        Raises IdempotencyConflict, Draining, WorkerFailed, QueueFull, StorageFull.
        """
        if key is not None and (known := self.store.by_key(key, digest)) is not None:
            return known, False
        snapshot = self.engine.snapshot()
        if snapshot.state is EngineState.FAILED:
            raise errors.WorkerFailed
        if not self._accepting or snapshot.state in (EngineState.DRAINING, EngineState.STOPPED):
            raise errors.Draining
        job = Job(params, trace_id=trace_id)
        try:
            self.engine.submit(Work(job.id, params, accepted_at=job.accepted_at))
        except Full:
            raise errors.QueueFull(estimates.retry_after_s(snapshot)) from None
        self.store.add(job, key, digest)
        # The engine may have taken it already; its `Started` is then on the way and comes after this.
        queued = self.positions.queued(job)
        try:
            self.journal.accept(job, job.record(queued), key, digest)
        except errors.StorageFull:
            self.engine.cancel(job.id, CancelReason.REQUESTED)
            self.store.discard(job)
            raise
        self._on_event(job, queued)
        self.positions.changed()  # of those that it came in front of
        self._end_in_time(job)
        return job, True

    def cancel(self, job_id: str, reason: CancelReason = CancelReason.REQUESTED) -> Job:
        """Cancel if it has not ended; a running job ends within a step. Raises JobNotFound, JobExpired."""
        job = self.store.get(job_id)
        if not job.ended:
            job.cancel_reason = job.cancel_reason or reason
            left_for_later = job.log.closed
            if left_for_later or self.engine.cancel(job_id, job.cancel_reason):
                self._cancel_waiting(job, job.cancel_reason)
                self.positions.changed()
        return job

    def receive(self, events: Iterable[tuple[str, Event]]) -> None:
        """What the engine tells, in order. Events for a job that was ended here meanwhile come too late."""
        if self._closed:
            return
        told: list[tuple[Job, Event]] = []
        for job_id, event in events:
            job = self.store.find(job_id)
            if job is None or job.ended:
                continue
            if not self._goes_on_later(job, event):
                told.append((job, event))
        self._record(told)
        if any(isinstance(event, Started) for _, event in told):
            self.positions.changed()

    def reader_left(self, job: Job) -> None:
        """Tell that a stream was closed by its reader; the last one may take the job along."""
        if (
            job.params.on_disconnect is OnDisconnect.CANCEL
            and job.log.readers == 0
            and not (job.ended or job.log.closed)
        ):
            self.cancel(job.id, CancelReason.DISCONNECTED)

    async def drain(self, budget_s: float) -> None:
        """Accept nothing more and let what runs finish within `budget_s`. What is left then, and what waits, ends too;
        with a journal it is left for the next process, and its readers are let go."""
        self._accepting = False
        for job_id in self.engine.drain():
            job = self.store.find(job_id)
            if job is None or job.ended:
                continue
            if self.journal.durable:
                job.log.close()
            else:
                self._cancel_waiting(job, CancelReason.SHUTDOWN)
        await self._until_quiet(0.0 if self._hurried else budget_s)
        if self.journal.durable:
            self._leave_for_later()
            return
        for job in self.store.unended():
            self.cancel(job.id, CancelReason.SHUTDOWN)
        await self._until_quiet(UNRESPONSIVE_S)
        self._record([(job, Cancelled(job.cancel_reason or CancelReason.SHUTDOWN)) for job in self.store.unended()])

    def hurry(self) -> None:
        """Cut the budget of a drain short: what still runs is cancelled now."""
        self._hurried = True  # in case the drain has not begun to wait yet
        self._quiet.set()

    async def keep_house(self) -> None:
        """For ever: forget what is too old although nobody asks, and tidy the journal."""
        while True:
            await asyncio.sleep(HOUSEKEEPING_S)
            with _going_on():
                self.store.expire()
                self.journal.tidy()
            with _going_on():
                await asyncio.to_thread(self.journal.checkpoint)

    def busy(self) -> bool:
        """Whether anything is left that a drain waits for."""
        return any(not self.journal.durable or job.status is Status.RUNNING for job in self.store.unended())

    async def _until_quiet(self, timeout_s: float) -> None:
        self._quiet.clear()
        if self.busy():
            try:
                await asyncio.wait_for(self._quiet.wait(), timeout_s)
            except TimeoutError:
                return

    def _leave_for_later(self) -> None:
        """What runs is put back, so that the next process does not take it for the cause of this one's end, unless it
        may be: the engine hangs. What somebody has cancelled ends so, although the engine has not come to it."""
        self._record([(job, Cancelled(job.cancel_reason)) for job in self.store.unended() if job.cancel_reason])
        left = self.store.unended()
        running = [job for job in left if job.status is Status.RUNNING]
        engine = self.engine.snapshot()
        # One that has failed has told whose jobs it was drawing; others were only being encoded.
        if engine.healthy or engine.state is EngineState.FAILED:
            self._record([(job, Queued(position, None)) for position, job in enumerate(running)])
        self._closed = True
        for job in running:
            self.engine.cancel(job.id, CancelReason.SHUTDOWN)
        for job in left:
            job.log.close()

    def _goes_on_later(self, job: Job, event: Event) -> bool:
        """Whether `event` is the end of an engine that never took `job` up; with a journal the next process will."""
        gone = isinstance(event, Failed) and event.code == errors.EngineFailed.code
        return self.journal.durable and gone and job.status is Status.QUEUED

    def _end_in_time(self, job: Job) -> None:
        left_s = job.accepted_at + job.params.timeout_s - time.monotonic()
        loop = asyncio.get_running_loop()
        self._timers[job.id] = loop.call_later(max(0.0, left_s), self.cancel, job.id, CancelReason.TIMEOUT)

    def _cancel_waiting(self, job: Job, reason: CancelReason) -> None:
        waited_s = round(time.monotonic() - job.accepted_at, 4)
        self._record([(job, Cancelled(reason, Timings(queue_s=waited_s, total_s=waited_s)))])

    def _fail(self, job: Job, error: errors.JobFailure) -> None:
        self._record([(job, Failed(error.code, error.detail, error.retriable))])

    def _record(self, told: Sequence[tuple[Job, Event]]) -> None:
        """Readers wake when the loop goes on, so that they see nothing that is not in the journal."""
        recorded = [(job, job.record(event)) for job, event in told if not job.ended]
        if recorded:
            self.journal.record(recorded)
        for job, entry in recorded:
            self._on_event(job, entry.event)
            if entry.is_ending:
                if (timer := self._timers.pop(job.id, None)) is not None:
                    timer.cancel()
                self.last_ending_at = time.monotonic()
                self.store.note_ended(job)
        if any(entry.is_ending for _, entry in recorded) and not self.busy():
            self._quiet.set()


@contextlib.contextmanager
def _going_on() -> Iterator[None]:
    """What goes wrong is told, by its kind alone, since it might name paths; and is tried anew the next time."""
    try:
        yield
    except Exception as error:
        logger.error("the house is not in order: %s", type(error).__name__)
