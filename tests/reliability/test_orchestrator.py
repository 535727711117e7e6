"""An orchestrator, in a process of its own, that is out of order for long: nothing piles up at the worker."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import tracemalloc
from multiprocessing.connection import Connection

import pytest
from tenacity import wait_none

from shared_worker.contract import WorkerInfo, WorkerStatus
from shared_worker.heartbeat import Heartbeat
from tests.reliability.conftest import Report
from tests.shared_worker.test_heartbeat import OK, Answer, Orchestrator, Told, endless, no_http, reply, reset, silence

MOST_GROWN_BYTES = 500_000
"""Hardly more than what one attempt may have of a body without end; each keeping its connection would be 2 MB."""
ATTEMPT_S = 0.05
TROUBLES: dict[str, Answer] = {
    "500": reply(b"", "500 Internal Server Error"),
    "401": reply(b"", "401 Unauthorized"),
    "a redirect": reply(OK, "302 Found", "Location: http://127.0.0.1:1/elsewhere\r\n"),
    "garbage": no_http,
    "no JSON": reply(b"<html>"),
    "a reset": reset,
    "silence": silence,
    "a body without end": endless,
}


def orchestrate(pipe: Connection) -> None:
    """Tells its port; answers with the trouble that it is told next, with none at last; then tells what it heard."""

    async def serve() -> None:
        orchestrator = Orchestrator()
        server = await asyncio.start_server(orchestrator.serve, "127.0.0.1", 0)
        pipe.send(server.sockets[0].getsockname()[1])
        while (trouble := await asyncio.to_thread(pipe.recv)) is not None:
            orchestrator.answer = TROUBLES[trouble]
            pipe.send(None)
        orchestrator.answer = reply(OK)
        orchestrator.heard.clear()
        pipe.send(None)
        while "ready" not in orchestrator.statuses:
            await orchestrator.hears(len(orchestrator.heard) + 1)
        pipe.send(orchestrator.statuses)
        server.close()
        await orchestrator.close()

    asyncio.run(serve())


class Attempts(Told):
    """A worker whose status is another one each time that it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.made = 0
        self.recovering = False
        self._more = asyncio.Event()

    def describe(self) -> WorkerInfo:
        self.made += 1
        self._more.set()
        self.status = WorkerStatus.READY if self.recovering else list(WorkerStatus)[self.made % 3]
        return super().describe()

    async def held(self, attempts: int) -> int:
        """Bytes that this process holds after so many more, without what the attempt of the moment has on its way."""
        seen = []
        until = self.made + attempts
        while self.made < until:
            self._more.clear()
            await self._more.wait()
            if self.made > until - 10:
                if not seen:
                    gc.collect()
                seen.append(tracemalloc.get_traced_memory()[0])
        return min(seen)


@pytest.mark.guard(1800)
async def test_out_of_order_for_long(report: Report) -> None:
    each = report.pick(200, 10)
    processes = multiprocessing.get_context("forkserver")
    pipe, its_pipe = processes.Pipe()
    process = processes.Process(target=orchestrate, args=(its_pipe,), daemon=True)
    process.start()
    worker, grown = Attempts(), []
    url = f"http://127.0.0.1:{await asyncio.to_thread(pipe.recv)}"
    heartbeat = Heartbeat(url, worker.describe, timeout_s=ATTEMPT_S, back_off=wait_none())
    beating = asyncio.create_task(heartbeat.run())
    tracemalloc.start()
    try:
        for trouble in TROUBLES:
            pipe.send(trouble)
            await asyncio.to_thread(pipe.recv)
            before = await worker.held(each)  # what the first ones load belongs to nobody
            grown.append(await worker.held(each) - before)
    finally:
        tracemalloc.stop()
    worker.recovering = True
    pipe.send(None)
    await asyncio.to_thread(pipe.recv)
    heartbeat.changed()
    heard = await asyncio.to_thread(pipe.recv)
    beating.cancel()
    process.join(10)
    report.add(
        "Orchestrator",
        "down for long: memory flat, the newest state first when it is back",
        f"{2 * each * len(TROUBLES)} attempts: {', '.join(TROUBLES)}",
        f"{max(grown) / 1000:+.0f} kB over {each} attempts at most",
    )
    assert heard[-1] == "ready"
    assert len(heard) <= 2, "one that was on its way, and the newest state; no backlog"
    assert max(grown) <= MOST_GROWN_BYTES
