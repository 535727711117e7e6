"""The pace of a worker that is full and stays so: seconds a step, told by one job's own events."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

from benches.speed.job import stream_of_jobs
from benches.speed.serving.client import ENDINGS, WorkerClient
from benches.speed.serving.load import CROWD_STEPS

JOBS = 8
SETTLE_STEPS = 8
"""All jobs have been taken up by then."""
CHUNK_BYTES = 65536
PICK_UP_S = 1.0


async def step_s(
    client: WorkerClient,
    steps: int,
    *,
    preview: Mapping[str, Any] | None = None,
) -> float:
    """Seconds a step, over `steps` of them, with eight guided jobs under way.

    One reader follows one job and has the clock.
    """
    more = {} if preview is None else {"preview": dict(preview)}
    source = stream_of_jobs(CROWD_STEPS)
    async with AsyncExitStack() as stack:
        posted = []
        for _ in range(JOBS):
            posted.append(await client.post(next(source), **more))
            stack.push_async_callback(_end, client, posted[-1])
        moments = []
        async with aclosing(client.events(posted[0])) as events:
            async for event in events:
                if event.name == "progress":
                    moments.append(event.at)
                if len(moments) > SETTLE_STEPS + steps:
                    break
        return (moments[SETTLE_STEPS + steps] - moments[SETTLE_STEPS]) / steps


async def _end(client: WorkerClient, posted: Mapping[str, Any]) -> None:
    """Cancel, and wait for the ending, so that nothing of this is left under way."""
    await client.cancel(dict(posted))
    async with aclosing(client.events(dict(posted))) as events:
        async for event in events:
            if event.name in ENDINGS:
                return


@asynccontextmanager
async def drained(server: str, paths: list[str]) -> AsyncIterator[None]:
    """One connection for every path, whose bytes are looked at by nobody.

    The system takes them in as they come; they are picked up once a second, so that readers who would be elsewhere do
    next to no work on this machine.
    """
    address = urlsplit(server)
    async with AsyncExitStack() as stack:
        connections = []
        for path in paths:
            connection = stack.enter_context(socket.create_connection((address.hostname, address.port)))
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: {address.netloc}\r\n\r\n".encode())
            connection.setblocking(False)
            connections.append(connection)

        async def pick_up() -> None:
            while True:
                await asyncio.sleep(PICK_UP_S)
                for connection in connections:
                    with suppress(BlockingIOError):
                        while connection.recv(CHUNK_BYTES):
                            pass

        picking_up = asyncio.create_task(pick_up())
        stack.callback(picking_up.cancel)
        yield
