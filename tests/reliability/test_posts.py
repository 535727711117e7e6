"""Posts: what the journal adds to accepting one, one job for a hundred equal ones, and a quick refusal when full."""

from __future__ import annotations

import asyncio
import statistics
import time
from pathlib import Path

import httpx
import pytest

from tests.fakes import StepByStep
from tests.process import WorkerProcess
from tests.reliability.conftest import Report, p99
from tests.serving import ServedWorker, smaller

RATE = 200.0
MOST_ADDED = 0.10
MOST_REFUSAL_S = 0.020


def accepting_s(worker: WorkerProcess, count: int) -> list[float]:
    """Seconds of each post, at `RATE` a second."""
    took: list[float] = []
    began = time.monotonic()
    for number in range(count):
        time.sleep(max(0.0, began + number / RATE - time.monotonic()))
        posted = time.monotonic()
        worker.post(steps=1)
        took.append(time.monotonic() - posted)
    return took


@pytest.mark.guard(900)
def test_what_the_journal_adds(report: Report, tmp_path: Path) -> None:
    count, rounds = report.pick(400, 40), report.pick(6, 1)
    added = []
    with WorkerProcess(None, step_s=0.0005) as without, WorkerProcess(tmp_path, step_s=0.0005) as kept:
        for worker in (without, kept):
            accepting_s(worker, 50)
        for _ in range(rounds):
            plain, written = (statistics.median(accepting_s(worker, count)) for worker in (without, kept))
            added.append(written / plain - 1)
    middle = statistics.median(added)
    figure = f"{100 * middle:+.1f} % ({100 * min(added):+.1f} to {100 * max(added):+.1f})"
    report.add("what the journal adds to a post", f"{rounds} x {count} posts at {RATE:.0f} a second, in turns", figure)
    if report.long:
        assert middle <= MOST_ADDED


@pytest.mark.guard(300)
def test_a_hundred_equal_posts_at_once_make_one_job(report: Report, tmp_path: Path) -> None:
    rounds = report.pick(50, 3)

    async def post(client: httpx.AsyncClient, key: str) -> tuple[int, str]:
        body = {"prompt": "a red circle", "steps": 1}
        answer = await client.post("/v1/jobs", json=body, headers={"Idempotency-Key": key})
        return answer.status_code, answer.json()["job_id"]

    async def all_at_once(port: int) -> None:
        limits = httpx.Limits(max_connections=100)
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", limits=limits, trust_env=False) as client:
            for number in range(rounds):
                answers = await asyncio.gather(*(post(client, f"key {number}") for _ in range(100)))
                assert len({job_id for _, job_id in answers}) == 1
                assert sorted(status for status, _ in answers) == [200] * 99 + [202]

    with WorkerProcess(tmp_path) as worker:
        asyncio.run(all_at_once(worker.port))
    report.add("one key, one job", f"100 equal posts at once, {rounds} times", f"{rounds} jobs")


def test_a_full_queue_refuses_quickly(report: Report) -> None:
    count = report.pick(1000, 50)
    worker = ServedWorker(StepByStep(), limits=smaller(queue_capacity=4), max_rows=2)
    try:
        while worker.try_post().status_code == 202:
            pass
        waits = []
        for _ in range(count):
            began = time.monotonic()
            refused = worker.try_post()
            waits.append(time.monotonic() - began)
            assert refused.status_code == 429
            assert int(refused.headers["retry-after"]) >= 1
    finally:
        worker.leave()
        worker.wait_stopped()
    report.add("a full queue says so at once", f"{count} posts", f"p99 {1e3 * p99(waits):.1f} ms")
    if report.long:
        assert p99(waits) <= MOST_REFUSAL_S
