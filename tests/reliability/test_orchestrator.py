"""An orchestrator that is out of order for long: the worker's jobs do not notice, and nothing piles up."""

from __future__ import annotations

import asyncio
import tracemalloc

import pytest

from shared_worker.contract import WorkerStatus
from tests.reliability.conftest import Report
from tests.shared_worker.test_heartbeat import OK, Answer, beating, endless, no_http, reply, reset

MOST_GROWN_BYTES = 1_000_000
"""Hardly more than what one attempt may have on its way; a connection kept by each would be several times that."""
PATIENCE_S = 0.05


async def silence(writer: asyncio.StreamWriter) -> None:
    """For longer than anybody waits, and then nothing stays on this side either."""
    await asyncio.sleep(3 * PATIENCE_S)


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


@pytest.mark.guard(1800)
async def test_out_of_order_for_long(report: Report) -> None:
    each = report.pick(200, 10)
    grown = []
    async with beating(timeout_s=PATIENCE_S) as (orchestrator, worker, heartbeat):

        async def hear(times: int) -> None:
            for number in range(times):
                worker.status = list(WorkerStatus)[number % 3]
                heartbeat.changed()
                await orchestrator.hears(len(orchestrator.heard) + 1)
            orchestrator.heard.clear()
            orchestrator.heads.clear()

        async def held() -> int:
            """Bytes, without what the attempt of the moment has on its way."""
            seen = []
            for _ in range(10):
                await hear(1)
                seen.append(tracemalloc.get_traced_memory()[0])
            return min(seen)

        tracemalloc.start()
        try:
            for trouble in TROUBLES.values():
                orchestrator.answer = trouble
                await hear(each)  # what the first ones load belongs to nobody
                before = await held()
                await hear(each)
                grown.append(await held() - before)
        finally:
            tracemalloc.stop()
        orchestrator.answer = reply(OK)
        worker.status = WorkerStatus.READY
        heartbeat.changed()
        while "ready" not in orchestrator.statuses:
            await orchestrator.hears(len(orchestrator.heard) + 1)
        assert len(orchestrator.heard) <= 2, "one that was on its way, and the newest state; no backlog"
    report.add(
        "Orchestrator",
        "down for long: memory flat, the newest state first when it is back",
        f"{2 * each * len(TROUBLES)} attempts: {', '.join(TROUBLES)}",
        f"{max(grown) / 1000:+.0f} kB over {each} attempts at most",
    )
    assert max(grown) <= MOST_GROWN_BYTES
