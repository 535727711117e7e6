"""Posts: what the journal adds to accepting one, one job for a hundred equal ones, and a quick refusal when full."""

from __future__ import annotations

import asyncio
import statistics
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.fakes import StepByStep
from tests.process import WorkerProcess
from tests.reliability.conftest import Report, p99
from tests.serving import ServedWorker, smaller

RATE = 200.0
BURST = 64
"""As many as may wait, unless the operator says otherwise."""
MOST_ADDED = 0.10
MOST_REFUSAL_S = 0.020


def burst(worker: WorkerProcess, count: int, **fields: Any) -> tuple[list[float], list[str]]:
    """Seconds of each of so many posts, at `RATE` a second, and the jobs."""
    took: list[float] = []
    jobs: list[str] = []
    began = time.monotonic()
    for number in range(count):
        time.sleep(max(0.0, began + number / RATE - time.monotonic()))
        posted = time.monotonic()
        jobs.append(worker.post(**fields)["job_id"])
        took.append(time.monotonic() - posted)
    return took, jobs


def added(without: WorkerProcess, kept: WorkerProcess, rounds: int, **fields: Any) -> list[float]:
    """What `kept` needs more for its posts, in bursts that take turns and go first by turns; its jobs are cancelled."""
    for worker in (without, kept):
        burst(worker, BURST, **fields)
    shares = []
    for number in range(rounds):
        seconds = {}
        for worker in (without, kept)[:: 1 if number % 2 else -1]:
            took, jobs = burst(worker, BURST, **fields)
            seconds[worker] = statistics.median(took)
            for job_id in jobs:
                worker.client.delete(f"/v1/jobs/{job_id}")
        shares.append(seconds[kept] / seconds[without] - 1)
    return shares


@pytest.mark.guard(900)
def test_what_the_journal_adds(report: Report, tmp_path: Path) -> None:
    rounds = report.pick(40, 2)
    with WorkerProcess(None, step_s=0.2) as without, WorkerProcess(tmp_path / "busy", step_s=0.2) as kept:
        for worker in (without, kept):  # a device that is busy, as it is where jobs come so fast
            burst(worker, 8, steps=150)
        waiting = added(without, kept, rounds, steps=150)
        accepted = [job["job_id"] for job in kept.client.get("/v1/jobs", params={"limit": 1000}).json()["jobs"]]
        kept.kill()
        kept.start()
        assert accepted == [job["job_id"] for job in kept.client.get("/v1/jobs", params={"limit": 1000}).json()["jobs"]]
    with WorkerProcess(None, step_s=0.0005) as without, WorkerProcess(tmp_path / "quick", step_s=0.0005) as kept:
        drawn = added(without, kept, rounds, steps=1)
    for shares, what in ((waiting, "that wait"), (drawn, "that are all drawn and completed meanwhile")):
        low, middle, high = statistics.quantiles(shares, n=4)
        report.add(
            "Durability",
            f"what the journal adds to accepting jobs {what}",
            f"{rounds} x {BURST} posts at {RATE:.0f} a second, in turns with a worker that has none",
            f"median {100 * middle:+.1f} % (quartiles {100 * low:+.1f} and {100 * high:+.1f})",
        )
    if report.long:
        assert statistics.median(waiting) <= MOST_ADDED


@pytest.mark.guard(300)
def test_a_hundred_equal_posts_at_once_make_one_job(report: Report, tmp_path: Path) -> None:
    rounds = report.pick(50, 3)

    async def post(client: httpx.AsyncClient, key: str) -> tuple[int, str]:
        body = {"prompt": "a red circle", "steps": 1}
        answer = await client.post("/v1/jobs", json=body, headers={"Idempotency-Key": key})
        return answer.status_code, answer.json()["job_id"]

    async def all_at_once(port: int) -> None:
        limits = httpx.Limits(max_connections=100)
        url = f"http://127.0.0.1:{port}"
        async with httpx.AsyncClient(base_url=url, limits=limits, timeout=60, trust_env=False) as client:
            for number in range(rounds):
                answers = await asyncio.gather(*(post(client, f"key {number}") for _ in range(100)))
                assert len({job_id for _, job_id in answers}) == 1
                assert sorted(status for status, _ in answers) == [200] * 99 + [202]

    with WorkerProcess(tmp_path) as worker:
        asyncio.run(all_at_once(worker.port))
    report.add("Idempotency", "one key, one job", f"100 equal posts at once, {rounds} times", f"{rounds} jobs")


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
    report.add("Back-pressure", "a full queue says so at once", f"{count} posts", f"p99 {1e3 * p99(waits):.1f} ms")
    if report.long:
        assert p99(waits) <= MOST_REFUSAL_S
