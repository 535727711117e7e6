"""Row 8: from the end of a step in the engine to the event that tells of it at the client, eight jobs at once.

The stamping worker computes the real model on all cores, as it does in use; both clocks are the machine's one.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Callable
from contextlib import aclosing
from itertools import islice
from pathlib import Path

from benches.speed.bench import Bench
from benches.speed.job import Job, stream_of_jobs
from benches.speed.outcome import Group, Outcome
from benches.speed.serving import servers
from benches.speed.serving.client import WorkerClient
from benches.speed.serving.load import run
from benches.speed.spread import quantile, tail

CLIENTS = 8
Moments = dict[tuple[int, int], float]
"""When step k of the job with seed s was over or heard of, by (s, k)."""


def measure(bench: Bench) -> Outcome:
    """Round by round eight jobs; all their steps are one sample."""
    with tempfile.TemporaryDirectory() as folder:
        stamps = Path(folder) / "stamps"
        with servers.stamped_worker(bench, str(stamps), "--max-rows", str(2 * CLIENTS)) as server:
            return run(_measure(server.url, lambda: read_stamps(stamps.read_text(encoding="utf-8")), bench))


async def _measure(url: str, stamps: Callable[[], Moments], bench: Bench) -> Outcome:
    steps, rounds = bench.pick((25, 4), (4, 1))
    jobs = stream_of_jobs(steps)
    heard: Moments = {}
    async with WorkerClient(url) as client:
        await asyncio.gather(*(_listen(client, job, {}) for job in islice(jobs, CLIENTS)))
        for _ in range(rounds):
            await asyncio.gather(*(_listen(client, job, heard) for job in islice(jobs, CLIENTS)))
    ended = stamps()
    delays_ms = [1e3 * (at - ended[key]) for key, at in heard.items()]
    groups = (
        Group(
            "end of a step to its event at the client",
            "ms",
            {"p50": tail(delays_ms, 0.5), "p90": tail(delays_ms, 0.9), "p99": tail(delays_ms, 0.99)},
        ),
    )
    note = f"of {len(delays_ms)} events a tenth took less than {quantile(delays_ms, 0.1):.2f} ms"
    return Outcome(8, {"8.wire": tail(delays_ms)}, groups, (note,))


async def _listen(client: WorkerClient, job: Job, heard: Moments) -> None:
    async with aclosing(client.events(await client.post(job))) as events:
        async for event in events:
            if event.name == "progress":
                heard[job.seed, event.data["step"]] = event.at


def read_stamps(text: str) -> Moments:
    """One `[seed, step, moment]` a line."""
    return {(seed, step): at for seed, step, at in map(json.loads, text.splitlines())}
