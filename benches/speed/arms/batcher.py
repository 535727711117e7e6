"""A static micro-batcher: which jobs go together, and when. Knows no pipeline and no server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any

from benches.speed.job import Job

WINDOW_S = 0.05
LARGEST = 8
Waiting = tuple[Job, "asyncio.Future[Any]"]


class MicroBatcher:
    """Jobs of equal steps, size and guidance go together; whoever waits longest decides what goes next.

    `draw` gives the pictures of a batch, in order; it is called in a thread, one batch at a time.
    """

    def __init__(self, draw: Callable[[Sequence[Job]], list[Any]]) -> None:
        self._draw = draw
        self._waiting: list[Waiting] = []
        self._came = asyncio.Event()

    async def image(self, job: Job) -> Any:
        """The picture of one job."""
        picture: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.append((job, picture))
        self._came.set()
        return await picture

    async def run(self) -> None:
        """Serve batch after batch, for ever."""
        while True:
            await self._came.wait()
            await self._gather()
            batch = self._take()
            try:
                images = await asyncio.to_thread(self._draw, [job for job, _ in batch])
            except Exception as error:
                for _, picture in batch:
                    picture.set_exception(error)
            else:
                for (_, picture), image in zip(batch, images, strict=True):
                    picture.set_result(image)

    async def _gather(self) -> None:
        """Wait for the window, or until the batch is full."""
        deadline = time.monotonic() + WINDOW_S
        while len(self._alike()) < LARGEST and (left_s := deadline - time.monotonic()) > 0:
            self._came.clear()
            try:
                await asyncio.wait_for(self._came.wait(), left_s)
            except TimeoutError:
                return

    def _alike(self) -> list[Waiting]:
        kind = _kind(self._waiting[0][0])
        return [one for one in self._waiting if _kind(one[0]) == kind]

    def _take(self) -> list[Waiting]:
        batch = self._alike()[:LARGEST]
        self._waiting = [one for one in self._waiting if one not in batch]
        if self._waiting:
            self._came.set()
        else:
            self._came.clear()
        return batch


def _kind(job: Job) -> tuple[object, ...]:
    return job.steps, job.width, job.height, job.guidance_scale
