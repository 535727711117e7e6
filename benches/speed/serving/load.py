"""Clients by the number: closed loops, arrivals at given times, and a crowd that keeps a worker full."""

from __future__ import annotations

import asyncio
import time
from bisect import bisect
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import aiohttp

from benches.speed.job import Job
from benches.speed.outcome import NotMeasured, Outcome
from benches.speed.serving.client import ENDINGS, Client, WorkerClient

LIMIT_S = 600.0
"""No row takes longer, whatever hangs."""
CROWD_STEPS = 150
"""The longest job there is, so that a crowd seldom changes."""


def run(measuring: Coroutine[Any, Any, Outcome], limit_s: float = LIMIT_S) -> Outcome:
    """The outcome of one row's coroutine. Raises NotMeasured when it takes longer than `limit_s`."""

    async def bounded() -> Outcome:
        async with asyncio.timeout(limit_s):
            return await measuring

    try:
        return asyncio.run(bounded())
    except TimeoutError:
        raise NotMeasured(f"it was not done within {limit_s:.0f} s") from None


async def latency_s(client: Client, job: Job) -> float:
    """Seconds from asking until the picture's bytes are here."""
    began = time.monotonic()
    await client.draw(job)
    return time.monotonic() - began


async def closed_loop_s(client: Client, jobs: Iterator[Job], *, clients: int, each: int) -> float:
    """Seconds until `clients` at once have drawn `each` pictures each, one after the other."""
    hands = [[next(jobs) for _ in range(each)] for _ in range(clients)]

    async def one(hand: Sequence[Job]) -> None:
        for job in hand:
            await client.draw(job)

    began = time.monotonic()
    await asyncio.gather(*map(one, hands))
    return time.monotonic() - began


def steps_done(moments: Sequence[float], at: float) -> float:
    """How many steps were done at a moment; of one that was under way, the share of its time that had passed."""
    count = bisect(moments, at)
    if count in (0, len(moments)):
        return float(count)
    before, after = moments[count - 1], moments[count]
    return count + (at - before) / (after - before)


async def arrivals_s(client: Client, arrivals: Sequence[tuple[float, Job]]) -> list[float]:
    """The latency of every job, each posted at its time (seconds from now) whatever became of the others."""
    began = time.monotonic()

    async def one(at_s: float, job: Job) -> float:
        await asyncio.sleep(max(0.0, began + at_s - time.monotonic()))
        return await latency_s(client, job)

    return list(await asyncio.gather(*(one(at_s, job) for at_s, job in arrivals)))


@dataclass
class Crowd:
    """What was seen of a crowd: for every step its member and its moment."""

    steps: list[tuple[int, float]] = field(default_factory=list)
    _grown: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def saw(self, member: int, at: float) -> None:
        """One step more."""
        async with self._grown:
            self.steps.append((member, at))
            self._grown.notify_all()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Return once `condition`, looked at after every step, holds."""
        async with self._grown:
            await self._grown.wait_for(condition)

    async def rates(self, window_s: float) -> dict[int, float]:
        """Steps a second of each member, from now on for `window_s`."""
        began = time.monotonic()
        await asyncio.sleep(window_s)
        ended = time.monotonic()
        # So that the step that is under way at the end of the window can be shared out.
        await self.until(lambda: all(moments[-1] >= ended for moments in self.moments().values()))
        return {
            member: (steps_done(moments, ended) - steps_done(moments, began)) / (ended - began)
            for member, moments in self.moments().items()
        }

    def step_s(self) -> list[float]:
        """Seconds between neighbouring steps of one member; the pauses between its jobs are among them."""
        return [b - a for moments in self.moments().values() for a, b in pairwise(moments)]

    def moments(self) -> dict[int, list[float]]:
        """When each member made its steps, in order."""
        moments: dict[int, list[float]] = {}
        for member, at in self.steps:
            moments.setdefault(member, []).append(at)
        return moments


@asynccontextmanager
async def crowd(
    client: WorkerClient, members: Sequence[Iterator[Job]], *, spread: bool = False, **more: Any
) -> AsyncIterator[Crowd]:
    """Each member draws its jobs one after the other until the end; begins when every member has made a step.

    `spread` shortens the first jobs to different lengths, so that members do not all change at the same moment; `more`
    goes into every post.
    """
    seen = Crowd()

    async def live(member: int, jobs: Iterator[Job]) -> None:
        for count, job in enumerate(jobs):
            share = (member + 1) / len(members) if spread and count == 0 else 1.0
            await _follow(client, replace(job, steps=max(1, round(job.steps * share))), member, seen, more)

    async with AsyncExitStack() as stack:
        tasks = [asyncio.create_task(live(member, jobs)) for member, jobs in enumerate(members)]
        stack.push_async_callback(_end, tasks)
        await _begin(seen, tasks)
        yield seen


async def _follow(client: WorkerClient, job: Job, member: int, seen: Crowd, more: Mapping[str, Any]) -> None:
    posted = await client.post(job, **more)
    ended = False
    try:
        async with aclosing(client.events(posted)) as events:
            async for event in events:
                ended = event.name in ENDINGS
                if event.name == "progress":
                    await seen.saw(member, event.at)
                elif event.name == "completed":
                    await client.fetch(event)
    finally:
        if not ended:
            with suppress(aiohttp.ClientError):
                await client.cancel(posted)


async def _begin(seen: Crowd, tasks: Sequence[asyncio.Task[None]]) -> None:
    """Return when every member has made a step. Raises what a member broke off with, rather than wait for it."""

    def all_have_stepped() -> bool:
        return len({member for member, _ in seen.steps}) == len(tasks)

    begun = asyncio.create_task(seen.until(all_have_stepped))
    done, _ = await asyncio.wait([begun, *tasks], return_when=asyncio.FIRST_COMPLETED)
    if begun not in done:
        begun.cancel()
    for task in done:
        await task


async def _end(tasks: Sequence[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
