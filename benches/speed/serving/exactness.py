"""Row 14: what exact mode costs a worker whose rows are all taken, against fast mode with as many rows under way."""

from __future__ import annotations

from benches.speed.bench import Bench
from benches.speed.outcome import Group, Outcome
from benches.speed.serving import servers
from benches.speed.serving.client import WorkerClient
from benches.speed.serving.load import run
from benches.speed.serving.steady import JOBS, step_s
from benches.speed.spread import lost_percent, middle

FLAGS = ("--max-rows", str(2 * JOBS), "--numerics")


def measure(bench: Bench) -> Outcome:
    """Two workers, in turns."""
    with servers.worker(bench, *FLAGS, "exact") as exact, servers.worker(bench, *FLAGS, "fast") as fast:
        return run(_measure(exact.url, fast.url, bench))


async def _measure(exact_url: str, fast_url: str, bench: Bench) -> Outcome:
    steps, rounds = bench.pick((50, 5), (4, 1))
    exact_s, fast_s = list[float](), list[float]()
    async with WorkerClient(exact_url) as exact, WorkerClient(fast_url) as fast:
        for client in (exact, fast):
            await step_s(client, bench.pick(20, 1))  # warm
        for _ in range(rounds):
            exact_s.append(await step_s(exact, steps))
            fast_s.append(await step_s(fast, steps))
    seconds = {"exact": exact_s, "fast": fast_s}
    groups = (
        Group("a step of eight jobs", "ms", {name: middle([1e3 * s for s in seen]) for name, seen in seconds.items()}),
    )
    return Outcome(14, {"14.exact": middle(lost_percent(exact_s, fast_s))}, groups)
