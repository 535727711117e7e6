"""The benches' clients: events out of bytes, closed loops, arrivals, micro-batches; against fakes, without a server."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from benches.speed.arms.batcher import LARGEST, MicroBatcher
from benches.speed.job import Job, stream_of_jobs
from benches.speed.serving.load import arrivals_s, closed_loop_s, steps_done
from benches.speed.serving.sse import Arrived, SseParser

STREAM = (
    b": a comment\n\n"
    b'id: 1\nevent: queued\ndata: {"position": 0}\n\n'
    b'id: 2\r\nevent: progress\r\ndata: {"step": 1,\r\ndata: "note": "\xc3\xa4"}\r\n\r\n'
    b"event: lost\n\n"
    b'data:{"last": true}\n\n'
)
EVENTS = [("queued", {"position": 0}), ("progress", {"step": 1, "note": "ä"}), ("message", {"last": True})]


def told(events: list[Arrived]) -> list[tuple[str, dict[str, object]]]:
    return [(event.name, event.data) for event in events]


# Events


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_events_are_the_same_wherever_the_bytes_are_cut(size: int) -> None:
    parser, events = SseParser(), list[Arrived]()
    for start in range(0, len(STREAM), size):
        events += parser.feed(STREAM[start : start + size], at=float(start))
    assert told(events) == EVENTS


def test_an_event_has_the_moment_of_its_last_byte() -> None:
    parser = SseParser()
    assert parser.feed(b"event: progress\ndata: {}\n", at=1.0) == []
    assert parser.feed(b"\n", at=2.0) == [Arrived("progress", {}, 2.0)]


def test_an_unfinished_event_is_none() -> None:
    assert SseParser().feed(b"data: {}\n", at=0.0) == []


# Load


class Counting:
    """Draws at once; keeps what it was asked for and how many were under way."""

    def __init__(self) -> None:
        self.jobs: list[Job] = []
        self.under_way = self.most = 0

    async def draw(self, job: Job) -> bytes:
        self.jobs.append(job)
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        await asyncio.sleep(0)
        self.under_way -= 1
        return b""


async def test_a_closed_loop_has_every_client_busy_and_no_more() -> None:
    client = Counting()
    await closed_loop_s(client, stream_of_jobs(4), clients=3, each=2)
    assert sorted(job.seed for job in client.jobs) == [1, 2, 3, 4, 5, 6]
    assert client.most == 3


async def test_arrivals_do_not_wait_for_each_other() -> None:
    client, jobs = Counting(), stream_of_jobs(4)
    latencies = await arrivals_s(client, [(0.0, next(jobs)), (0.0, next(jobs)), (0.001, next(jobs))])
    assert len(latencies) == len(client.jobs) == 3
    assert min(latencies) >= 0.0


@pytest.mark.parametrize(("at", "done"), [(0.5, 0.0), (1.0, 1.0), (1.5, 1.5), (2.5, 2.25), (4.0, 3.0), (9.0, 3.0)])
def test_a_step_under_way_counts_by_its_share(at: float, done: float) -> None:
    assert steps_done([1.0, 2.0, 4.0], at) == done


# B2


class Gathering:
    """Draws at once; keeps the prompts of each call, and fails where one of them says so."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []

    def __call__(self, jobs: Sequence[Job]) -> list[str]:
        if any(job.prompt == "fail" for job in jobs):
            raise ValueError("as asked")
        self.calls.append([job.prompt for job in jobs])
        return [f"{job.prompt}, drawn" for job in jobs]


async def drawn(draw: Gathering, *jobs: Job) -> list[object]:
    batcher = MicroBatcher(draw)
    running = asyncio.create_task(batcher.run())
    try:
        return list(await asyncio.gather(*map(batcher.image, jobs), return_exceptions=True))
    finally:
        running.cancel()


async def test_equal_jobs_share_a_call_and_others_wait() -> None:
    draw = Gathering()
    images = await drawn(draw, Job("a", 1, 4), Job("b", 2, 8), Job("c", 3, 4), Job("d", 4, 4, width=192))
    assert images == ["a, drawn", "b, drawn", "c, drawn", "d, drawn"]
    assert draw.calls == [["a", "c"], ["b"], ["d"]]


async def test_a_batch_is_bounded() -> None:
    draw = Gathering()
    await drawn(draw, *(Job(str(number), number, 4) for number in range(LARGEST + 1)))
    assert [len(call) for call in draw.calls] == [LARGEST, 1]


async def test_a_failing_call_fails_its_own_jobs_alone() -> None:
    draw = Gathering()
    failed, fine = await drawn(draw, Job("fail", 1, 4), Job("b", 2, 8))
    assert isinstance(failed, ValueError)
    assert fine == "b, drawn"
