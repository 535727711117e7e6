"""The queue of waiting jobs: order, bounds, and threads on both sides."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial

import pytest

from tests.conftest import eventually
from tests.fakes import make_params
from worker.jobs.params import Priority
from worker.jobs.queue import Full, JobQueue, Work

WAIT_S = 15.0


def work(job_id: str, priority: Priority = Priority.NORMAL) -> Work:
    return Work(job_id, make_params(priority=priority))


def queue_of(*waiting: Work, capacity: int = 8) -> JobQueue:
    queue = JobQueue(capacity)
    for piece in waiting:
        queue.put(piece)
    return queue


def ids(waiting: list[Work]) -> list[str]:
    return [piece.job_id for piece in waiting]


MIXED = (work("a"), work("b", Priority.LOW), work("c", Priority.HIGH), work("d"), work("e", Priority.HIGH))
ORDER = ["c", "e", "a", "d", "b"]


def test_priority_first_and_arrival_among_equals() -> None:
    queue = queue_of(*MIXED)
    assert ids(queue.waiting()) == ORDER
    assert len(queue) == 5
    assert ids([piece for _ in ORDER if (piece := queue.take())]) == ORDER
    assert queue.take() is None


def test_what_is_over_capacity_is_refused_and_changes_nothing() -> None:
    queue = queue_of(work("a"), work("b"), capacity=2)
    with pytest.raises(Full):
        queue.put(work("urgent", Priority.HIGH))
    assert ids(queue.waiting()) == ["a", "b"]
    queue.take()
    queue.put(work("c"))
    assert ids(queue.waiting()) == ["b", "c"]


def test_one_job_is_taken_out_once() -> None:
    queue = queue_of(*MIXED)
    assert queue.remove("a")
    assert not queue.remove("a")
    assert not queue.remove("never heard of")
    assert ids(queue.waiting()) == ["c", "e", "d", "b"]


def test_clear_gives_what_waited_in_order() -> None:
    queue = queue_of(*MIXED)
    assert ids(queue.clear()) == ORDER
    assert len(queue) == 0
    assert queue.clear() == []


def test_waiting_is_a_copy() -> None:
    queue = queue_of(work("a"))
    queue.waiting().clear()
    assert len(queue) == 1


def test_wait_returns_at_once_when_something_came_and_in_time_when_nothing_did() -> None:
    queue = queue_of(work("a"))
    assert queue.wait(3600)
    assert not queue.wait(0.001), "it waits still, and is no news"
    queue.put(work("b"))
    queue.wake()
    assert queue.wait(3600)
    assert not queue.wait(0.001)


def woken(queue: JobQueue, end: Callable[[JobQueue], None], waiter: threading.Thread) -> bool:
    end(queue)  # again and again: the thread may not have begun to wait
    return not waiter.is_alive()


def test_what_is_removed_is_news() -> None:
    queue = queue_of(work("a"), work("b"))
    queue.wait(0)
    assert queue.remove("a")
    assert queue.wait(3600)
    assert not queue.remove("a")
    assert not queue.wait(0.001)


def test_put_and_wake_end_a_wait() -> None:
    for end in (lambda queue: queue.put(work("a")), JobQueue.wake):
        queue = JobQueue(10_000)
        waiter = threading.Thread(target=queue.wait, args=(3600,), daemon=True)
        waiter.start()

        eventually(partial(woken, queue, end, waiter), WAIT_S)


def test_between_threads_nothing_is_lost_doubled_or_too_many() -> None:
    queue, taken, most = JobQueue(4), [], 0
    expected = {f"{producer}-{number}" for producer in range(3) for number in range(100)}

    def produce(producer: int) -> None:
        for number in range(100):
            while True:
                try:
                    queue.put(work(f"{producer}-{number}"))
                    break
                except Full:
                    room.wait(0.001)

    room = threading.Event()
    producers = [threading.Thread(target=produce, args=(producer,), daemon=True) for producer in range(3)]
    for thread in producers:
        thread.start()

    def consumed() -> bool:
        nonlocal most
        queue.wait(0.01)
        most = max(most, len(queue))
        while piece := queue.take():
            taken.append(piece.job_id)
        return len(taken) >= len(expected)

    eventually(consumed, WAIT_S)
    for thread in producers:
        thread.join(WAIT_S)
    assert sorted(taken) == sorted(expected)
    assert most <= 4
    for producer in "012":
        own = [int(job_id.partition("-")[2]) for job_id in taken if job_id[0] == producer]
        assert own == list(range(100)), "one producer's work stays in order"


def test_who_may_not_start_yet_keeps_its_place() -> None:
    queue = JobQueue(4)
    first, second = Work("first", make_params(), alone=True), Work("second", make_params())
    queue.put(first)
    queue.put(second)
    assert queue.take(lambda work: not work.alone) is None
    assert queue.waiting() == [first, second]
    assert queue.take() is first
