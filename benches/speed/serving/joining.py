"""Row 5: how soon a job that is posted beside eight running ones tells of its first step.

It comes at any moment of the step that is under way, has to wait for that one's end, and is in the next: from one step
to two, evenly. What is beyond that is HTTP, the decoding of a neighbour's picture, and steps of unequal length.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from contextlib import aclosing
from dataclasses import dataclass
from itertools import pairwise

from benches.speed.bench import Bench
from benches.speed.job import Job, stream_of_jobs
from benches.speed.outcome import Group, Outcome
from benches.speed.serving import servers
from benches.speed.serving.client import WorkerClient
from benches.speed.serving.load import CROWD_STEPS, crowd, run
from benches.speed.spread import middle, quartiles, tail

RUNNING = 8
MAX_ROWS = 2 * RUNNING + 2
"""Room for one more."""
NEWCOMER_STEPS = 4


@dataclass(frozen=True)
class Newcomer:
    """One job's beginning: seconds to its first step, of encoding its text, and of each step behind that."""

    first_s: float
    encode_s: float
    step_s: tuple[float, ...]


def measure(bench: Bench) -> Outcome:
    """Newcomers come one by one, at random moments of the others' steps, with prompts that nobody had before."""
    with servers.worker(bench, "--max-rows", str(MAX_ROWS)) as server:
        return run(_measure(server.url, bench))


async def _measure(url: str, bench: Bench) -> Outcome:
    rng = random.Random(0)
    async with WorkerClient(url) as client:
        members = [stream_of_jobs(CROWD_STEPS) for _ in range(RUNNING)]
        async with crowd(client, members, spread=True) as others:
            newcomers = []
            for number in range(bench.pick(200, 3)):
                # A whole step's worth of moments: the one before has just ended at the end of a step.
                await asyncio.sleep(rng.random() * statistics.median(others.step_s() or [0.0]))
                job = Job(f"a purple star, the {number}th of its kind", number, NEWCOMER_STEPS)
                newcomers.append(await _join(client, job))
        # In steps of that very moment: the machine is not equally fast all the time.
        waits = [(one.first_s - one.encode_s) / statistics.median(one.step_s) for one in newcomers]
    groups = (
        Group(
            f"beside {RUNNING} jobs",
            "ms",
            {
                "POST to first progress": tail([1e3 * one.first_s for one in newcomers]),
                "encoding the newcomer's text": middle([1e3 * one.encode_s for one in newcomers]),
                "a step of all": quartiles([1e3 * seconds for one in newcomers for seconds in one.step_s]),
                "a step of the others": quartiles([1e3 * seconds for seconds in others.step_s()]),
            },
        ),
    )
    return Outcome(5, {"5.first": tail(waits)}, groups)


async def _join(client: WorkerClient, job: Job) -> Newcomer:
    began, moments, encode_s = time.monotonic(), list[float](), 0.0
    async with aclosing(client.events(await client.post(job))) as events:
        async for event in events:
            if event.name == "progress":
                moments.append(event.at)
            elif event.name == "completed":
                encode_s = event.data["timings"]["encode_s"]
    steps = tuple(b - a for a, b in pairwise(moments))
    return Newcomer(moments[0] - began, encode_s, steps)
