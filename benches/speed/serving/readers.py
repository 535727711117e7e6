"""Row 9: what 64 readers of previews cost a full worker, which makes the previews anyway; beside it, what those cost.

The readers' end of the network is on the same machine, and in the figure.
"""

from __future__ import annotations

from benches.speed.bench import Bench
from benches.speed.outcome import Group, Outcome
from benches.speed.serving import servers
from benches.speed.serving.client import WorkerClient
from benches.speed.serving.load import run
from benches.speed.serving.steady import step_s
from benches.speed.spread import lost_percent, middle

READERS = 64
PREVIEW = {"every": 5, "size": 128, "format": "jpeg"}
"""As often as the worker makes them unless told otherwise, in the picture's own size."""


def measure(bench: Bench) -> Outcome:
    """Three conditions in turns: nothing, previews alone, previews and readers."""
    with servers.worker(bench, "--max-rows", "16") as server:
        return run(_measure(server.url, bench))


async def _measure(url: str, bench: Bench) -> Outcome:
    steps, rounds = bench.pick((30, 12), (5, 1))
    none, previews, both = list[float](), list[float](), list[float]()
    async with WorkerClient(url) as client:
        await step_s(client, bench.pick(20, 1))  # warm
        for _ in range(rounds):
            none.append(await step_s(client, steps))
            previews.append(await step_s(client, steps, preview=PREVIEW))
            both.append(await step_s(client, steps, preview=PREVIEW, readers_at=url, readers=READERS))
    seconds = {"no previews, no readers": none, "previews": previews, f"previews, {READERS} readers": both}
    losses = {"previews over none": (previews, none), "readers over previews": (both, previews)}
    groups = (
        Group("a step of eight jobs", "ms", {name: middle([1e3 * s for s in seen]) for name, seen in seconds.items()}),
        Group("throughput lost", "%", {name: middle(lost_percent(*pair)) for name, pair in losses.items()}),
    )
    return Outcome(9, {"9.readers": middle(lost_percent(both, previews))}, groups)
