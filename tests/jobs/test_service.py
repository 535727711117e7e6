"""The service over an engine that does only what the test says."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest

from tests.fakes import LIMITS, SECRET, make_params
from worker import errors
from worker.jobs.engine import EngineState, Load, Pace, Snapshot
from worker.jobs.events import Cancelled, CancelReason, Completed, Event, Failed, Queued, Started, Timings
from worker.jobs.job import Job, Status
from worker.jobs.journal import Kept, NoJournal, Restored
from worker.jobs.log import Entry
from worker.jobs.params import OnDisconnect
from worker.jobs.positions import EVERY_S
from worker.jobs.queue import Full, Work
from worker.jobs.service import JobService

WAIT_S = 10.0
DONE = Completed((), Timings())
SHUTDOWN = Cancelled(CancelReason.SHUTDOWN)


class Scripted:
    """The four words. Takes nothing up unless told with `take_up`, and notes every cancellation of what runs."""

    def __init__(self, capacity: int = 8) -> None:
        self.capacity = capacity
        self.state = EngineState.READY
        self.healthy = True
        self.queue: list[Work] = []
        self.loads: list[Load] = []
        self.pace: Pace | None = None
        self.cancellations: asyncio.Queue[tuple[str, CancelReason]] = asyncio.Queue()
        self.drained = asyncio.Event()

    def submit(self, work: Work, *, whatever_waits: bool = False) -> None:
        if len(self.queue) >= self.capacity and not whatever_waits:
            raise Full
        self.queue.append(work)

    def cancel(self, job_id: str, reason: CancelReason) -> bool:
        for work in self.queue:
            if work.job_id == job_id:
                self.queue.remove(work)
                return True
        self.cancellations.put_nowait((job_id, reason))
        return False

    def snapshot(self) -> Snapshot:
        waiting = tuple(work.job_id for work in self.queue)
        return Snapshot(self.state, self.healthy, 1.0, waiting, tuple(self.loads), self.pace)

    def drain(self) -> list[str]:
        if self.state is EngineState.READY:
            self.state = EngineState.DRAINING
        self.drained.set()
        waiting, self.queue = self.queue, []
        return [work.job_id for work in waiting]

    def take_up(self, service: JobService) -> None:
        """The first waiting job starts."""
        self.loads.append(Load(2, 4, 1))
        service.receive([(self.queue.pop(0).job_id, Started(1))])


@pytest.fixture
async def engine() -> Scripted:
    return Scripted()


@pytest.fixture
async def service(engine: Scripted) -> JobService:
    return JobService(engine, LIMITS)


def submit(service: JobService, **changes: Any) -> Job:
    return service.submit(make_params(**changes))[0]


def start(service: JobService, engine: Scripted, **changes: Any) -> Job:
    """A job that runs."""
    job = submit(service, **changes)
    engine.take_up(service)
    return job


async def events(job: Job, after: int = 0) -> list[Event]:
    """Everything of a job until its ending."""
    async with asyncio.timeout(WAIT_S):
        return [entry.event async for entry in job.log.follow(after)]


async def next_event(job: Job, after: int) -> Event:
    async with asyncio.timeout(WAIT_S):
        return (await anext(job.log.follow(after))).event


class TestSubmit:
    async def test_gives_a_job_that_knows_its_place(self, service: JobService, engine: Scripted) -> None:
        job, created = service.submit(make_params())
        second = submit(service)
        assert created
        assert service.store.get(job.id) is job
        assert [work.job_id for work in engine.queue] == [job.id, second.id]
        assert (job.status, job.position, second.position) == (Status.QUEUED, 0, 1)
        assert job.log.last_id == 1

    async def test_an_estimate_counts_all_that_is_ahead(self, service: JobService, engine: Scripted) -> None:
        engine.loads, engine.pace = [Load(2, 10, 1)], Pace(2, 0.5, 0.0, 0.25)
        one, two = submit(service, steps=4), submit(service, steps=3)
        assert (one.eta_s, two.eta_s) == (7.5, 9.25)
        assert service.positions.all() == {one.id: (0, 7.5), two.id: (1, 9.25)}
        assert service.positions.eta_s() == 9.25

    async def test_a_key_gives_the_same_job_even_when_nothing_else_is_taken(
        self, service: JobService, engine: Scripted
    ) -> None:
        job, _ = service.submit(make_params(), "key", b"body")
        engine.capacity = 0
        assert service.submit(make_params(), "key", b"body") == (job, False)
        engine.state = EngineState.FAILED
        assert service.submit(make_params(), "key", b"body") == (job, False)
        with pytest.raises(errors.IdempotencyConflict):
            service.submit(make_params(), "key", b"another")
        assert len(engine.queue) == 1

    async def test_a_full_queue_says_when_to_come_back(self, service: JobService, engine: Scripted) -> None:
        engine.capacity = 0
        with pytest.raises(errors.QueueFull) as unknown:
            submit(service)
        assert unknown.value.headers == {"Retry-After": "5"}
        engine.loads, engine.pace = [Load(2, 9, 1), Load(2, 5, 1)], Pace(4, 0.5, 0.0, 0.0)
        with pytest.raises(errors.QueueFull) as measured:
            submit(service)
        assert measured.value.headers == {"Retry-After": "3"}
        assert len(service.store) == 0

    @pytest.mark.parametrize(
        ("state", "error"),
        [
            (EngineState.FAILED, errors.WorkerFailed),
            (EngineState.STOPPED, errors.Draining),
            (EngineState.DRAINING, errors.Draining),
        ],
    )
    async def test_an_engine_that_takes_nothing(
        self, service: JobService, engine: Scripted, state: EngineState, error: type[Exception]
    ) -> None:
        engine.state = state
        with pytest.raises(error):
            submit(service)
        assert (len(service.store), engine.queue) == (0, [])

    async def test_jobs_wait_while_the_model_loads(self, service: JobService, engine: Scripted) -> None:
        engine.state = EngineState.LOADING
        assert submit(service).status is Status.QUEUED


class TestReceive:
    async def test_events_come_to_their_jobs_and_to_the_listener(self, engine: Scripted) -> None:
        heard: list[tuple[Job, Event]] = []
        service = JobService(engine, LIMITS, lambda job, event: heard.append((job, event)))
        job = start(service, engine)
        service.receive([(job.id, DONE)])
        assert job.status is Status.COMPLETED
        assert heard == [(job, Queued(0, None)), (job, Started(1)), (job, DONE)]

    async def test_what_comes_for_an_ended_or_unknown_job_is_passed_over(
        self, service: JobService, engine: Scripted
    ) -> None:
        job, other = start(service, engine), start(service, engine)
        service.receive([(job.id, DONE)])
        service.receive([(job.id, SHUTDOWN), ("job_0", Started(1)), (other.id, DONE)])
        assert (job.status, job.log.last_id) == (Status.COMPLETED, 3)
        assert other.status is Status.COMPLETED


class TestPositions:
    async def test_who_waits_is_told_when_it_moves(self, service: JobService, engine: Scripted) -> None:
        first, second, third = (submit(service) for _ in range(3))
        second.told_at = third.told_at = 0.0
        engine.take_up(service)
        assert await next_event(second, after=1) == Queued(0, None)
        assert await next_event(third, after=1) == Queued(1, None)
        assert first.log.last_id == 2, "what runs has no position"

    async def test_at_most_once_a_second_and_then_the_newest(self, service: JobService, engine: Scripted) -> None:
        _, middle, last = (submit(service) for _ in range(3))
        told_at = last.told_at
        engine.take_up(service)
        service.cancel(middle.id)
        assert await next_event(last, after=1) == Queued(0, None), "the position between was never told"
        assert time.monotonic() - told_at >= EVERY_S


class TestCancel:
    async def test_what_waits_ends_at_once(self, service: JobService, engine: Scripted) -> None:
        job = submit(service)
        assert service.cancel(job.id) is job
        assert (job.status, job.position, engine.queue) == (Status.CANCELLED, None, [])
        assert job.timings.queue_s is not None
        assert job.timings.queue_s == job.timings.total_s

    async def test_what_runs_ends_when_the_engine_says_so(self, service: JobService, engine: Scripted) -> None:
        job = start(service, engine)
        service.cancel(job.id)
        assert job.status is Status.RUNNING
        assert engine.cancellations.get_nowait() == (job.id, CancelReason.REQUESTED)
        service.receive([(job.id, Cancelled(CancelReason.REQUESTED))])
        assert job.status is Status.CANCELLED

    async def test_twice_keeps_the_first_reason_and_the_ended_is_left_alone(
        self, service: JobService, engine: Scripted
    ) -> None:
        job = start(service, engine)
        service.cancel(job.id, CancelReason.DISCONNECTED)
        service.cancel(job.id)
        asked = [engine.cancellations.get_nowait() for _ in range(2)]
        assert asked == [(job.id, CancelReason.DISCONNECTED)] * 2
        service.receive([(job.id, DONE)])
        assert service.cancel(job.id).status is Status.COMPLETED
        assert engine.cancellations.empty()

    async def test_unknown_and_expired(self, engine: Scripted) -> None:
        service = JobService(engine, replace(LIMITS, retained_jobs=0))
        with pytest.raises(errors.JobNotFound):
            service.cancel("job_0")
        job = submit(service)
        service.cancel(job.id)
        with pytest.raises(errors.JobExpired):
            service.cancel(job.id)

    async def test_the_time_is_over_for_what_waits(self, service: JobService, engine: Scripted) -> None:
        job = submit(service, timeout_s=0.01)
        assert (await events(job))[-1] == Cancelled(CancelReason.TIMEOUT, job.timings)
        assert engine.queue == []

    async def test_the_time_is_over_for_what_runs(self, service: JobService, engine: Scripted) -> None:
        job = start(service, engine, timeout_s=0.01)
        async with asyncio.timeout(WAIT_S):
            assert await engine.cancellations.get() == (job.id, CancelReason.TIMEOUT)

    async def test_the_last_reader_takes_along_the_job_that_asked_for_it(
        self, service: JobService, engine: Scripted
    ) -> None:
        stays, goes = submit(service), submit(service, on_disconnect=OnDisconnect.CANCEL)
        one, two = goes.log.follow(0), goes.log.follow(0)
        await anext(one)
        await anext(two)
        await one.aclose()
        service.reader_left(goes)
        assert not goes.ended, "somebody still reads"
        await two.aclose()
        service.reader_left(goes)
        service.reader_left(goes)
        assert goes.cancel_reason is CancelReason.DISCONNECTED
        assert goes.status is Status.CANCELLED
        service.reader_left(stays)
        assert not stays.ended


class TestDrain:
    async def test_with_nothing_to_do_it_is_over_at_once(self, service: JobService) -> None:
        async with asyncio.timeout(1):
            await service.drain(3600)
        with pytest.raises(errors.Draining):
            submit(service)

    async def test_what_waits_ends_and_what_runs_finishes(self, service: JobService, engine: Scripted) -> None:
        running, waiting = start(service, engine), submit(service)
        draining = asyncio.create_task(service.drain(3600))
        ending = (await events(waiting))[-1]
        assert isinstance(ending, Cancelled)
        assert ending.reason is CancelReason.SHUTDOWN
        assert ending.timings.total_s is not None
        assert not running.ended
        service.receive([(running.id, DONE)])
        await asyncio.wait_for(draining, WAIT_S)
        assert running.status is Status.COMPLETED
        assert engine.cancellations.empty()

    async def test_when_the_budget_is_over_what_runs_is_cancelled(self, service: JobService, engine: Scripted) -> None:
        job = start(service, engine)
        draining = asyncio.create_task(service.drain(0.01))
        async with asyncio.timeout(WAIT_S):
            assert await engine.cancellations.get() == (job.id, CancelReason.SHUTDOWN)
            service.receive([(job.id, SHUTDOWN)])
            await draining
        assert job.log.last_id == 3

    async def test_the_first_reason_is_told_where_the_engine_never_answers(
        self, service: JobService, engine: Scripted, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("worker.jobs.service.UNRESPONSIVE_S", 0.01)
        asked, other = start(service, engine), start(service, engine)
        service.cancel(asked.id)
        await service.drain(0.01)
        assert (await events(asked))[-1] == Cancelled(CancelReason.REQUESTED)
        assert (await events(other))[-1] == SHUTDOWN

    async def test_hurry_cuts_the_budget_and_then_the_engine_short(self, service: JobService, engine: Scripted) -> None:
        job = start(service, engine)
        draining = asyncio.create_task(service.drain(3600))
        async with asyncio.timeout(WAIT_S):
            await engine.drained.wait()
            service.hurry()
            assert await engine.cancellations.get() == (job.id, CancelReason.SHUTDOWN)
            await draining  # the engine never answers
        assert (await events(job))[-1] == SHUTDOWN

    async def test_a_hurry_that_comes_before_the_drain_has_begun_counts(
        self, service: JobService, engine: Scripted
    ) -> None:
        job = start(service, engine)
        draining = asyncio.create_task(service.drain(3600))
        service.hurry()  # two signals at once: the task has not run yet
        async with asyncio.timeout(WAIT_S):
            assert await engine.cancellations.get() == (job.id, CancelReason.SHUTDOWN)
            service.receive([(job.id, SHUTDOWN)])
            await draining


class KeepsInMind(NoJournal):
    """A journal that outlives its service, and no process."""

    durable = True

    def __init__(self) -> None:
        self.written: list[tuple[str, Event]] = []
        self.is_full = False

    def accept(self, job: Job, first: Entry, key: str | None, digest: bytes) -> None:
        if self.is_full:
            raise errors.StorageFull
        self.record([(job, first)])

    def record(self, entries: Iterable[tuple[Job, Entry]]) -> None:
        self.written += [(job.id, entry.event) for job, entry in entries]


def kept(*events: Event, kills: int = 0, model_id: str = "fake", **changes: Any) -> Kept:
    job = Job(make_params(**changes))
    for event in (Queued(0, None), *events):
        job.record(event)
    return Kept(job, None, b"", kills, model_id)


class FailsToTidy(KeepsInMind):
    """Neither what was forgotten can be written down, nor what was written be brought into its place."""

    def __init__(self) -> None:
        super().__init__()
        self.tried = threading.Semaphore(0)

    def tidy(self) -> None:
        raise RuntimeError(SECRET)

    def checkpoint(self) -> None:
        self.tried.release()
        raise OSError(SECRET)


class TestJournal:
    @pytest.fixture
    async def journal(self) -> KeepsInMind:
        return KeepsInMind()

    @pytest.fixture
    async def service(self, engine: Scripted, journal: KeepsInMind) -> JobService:
        return JobService(engine, LIMITS, journal=journal)

    async def test_nobody_is_told_before_it_is_written(
        self, service: JobService, engine: Scripted, journal: KeepsInMind
    ) -> None:
        job = start(service, engine)

        async def written_when_told() -> list[int]:
            return [
                len([job_id for job_id, _ in journal.written if job_id == job.id])
                async for batch in job.log.batches(0, lambda batch: True)
                for _ in batch
            ]

        reader = asyncio.create_task(written_when_told())
        await asyncio.sleep(0)
        service.receive([(job.id, Completed((), Timings()))])
        assert await reader == [2, 2, 3]

    async def test_a_job_that_cannot_be_written_is_not_accepted(
        self, service: JobService, engine: Scripted, journal: KeepsInMind
    ) -> None:
        journal.is_full = True
        with pytest.raises(errors.StorageFull):
            service.submit(make_params(), "key", b"")
        assert (len(service.store), engine.queue) == (0, [])
        journal.is_full = False
        assert service.submit(make_params(), "key", b"")[1], "the key is as good as new"

    async def test_a_drain_leaves_what_is_not_done(
        self, service: JobService, engine: Scripted, journal: KeepsInMind
    ) -> None:
        running, waiting = start(service, engine), submit(service)
        readers = [asyncio.create_task(events(job)) for job in (running, waiting)]
        await service.drain(0.01)
        for reader in readers:
            assert isinstance((await reader)[-1], (Queued, Started))
        assert (running.status, waiting.status) == (Status.QUEUED, Status.QUEUED)
        assert isinstance(journal.written[-1][1], Queued)
        service.receive([(running.id, Cancelled(CancelReason.SHUTDOWN))])
        assert not running.ended

    async def test_what_runs_while_the_device_hangs_is_left_as_it_is(
        self, service: JobService, engine: Scripted, journal: KeepsInMind
    ) -> None:
        running, cancelled, waiting = start(service, engine), start(service, engine), submit(service)
        service.cancel(cancelled.id)
        readers = [asyncio.create_task(events(job)) for job in (running, waiting)]
        engine.healthy = False
        await service.drain(0.01)
        assert [(await reader)[-1] for reader in readers] == [Started(1), Queued(0, None)], "sent away"
        assert [event for job_id, event in journal.written if job_id == running.id] == [Queued(0, None), Started(1)]
        assert cancelled.status is Status.CANCELLED
        service.receive([(running.id, Cancelled(CancelReason.SHUTDOWN))])
        assert not running.ended
        service.cancel(running.id)
        assert running.status is Status.CANCELLED

    async def test_what_was_only_encoded_when_the_engine_failed_is_put_back(
        self, service: JobService, engine: Scripted, journal: KeepsInMind
    ) -> None:
        encoding = start(service, engine)
        engine.state, engine.healthy = EngineState.FAILED, False
        await service.drain(0.0)
        assert journal.written[-1] == (encoding.id, Queued(0, None))

    async def test_a_cancel_in_the_last_moment_is_not_lost(
        self, service: JobService, engine: Scripted, journal: KeepsInMind
    ) -> None:
        job = start(service, engine)
        await service.drain(0.01)
        service.cancel(job.id)
        assert job.status is Status.CANCELLED
        assert journal.written[-1] == (job.id, job_ending(job))

    async def test_nor_is_one_of_a_waiting_job_while_others_finish(
        self, service: JobService, engine: Scripted, journal: KeepsInMind
    ) -> None:
        start(service, engine)
        waiting = submit(service)
        draining = asyncio.create_task(service.drain(3600))
        await engine.drained.wait()
        service.cancel(waiting.id)
        assert waiting.status is Status.CANCELLED
        assert journal.written[-1] == (waiting.id, job_ending(waiting))
        service.hurry()
        await asyncio.wait_for(draining, WAIT_S)

    async def test_nor_one_that_the_engine_has_not_come_to(
        self, service: JobService, engine: Scripted, journal: KeepsInMind
    ) -> None:
        cancelled, goes_on = start(service, engine), start(service, engine)
        service.cancel(cancelled.id)
        await service.drain(0.01)
        assert (cancelled.status, goes_on.status) == (Status.CANCELLED, Status.QUEUED)
        assert (cancelled.id, Cancelled(CancelReason.REQUESTED)) in journal.written

    async def test_the_house_is_kept_whatever_goes_wrong(
        self, engine: Scripted, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr("worker.jobs.service.HOUSEKEEPING_S", 0.0)
        journal = FailsToTidy()
        keeping = asyncio.create_task(JobService(engine, LIMITS, journal=journal).keep_house())
        for _ in range(3):
            assert await asyncio.to_thread(journal.tried.acquire, timeout=WAIT_S)
        keeping.cancel()
        with pytest.raises(asyncio.CancelledError):
            await keeping
        assert {"RuntimeError", "OSError"} == {record.getMessage().rpartition(" ")[2] for record in caplog.records}
        assert SECRET not in caplog.text

    async def test_an_engine_that_never_came_up_ends_no_waiting_job(
        self, service: JobService, engine: Scripted
    ) -> None:
        running, waiting = start(service, engine), submit(service)
        failed = Failed("engine_failed", "", True)
        service.receive([(running.id, failed), (waiting.id, failed)])
        assert (running.status, waiting.status) == (Status.FAILED, Status.QUEUED)

    async def test_what_an_earlier_process_left(self, engine: Scripted) -> None:
        waits, ran, killer = kept(), kept(Started(1), kills=1), kept(Started(2), kills=2)
        other_model, done = kept(model_id="another"), kept(Started(1), Completed((), Timings()))
        too_late = kept(timeout_s=0.001)
        await asyncio.sleep(0.002)
        service = JobService(engine, LIMITS, journal=KeepsInMind())
        engine.capacity = 0
        service.restore(Restored([ran, waits, killer, other_model, done, too_late]), "fake")
        queued = [(work.job_id, work.attempt, work.alone) for work in engine.queue]
        assert queued[:2] == [(ran.job.id, 2, True), (waits.job.id, 1, False)]
        assert (ran.job.status, waits.job.status, done.job.status) == (Status.QUEUED, Status.QUEUED, Status.COMPLETED)
        assert killer.job.failure is not None
        assert killer.job.failure.code == "poisoned"
        assert other_model.job.failure is not None
        assert other_model.job.failure.code == "invalid_input"
        assert (await events(too_late.job))[-1] == job_ending(too_late.job)
        assert too_late.job.cancel_reason is CancelReason.TIMEOUT

    async def test_whoever_holds_what_was_restored_holds_no_pictures(self, engine: Scripted) -> None:
        restored = Restored([kept(), kept(Started(1), Completed((), Timings()))])
        service = JobService(engine, LIMITS, journal=KeepsInMind())
        service.restore(restored, "fake")
        assert (len(service.store.newest_first()), restored.jobs) == (2, [])


def job_ending(job: Job) -> Event:
    """The last event of a job that has ended."""
    assert job.ended
    return job.log._entries[-1].event
