"""Row 7: what a worker that is full of three sizes at once does, over what it does for each size alone.

Work is counted in steps, not in pictures, so that a picture that is half done at the end of a window counts half.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping

from benches.speed.bench import Bench
from benches.speed.job import stream_of_jobs
from benches.speed.outcome import Group, Outcome
from benches.speed.serving import servers
from benches.speed.serving.client import WorkerClient
from benches.speed.serving.load import crowd, run, steps_done
from benches.speed.spread import middle

SIZES = {"128x128": (128, 128), "192x192": (192, 192), "128x256": (128, 256)}
CLIENTS = 9
MAX_ROWS = 2 * CLIENTS
STEPS = 12
"""Few, so that encoding, decoding and joining have their usual share."""


def measure(bench: Bench) -> Outcome:
    """The same number of clients in every window: all of one size, or a third of each."""
    with servers.worker(bench, "--max-rows", str(MAX_ROWS)) as server:
        return run(_measure(server.url, bench))


async def _measure(url: str, bench: Bench) -> Outcome:
    rounds, warm_s, window_s = bench.pick((3, 2.0, 10.0), (1, 0.5, 2.0))
    share = CLIENTS // len(SIZES)
    alone: dict[str, list[float]] = {size: [] for size in SIZES}
    together: dict[str, list[float]] = {size: [] for size in SIZES}
    efficiency = []
    async with WorkerClient(url) as client:
        for _ in range(rounds):
            for size in SIZES:
                rates = await _images_per_s(client, {size: CLIENTS}, warm_s, window_s)
                alone[size].append(rates[size])
            rates = await _images_per_s(client, dict.fromkeys(SIZES, share), warm_s, window_s)
            for size in SIZES:
                together[size].append(rates[size])
            efficiency.append(weighted(rates, {size: samples[-1] for size, samples in alone.items()}))
    groups = (
        Group(f"{CLIENTS} clients of one size", "images/s", {size: middle(seen) for size, seen in alone.items()}),
        Group(f"{share} clients of each size", "images/s", {size: middle(seen) for size, seen in together.items()}),
    )
    return Outcome(7, {"7.mixed": middle(efficiency)}, groups)


def weighted(together: Mapping[str, float], alone: Mapping[str, float]) -> float:
    """The device time that the mixed pictures of a second would have taken alone, in seconds; 1 is no loss."""
    return sum(rate / alone[size] for size, rate in together.items())


async def _images_per_s(
    client: WorkerClient, clients: Mapping[str, int], warm_s: float, window_s: float
) -> dict[str, float]:
    """Pictures of each size a second, by the steps that were made within the window."""
    names = [size for size, count in clients.items() for _ in range(count)]
    members = [stream_of_jobs(STEPS, width=SIZES[size][0], height=SIZES[size][1]) for size in names]
    async with crowd(client, members, spread=True) as seen:
        await asyncio.sleep(warm_s)
        began = time.monotonic()
        await asyncio.sleep(window_s)
        ended = time.monotonic()
        # So that the step that is under way at the end of the window can be shared out.
        await seen.until(lambda: all(moments[-1] >= ended for moments in seen.moments().values()))
    steps = dict.fromkeys(clients, 0.0)
    for member, moments in seen.moments().items():
        steps[names[member]] += steps_done(moments, ended) - steps_done(moments, began)
    return {size: steps[size] / STEPS / (ended - began) for size in clients}
