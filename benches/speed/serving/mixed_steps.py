"""Row 2: jobs of 4 to 50 steps that arrive at random moments; mean latency of the worker against B2.

Both arms get the same jobs at the same moments. The load is set by B2: seven tenths of what it could bear one by one.
"""

from __future__ import annotations

import random
import statistics

from benches.speed.bench import Bench
from benches.speed.job import Job, stream_of_jobs
from benches.speed.outcome import Group, Outcome
from benches.speed.serving import servers
from benches.speed.serving.client import Client, ReferenceClient, WorkerClient
from benches.speed.serving.load import arrivals_s, closed_loop_s, latency_s, run
from benches.speed.spread import middle, once, ratios

STEPS = (4, 8, 12, 20, 30, 50)
LOAD = 0.7
WINDOW_S = 0.05
"""B2's, which a job that comes alone waits for in vain."""
MAX_ROWS = 16


def measure(bench: Bench) -> Outcome:
    """Each round has arrivals of its own, the same for both arms."""
    with servers.worker(bench, "--max-rows", str(MAX_ROWS)) as worker, servers.b2(bench) as b2:
        return run(_measure(worker.url, b2.url, bench))


async def _measure(worker_url: str, b2_url: str, bench: Bench) -> Outcome:
    count, rounds, choice = bench.pick((18, 3, STEPS), (4, 1, STEPS[:2]))
    async with WorkerClient(worker_url) as worker, ReferenceClient(b2_url) as b2:
        source = stream_of_jobs(choice[0])
        await closed_loop_s(worker, source, clients=MAX_ROWS // 2, each=1)
        await closed_loop_s(b2, source, clients=MAX_ROWS // 2, each=1)
        alone_s = [await latency_s(b2, next(stream_of_jobs(steps))) - WINDOW_S for steps in choice]
        rate = LOAD / statistics.fmean(alone_s)
        means: dict[str, list[float]] = {"worker": [], "B2, micro-batched": []}
        slowest: dict[str, list[float]] = {name: [] for name in means}
        for number in range(rounds):
            arrivals = make_arrivals(count, choice, rate, seed=number)
            arms: tuple[Client, ...] = (worker, b2)
            for name, client in zip(means, arms, strict=True):
                latencies = await arrivals_s(client, arrivals)
                means[name].append(statistics.fmean(latencies))
                slowest[name].append(max(latencies))
    ratio = middle(ratios(means["worker"], means["B2, micro-batched"]))
    groups = (
        Group("mean latency, mixed steps", "s", {name: middle(samples) for name, samples in means.items()}),
        Group("slowest of a round", "s", {name: middle(samples) for name, samples in slowest.items()}),
        Group("offered load", "jobs/s", {"both arms": once(rate)}),
    )
    return Outcome(2, {"2.b2": ratio}, groups)


def make_arrivals(count: int, choice: tuple[int, ...], rate: float, *, seed: int) -> list[tuple[float, Job]]:
    """`count` jobs at Poisson moments of `rate` a second; each step count comes equally often, in random order."""
    rng = random.Random(seed)
    steps = [choice[number % len(choice)] for number in range(count)]
    rng.shuffle(steps)
    at_s, arrivals = 0.0, []
    for number, one in enumerate(steps):
        arrivals.append((at_s, Job(f"a red circle, number {number % 12}", 1000 * seed + number, one)))
        at_s += rng.expovariate(rate)
    return arrivals
