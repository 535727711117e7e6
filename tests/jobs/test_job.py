"""A job's status follows from its events, and from no others than may come."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import get_args

import pytest

from tests.fakes import make_params
from worker.jobs.events import (
    Cancelled,
    CancelReason,
    Completed,
    Event,
    Failed,
    Image,
    Preview,
    Progress,
    Queued,
    Started,
    Timings,
)
from worker.jobs.job import IllegalTransition, Job, Status
from worker.jobs.params import ImageFormat

TIMINGS = Timings(queue_s=0.5, total_s=2.0)
COMPLETED = Completed((Image(0, 1, 64, 64, ImageFormat.PNG, b"png"),), TIMINGS)
FAILED = Failed("nan_output", "not a number", False, TIMINGS)
CANCELLED = Cancelled(CancelReason.TIMEOUT, TIMINGS)
EVENTS: list[Event] = [
    Queued(2, 3.5),
    Started(1),
    Progress(1, 4, 1.5),
    Preview(1, 4, 8, 8, ImageFormat.JPEG, b"jpeg"),
    COMPLETED,
    FAILED,
    CANCELLED,
]
PATHS: dict[Status, list[Event]] = {
    Status.QUEUED: [],
    Status.RUNNING: [Started(1)],
    Status.COMPLETED: [Started(1), COMPLETED],
    Status.FAILED: [FAILED],
    Status.CANCELLED: [CANCELLED],
}
LEGAL = {
    (Status.QUEUED, Queued): Status.QUEUED,
    (Status.QUEUED, Started): Status.RUNNING,
    (Status.QUEUED, Failed): Status.FAILED,
    (Status.QUEUED, Cancelled): Status.CANCELLED,
    (Status.RUNNING, Queued): Status.QUEUED,
    (Status.RUNNING, Progress): Status.RUNNING,
    (Status.RUNNING, Preview): Status.RUNNING,
    (Status.RUNNING, Completed): Status.COMPLETED,
    (Status.RUNNING, Failed): Status.FAILED,
    (Status.RUNNING, Cancelled): Status.CANCELLED,
}


def job_after(*events: Event) -> Job:
    job = Job(make_params())
    for event in events:
        job.record(event)
    return job


def test_the_table_knows_every_event_and_status() -> None:
    assert {type(event) for event in EVENTS} == set(get_args(Event))
    assert set(PATHS) == set(Status)


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
@pytest.mark.parametrize("status", Status)
def test_every_event_on_every_status(status: Status, event: Event) -> None:
    job = job_after(*PATHS[status])
    before = job.log.last_id
    if (then := LEGAL.get((status, type(event)))) is None:
        with pytest.raises(IllegalTransition, match=f"{type(event).__name__} while {status}"):
            job.record(event)
        assert (job.status, job.log.last_id) == (status, before), "a refused event leaves no trace"
    else:
        job.record(event)
        assert (job.status, job.log.last_id) == (then, before + 1)
    assert job.ended == job.log.ended == (job.ended_at is not None) == (job.finished_at is not None)


def test_a_job_that_is_put_back_starts_from_nothing() -> None:
    job = job_after(Queued(0, None), Started(1), Progress(3, 4, 0.5))
    job.record(Queued(2, None))
    assert (job.status, job.position, job.started_at, job.attempt) == (Status.QUEUED, 2, None, 1)
    assert job.progress.step == 0
    job.record(Started(2))
    assert (job.status, job.attempt, job.log.last_id) == (Status.RUNNING, 2, 5)


def test_what_happened_in_an_earlier_process_keeps_its_time() -> None:
    created = datetime(2026, 1, 2, tzinfo=UTC)
    job = Job(make_params(), "job_of_old", created)
    job.record(Queued(0, None), created)
    job.record(Cancelled(CancelReason.REQUESTED), created + timedelta(minutes=1))
    assert (job.id, job.created_at, job.finished_at) == ("job_of_old", created, created + timedelta(minutes=1))
    assert job.ended_at is not None
    assert job.ended_at - job.accepted_at == pytest.approx(60.0, abs=1.0)


def test_nothing_is_in_the_future_though_an_earlier_process_s_clock_was_ahead() -> None:
    ahead = datetime.now(UTC) + timedelta(hours=5)
    job = Job(make_params(), created_at=ahead)
    job.record(Queued(0, None))
    job.record(CANCELLED, at=ahead)
    assert job.accepted_at <= time.monotonic()
    assert job.ended_at is not None
    assert job.ended_at <= time.monotonic()


def test_ids_tell_nothing_and_do_not_repeat() -> None:
    ids = {job_after().id for _ in range(100)}
    assert len(ids) == 100
    assert all(job_id.startswith("job_") and len(job_id) == 28 for job_id in ids)


def test_a_life_from_the_queue_to_the_pictures() -> None:
    job = job_after(Queued(2, 9.0))
    assert (job.position, job.eta_s, job.attempt, job.started_at) == (2, 9.0, 0, None)
    job.record(Queued(0, 5.0))
    assert (job.position, job.eta_s) == (0, 5.0)
    job.record(Started(1))
    assert (job.position, job.attempt) == (None, 1)
    assert job.started_at is not None
    assert job.progress == Progress(0, 4, None)
    job.record(Progress(3, 4, 1.0))
    assert (job.progress.step, job.progress.percent, job.eta_s) == (3, 75.0, 1.0)
    job.record(COMPLETED)
    assert (job.images, job.timings, job.eta_s, job.failure) == (COMPLETED.images, TIMINGS, None, None)
    assert job.finished_at is not None
    assert job.created_at <= job.started_at <= job.finished_at


def test_a_failure_is_kept_with_its_timings() -> None:
    job = job_after(Queued(1, 9.0), FAILED)
    assert (job.failure, job.timings, job.images) == (FAILED, TIMINGS, ())
    assert (job.position, job.eta_s) == (None, None), "what has ended does not wait"
