"""What the worker remembers of jobs, for how long, and what it says afterwards."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.fakes import LIMITS, make_params
from worker import errors
from worker.jobs.events import Cancelled, CancelReason, Completed, Image, Started, Timings
from worker.jobs.job import Job
from worker.jobs.params import ImageFormat
from worker.jobs.store import REMEMBERED_IDS, JobStore


def store_with(**limits: Any) -> JobStore:
    return JobStore(replace(LIMITS, **limits))


def add(store: JobStore, key: str | None = None, digest: bytes = b"") -> Job:
    job = Job(make_params())
    store.add(job, key, digest)
    return job


def end(store: JobStore, job: Job, size: int | None = None) -> None:
    """End `job`: with a picture of `size` bytes, or cancelled."""
    if size is None:
        job.record(Cancelled(CancelReason.REQUESTED))
    else:
        job.record(Started(1))
        job.record(Completed((Image(0, 1, 64, 64, ImageFormat.PNG, bytes(size)),), Timings()))
    store.note_ended(job)


def test_known_jobs_in_both_orders() -> None:
    store = store_with()
    one, two, three = (add(store) for _ in range(3))
    end(store, two)
    assert store.get(two.id) is store.find(two.id) is two
    assert store.newest_first() == [three, two, one]
    assert store.unended() == [one, three]
    assert len(store) == 3


def test_never_heard_of() -> None:
    store = store_with()
    assert store.find("job_0") is None
    with pytest.raises(errors.JobNotFound):
        store.get("job_0")


def test_too_many_the_one_that_ended_first_goes_first() -> None:
    store = store_with(retained_jobs=2)
    long, short, shorter = (add(store) for _ in range(3))
    for job in (shorter, short, long):  # the reverse of acceptance
        end(store, job)
    assert store.newest_first() == [short, long], "what has only just ended can still be fetched"
    with pytest.raises(errors.JobExpired):
        store.get(shorter.id)


def test_too_old_whatever_was_accepted_before_it() -> None:
    store = store_with(retained_s=60)
    recent, old = add(store), add(store)
    end(store, old)
    end(store, recent)
    assert old.ended_at is not None
    old.ended_at -= 61
    assert store.newest_first() == [recent]
    with pytest.raises(errors.JobExpired):
        store.get(old.id)


def test_too_large() -> None:
    store = store_with(retained_bytes=100)
    one, two, three = (add(store) for _ in range(3))
    end(store, one, 60)
    end(store, two, 40)
    assert len(store) == 3, "just enough"
    end(store, three, 1)
    assert store.newest_first() == [three, two]
    four = add(store)
    end(store, four, 59)
    assert store.newest_first() == [four, three, two], "what was forgotten no longer counts"


def test_what_has_not_ended_is_never_forgotten() -> None:
    store = store_with(retained_jobs=0, retained_bytes=0, retained_s=0)
    waiting, running = add(store), add(store)
    running.record(Started(1))
    for _ in range(3):
        end(store, add(store), 10)
    assert store.newest_first() == [running, waiting]


def test_a_key_stands_for_its_job_as_long_as_that_is_known() -> None:
    store = store_with(retained_jobs=1)
    job = add(store, "key", b"body")
    assert store.by_key("key", b"body") is job
    assert store.by_key("other key", b"body") is None
    with pytest.raises(errors.IdempotencyConflict):
        store.by_key("key", b"other body")
    end(store, job)
    assert store.by_key("key", b"body") is job, "also when it has ended"
    end(store, add(store))
    assert store.by_key("key", b"body") is None, "the key is free again"
    assert store.by_key("key", b"other body") is None


def test_a_key_that_two_restored_jobs_had_stands_for_the_later_one() -> None:
    before = store_with(retained_jobs=2)
    earlier, later = add(before), add(before)
    end(before, earlier)
    store = store_with(retained_jobs=0)
    store.restore([(earlier, "key", b"body"), (later, "key", b"body")], expired=[])
    assert store.newest_first() == [later]
    assert store.by_key("key", b"body") is later
    end(store, later)
    assert store.by_key("key", b"body") is None
    end(store, add(store, "key", b"body"))
    assert not len(store)


def test_forgotten_ids_are_remembered_a_while_and_not_for_ever() -> None:
    store = store_with(retained_jobs=0)
    first, second = add(store), add(store)
    end(store, first)
    end(store, second)
    for _ in range(REMEMBERED_IDS - 1):
        end(store, add(store))
    with pytest.raises(errors.JobNotFound):
        store.get(first.id)
    with pytest.raises(errors.JobExpired):
        store.get(second.id)
    assert len(store) == 0
