"""Row 7: what a worker that is full of three sizes at once does, over what it does for each size alone.

Full means that every call has all the rows it may have, also where a third of the clients fill it. With room for the
rows of all clients a call of one size is three times as large, and a device that has not enough to do then gains by
that: a second figure, told beside, shows how much.

Work is counted in steps, not in pictures, so that a picture that is half done at the end of a window counts half.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from benches.speed.bench import Bench
from benches.speed.job import stream_of_jobs
from benches.speed.outcome import Group, Outcome
from benches.speed.serving import servers
from benches.speed.serving.client import WorkerClient
from benches.speed.serving.load import crowd, run
from benches.speed.spread import middle

SIZES = {"128x128": (128, 128), "192x192": (192, 192), "128x256": (128, 256)}
CLIENTS = 9
SHARE = CLIENTS // len(SIZES)
FULL_ROWS, ROOMY_ROWS = 2 * SHARE, 2 * CLIENTS
"""The rows of a third of the clients, and of them all; each has guidance."""
STEPS = 12
"""Few, so that encoding, decoding and joining have their usual share."""


def measure(bench: Bench) -> Outcome:
    """The same number of clients in every window: all of one size, or a third of each."""
    full, roomy = (_at(rows, bench) for rows in (FULL_ROWS, ROOMY_ROWS))
    note = f"with room for {ROOMY_ROWS} rows, so that calls of one size are three times as large: "
    told = next(iter(roomy.figures.values()))
    return Outcome(7, full.figures, full.groups, (f"{note}{told.value:.2f}x ({told.low:.2f} to {told.high:.2f})",))


def _at(rows: int, bench: Bench) -> Outcome:
    with servers.worker(bench, "--max-rows", str(rows)) as server:
        return run(_measure(server.url, bench))


async def _measure(url: str, bench: Bench) -> Outcome:
    rounds, warm_s, window_s = bench.pick((3, 2.0, 10.0), (1, 0.5, 2.0))
    alone: dict[str, list[float]] = {size: [] for size in SIZES}
    together: dict[str, list[float]] = {size: [] for size in SIZES}
    efficiency = []
    async with WorkerClient(url) as client:
        for _ in range(rounds):
            for size in SIZES:
                rates = await _images_per_s(client, {size: CLIENTS}, warm_s, window_s)
                alone[size].append(rates[size])
            rates = await _images_per_s(client, dict.fromkeys(SIZES, SHARE), warm_s, window_s)
            for size in SIZES:
                together[size].append(rates[size])
            efficiency.append(weighted(rates, {size: samples[-1] for size, samples in alone.items()}))
    groups = (
        Group(f"{CLIENTS} clients of one size", "images/s", {size: middle(seen) for size, seen in alone.items()}),
        Group(f"{SHARE} clients of each size", "images/s", {size: middle(seen) for size, seen in together.items()}),
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
        rates = await seen.rates(window_s)
    images = dict.fromkeys(clients, 0.0)
    for member, steps_per_s in rates.items():
        images[names[member]] += steps_per_s / STEPS
    return images
