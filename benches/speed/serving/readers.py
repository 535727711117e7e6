"""Row 9: what 64 readers of previews cost a full worker, which makes the previews anyway; beside it, what those cost.

One crowd of jobs goes on all the time; readers come for some seconds and leave again, many times, so that a machine
that is not equally fast all the time is so for both. The readers' end of the network is on it too, and in the figure.
"""

from __future__ import annotations

import asyncio
from itertools import pairwise

from benches.speed.bench import Bench
from benches.speed.job import stream_of_jobs
from benches.speed.outcome import Group, Outcome
from benches.speed.serving import servers
from benches.speed.serving.client import WorkerClient
from benches.speed.serving.load import CROWD_STEPS, crowd, run
from benches.speed.serving.steady import JOBS, drained, step_s
from benches.speed.spread import lost_percent, middle, quartiles

READERS = 64
PREVIEW = {"every": 5, "size": 128, "format": "jpeg"}
"""As often as the worker makes them unless told otherwise, in the picture's own size."""
SETTLE = 1 / 3
"""Of a window, for readers to get what has been before."""
LIMIT_S = 1200.0
"""A window has a number of steps, since those are not equally long; on a slow machine it is long."""


def measure(bench: Bench) -> Outcome:
    """Readers in turns with none; then previews in turns with none."""
    with servers.worker(bench, "--max-rows", str(2 * JOBS)) as server:
        return run(_measure(server.url, bench), LIMIT_S)


async def _measure(url: str, bench: Bench) -> Outcome:
    visits, window_s, window_steps, steps, rounds = bench.pick((64, 1.5, 32, 30, 6), (2, 0.5, 4, 5, 1))
    unread, read, none, previews = list[float](), list[float](), list[float](), list[float]()
    async with WorkerClient(url) as client:
        members = [stream_of_jobs(CROWD_STEPS) for _ in range(JOBS)]
        async with crowd(client, members, spread=True, preview=PREVIEW) as jobs:

            async def rate() -> float:
                return sum((await jobs.rates(window_s)).values())

            window_s = max(window_s, window_steps * JOBS / await rate())
            unread.append(await rate())
            for _ in range(visits):
                running = await client.running()
                async with drained(url, [running[number % len(running)] for number in range(READERS)]):
                    await asyncio.sleep(SETTLE * window_s)
                    read.append(await rate())
                unread.append(await rate())
        for _ in range(rounds):
            none.append(await step_s(client, steps))
            previews.append(await step_s(client, steps, preview=PREVIEW))
    # Each visit against what was before and behind it: a machine that grows faster or slower does so for both.
    without = [(before + after) / 2 for before, after in pairwise(unread)]
    lost = quartiles([100 * (1 - with_them / usual) for with_them, usual in zip(read, without, strict=True)])
    groups = (
        Group("steps of eight jobs", "1/s", {"no readers": quartiles(unread), f"{READERS} readers": quartiles(read)}),
        Group(
            "throughput lost", "%",
            {"readers over none": lost, "previews over none": middle(lost_percent(previews, none))},
        ),
    )  # fmt: skip
    return Outcome(9, {"9.readers": lost}, groups)
