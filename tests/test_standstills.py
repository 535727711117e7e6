"""A process that stood still notices it when it goes on, before it answers anybody."""

from __future__ import annotations

import asyncio
import socket
import time

import pytest

from worker.serving import watch_for_standstills

STOOD_STILL_S = 1000.0


async def test_a_standstill_is_told_once_and_before_what_waited_as_long(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()
    told: list[float] = []
    answering: asyncio.Future[asyncio.Task[None]] = loop.create_future()

    async def answer() -> None:
        assert told == [pytest.approx(STOOD_STILL_S, abs=60.0)]

    def receive() -> None:
        loop.remove_reader(here)
        answering.set_result(loop.create_task(answer()))

    here, there = socket.socketpair()
    with here, there:
        watch_for_standstills(loop, told.append)
        loop.add_reader(here, receive)
        there.send(b"a request")
        monkeypatch.setattr(loop, "time", lambda: time.monotonic() + STOOD_STILL_S)
        await (await answering)
    assert len(told) == 1
