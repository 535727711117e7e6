"""The event log: numbered, replayed from anywhere, missed by nobody."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence

import pytest

from worker.jobs.events import Cancelled, CancelReason, Completed, Event, Failed, Image, Preview, Progress, Timings
from worker.jobs.log import BATCH, BATCH_PREVIEW_BYTES, PREVIEW_BYTES, Entry, EventLog, Push
from worker.jobs.params import ImageFormat

WAIT_S = 10.0
CANCELLED = Cancelled(CancelReason.REQUESTED)
COMPLETED = Completed(
    (Image(0, 1, 8, 8, ImageFormat.PNG, b"12345"), Image(1, 2, 8, 8, ImageFormat.PNG, b"678")), Timings()
)


def filled(steps: int, *more: Event) -> EventLog:
    log = EventLog()
    for step in range(1, steps + 1):
        log.append(Progress(step, steps, None))
    for event in more:
        log.append(event)
    return log


async def ids(log: EventLog, after: int = 0) -> list[int]:
    async with asyncio.timeout(WAIT_S):
        return [entry.id async for entry in log.follow(after)]


def test_entries_are_numbered_from_one() -> None:
    log = EventLog()
    assert log.last_id == 0
    assert [log.append(Progress(step, 3, None)).id for step in (1, 2, 3)] == [1, 2, 3]
    assert log.last_id == 3


@pytest.mark.parametrize("ending", [COMPLETED, Failed("nan_output", "", False), CANCELLED])
def test_nothing_follows_on_an_ending(ending: Event) -> None:
    log = filled(2)
    assert not log.ended
    assert log.append(ending).is_ending
    assert log.ended
    for late in (Progress(1, 2, None), ending):
        with pytest.raises(RuntimeError):
            log.append(late)
    assert log.last_id == 3


@pytest.mark.parametrize(("after", "expected"), [(-5, [1, 2, 3]), (0, [1, 2, 3]), (2, [3]), (3, []), (99, [])])
async def test_a_log_that_has_ended_is_replayed_from_any_number(after: int, expected: list[int]) -> None:
    assert await ids(filled(2, CANCELLED), after) == expected


async def test_readers_of_every_kind_see_the_same_without_gap_or_repeat() -> None:
    log, seen = EventLog(), asyncio.Event()

    async def slow() -> list[int]:
        got = []
        async for entry in log.follow(0):
            got.append(entry.id)
            await seen.wait()  # reads its first entry and nothing more until the log is full
        return got

    async with asyncio.timeout(WAIT_S), asyncio.TaskGroup() as tasks:
        readers = [tasks.create_task(slow()), tasks.create_task(ids(log)), tasks.create_task(ids(log, 3))]
        watcher = log.follow(0)
        for step in range(1, 6):
            log.append(Progress(step, 5, None))
            assert (await anext(watcher)).id == step
            await asyncio.sleep(0)  # the others' turn
        assert log.readers == 4
        log.append(CANCELLED)
        seen.set()
        assert [entry.id async for entry in watcher] == [6]
    everything = [1, 2, 3, 4, 5, 6]
    assert [reader.result() for reader in readers] == [everything, everything, [4, 5, 6]]
    assert await ids(log) == everything, "and one that comes late"
    assert log.readers == 0


async def test_a_reader_that_leaves_is_counted_out_wherever_it_stood() -> None:
    log = filled(1)
    async with contextlib.aclosing(log.follow(0)) as reader:
        await anext(reader)
        assert log.readers == 1
    assert log.readers == 0, "left between two entries"

    waiting = asyncio.create_task(ids(log, 1))
    await asyncio.sleep(0)  # its turn
    assert log.readers == 1
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert log.readers == 0, "left while it waited"
    log.append(CANCELLED)


def test_every_picture_that_is_kept_is_counted() -> None:
    assert EventLog().held_bytes() == 0
    assert filled(3, CANCELLED).held_bytes() == 0
    preview = Preview(1, 2, 8, 8, ImageFormat.JPEG, b"1234567")
    assert filled(1, preview, COMPLETED).held_bytes() == 15
    assert filled(1, preview, CANCELLED).held_bytes() == 7, "previews stay, whatever the ending"


async def test_numbers_of_what_is_no_longer_there_are_skipped() -> None:
    log = filled(2)
    log.skip()
    log.append(CANCELLED)
    assert log.last_id == 4
    assert await ids(log) == [1, 2, 4]
    assert await ids(log, after=2) == await ids(log, after=3) == [4]


async def test_of_many_previews_the_newest_are_kept_and_all_progress() -> None:
    log = EventLog()
    for step in range(1, 11):
        log.append(Progress(step, 10, None))
        log.append(Preview(step, 10, 8, 8, ImageFormat.JPEG, bytes(PREVIEW_BYTES // 3)))
    assert log.held_bytes() <= PREVIEW_BYTES
    log.append(CANCELLED)
    assert await ids(log) == [*range(1, 16, 2), 16, 17, 18, 19, 20, 21]


async def test_a_preview_that_alone_is_too_large_is_still_kept() -> None:
    log = EventLog()
    log.append(Preview(1, 1, 8, 8, ImageFormat.JPEG, bytes(2 * PREVIEW_BYTES)))
    log.append(CANCELLED)
    assert await ids(log) == [1, 2]


async def test_a_log_that_is_closed_lets_its_readers_go_without_an_ending() -> None:
    log = filled(3)
    reader = asyncio.create_task(ids(log))
    await asyncio.sleep(0)
    log.close()
    assert await reader == [1, 2, 3]
    assert await ids(log, after=2) == [3]
    assert not log.ended


async def batches(log: EventLog, push: Push | None = None) -> list[list[int]]:
    async with asyncio.timeout(WAIT_S):
        return [[entry.id for entry in batch] async for batch in log.batches(0, push)]


async def until_idle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_a_waiting_reader_is_given_what_comes_but_the_ending() -> None:
    log, pushed = filled(2), list[list[int]]()

    def push(batch: Sequence[Entry]) -> bool:
        pushed.append([entry.id for entry in batch])
        return True

    reader = asyncio.create_task(batches(log, push))
    await until_idle()
    for step in (3, 4):
        log.append(Progress(step, 5, None))
    await until_idle()
    log.append(Progress(5, 5, None))
    await until_idle()
    log.append(CANCELLED)
    assert (await reader, pushed) == ([[1, 2], [6]], [[3, 4], [5]])


async def test_what_a_reader_cannot_take_at_once_comes_in_its_place() -> None:
    log, pushed = filled(1), list[int]()

    def push(batch: Sequence[Entry]) -> bool:
        if any(entry.id == 3 for entry in batch):
            return False
        pushed.extend(entry.id for entry in batch)
        return True

    reader = asyncio.create_task(batches(log, push))
    await until_idle()
    for step in range(2, 6):
        log.append(Progress(step, 5, None))
        if step in (2, 3, 5):
            await until_idle()
    log.append(CANCELLED)
    assert (await reader, pushed) == ([[1], [3], [6]], [2, 4, 5])


async def test_what_has_been_comes_in_batches_of_bounded_size() -> None:
    log = filled(2 * BATCH + 1)
    log.append(Preview(1, 1, 8, 8, ImageFormat.JPEG, bytes(BATCH_PREVIEW_BYTES)))
    log.append(Progress(1, 1, None))
    log.append(CANCELLED)
    got = await batches(log)
    assert [len(batch) for batch in got] == [BATCH, BATCH, 2, 2]
    assert [id for batch in got for id in batch] == list(range(1, log.last_id + 1))


async def test_a_slow_reader_holds_on_to_no_more_previews_than_one_batch_has() -> None:
    log = EventLog()
    preview = bytes(BATCH_PREVIEW_BYTES // 2)
    for step in range(1, 1 + PREVIEW_BYTES // len(preview)):
        log.append(Preview(step, 150, 8, 8, ImageFormat.JPEG, preview))
    async with contextlib.aclosing(log.batches(0)) as reader:
        assert [entry.id for entry in await anext(reader)] == [1, 2]
        for step in range(4):
            log.append(Preview(step, 150, 8, 8, ImageFormat.JPEG, preview))
        assert [entry.id for entry in await anext(reader)] == [5, 6], "3 and 4 were dropped meanwhile"


async def test_readers_hear_of_an_event_after_whoever_appended_it_is_done() -> None:
    log, told = EventLog(), list[str]()

    def push(batch: Sequence[Entry]) -> bool:
        told.append("reader")
        return True

    reader = asyncio.create_task(batches(log, push))
    await until_idle()
    log.append(Progress(1, 1, None))
    told.append("writer")
    await until_idle()
    log.append(CANCELLED)
    await reader
    assert told == ["writer", "reader"]
