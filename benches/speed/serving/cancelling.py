"""Row 6: how many steps a job still makes once its cancel was answered, and how soon the next one has its rows."""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

from benches.speed.bench import Bench
from benches.speed.job import Job, stream_of_jobs
from benches.speed.outcome import Group, Outcome
from benches.speed.serving import servers
from benches.speed.serving.client import ENDINGS, WorkerClient
from benches.speed.serving.load import CROWD_STEPS, Crowd, crowd, run
from benches.speed.serving.sse import Arrived
from benches.speed.spread import tail, worst

OTHERS = 15
MAX_ROWS = 2 * OTHERS + 2
"""As many as a worker has under way by default; full with the others and the one that is cancelled, so that its
successor waits for its rows and for nothing else."""


def measure(bench: Bench) -> Outcome:
    """Cancels come at random moments of a step."""
    with servers.worker(bench, "--max-rows", str(MAX_ROWS)) as server:
        return run(_measure(server.url, bench))


async def _measure(url: str, bench: Bench) -> Outcome:
    rng = random.Random(0)
    steps, waits_s = list[int](), list[float]()
    async with WorkerClient(url) as client:
        members = [stream_of_jobs(CROWD_STEPS) for _ in range(OTHERS)]
        async with crowd(client, members, spread=True) as others:
            for number in range(bench.pick(40, 3)):
                after, wait_s = await _cancel_one(client, others, number, rng.random())
                steps.append(after)
                if wait_s > 0:  # a successor that another job's end let in earlier tells nothing
                    waits_s.append(wait_s)
        step_s = statistics.median(others.step_s())
    groups = (
        Group("DELETE until the successor has started", "steps", {"worker": tail([s / step_s for s in waits_s])}),
        Group("DELETE until the successor has started", "ms", {"worker": tail([1e3 * s for s in waits_s])}),
    )
    return Outcome(6, {"6.freed": worst(steps)}, groups, (f"a step took {1e3 * step_s:.0f} ms",))


async def _cancel_one(client: WorkerClient, others: Crowd, number: int, phase: float) -> tuple[int, float]:
    """Steps made after the cancel's answer, and seconds from the cancel until the successor started."""
    victim = await client.post(Job("a blue ring", number, CROWD_STEPS))
    async with aclosing(client.events(victim)) as life:
        await _until(life, "progress")
        successor = await client.post(Job("a red square", number, CROWD_STEPS))
        seen = len(others.steps)
        await others.until(lambda: len(others.steps) > seen)
        await asyncio.sleep(phase * statistics.median(others.step_s()[-OTHERS:]))
        cancelled_at = time.monotonic()
        answered = await client.cancel(victim)
        last_step = answered["progress"]["step"]
        async for event in life:
            if event.name == "progress":
                last_step = max(last_step, event.data["step"])
    async with aclosing(client.events(successor)) as life:
        started = await _until(life, "started")
        await client.cancel(successor)
        await _until(life, *ENDINGS)
    return last_step - answered["progress"]["step"], started.at - cancelled_at


async def _until(events: AsyncIterator[Arrived], *names: str) -> Any:
    async for event in events:
        if event.name in names:
            return event
    raise RuntimeError(f"a stream ended without {' or '.join(names)}")
