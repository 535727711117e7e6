"""What an orchestrator hears of a worker, over a real HTTP server that answers well, badly or not at all."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from tenacity import wait_none

from shared_worker.contract import MemoryInfo, QueueInfo, WorkerInfo, WorkerStatus
from shared_worker.heartbeat import Heartbeat

PATIENCE_S = 20.0
OK = b'{"status": "ok", "message": "known"}'
Answer = Callable[[asyncio.StreamWriter], Awaitable[None]]


def reply(body: bytes, status: str = "200 OK", headers: str = "") -> Answer:
    """A whole HTTP response."""

    async def answer(writer: asyncio.StreamWriter) -> None:
        head = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n{headers}\r\n"
        writer.write(head.encode() + body)
        await writer.drain()

    return answer


async def reset(writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()


async def silence(writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(PATIENCE_S)


async def no_http(writer: asyncio.StreamWriter) -> None:
    writer.write(b"\x00\xff garbage\r\n\r\n")
    await writer.drain()


async def endless(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        writer.write(b"ffff\r\n" + b" " * 0xFFFF + b"\r\n")
        await writer.drain()


class Orchestrator:
    """Answers as `answer` says; keeps what it was told."""

    def __init__(self) -> None:
        self.answer: Answer = reply(OK)
        self.heard: list[dict[str, Any]] = []
        self.heads: list[str] = []
        self.open: dict[asyncio.Task[Any], asyncio.StreamWriter] = {}
        self._grown = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.open[task] = writer
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            length = next(int(line[15:]) for line in head.splitlines() if line.lower().startswith("content-length:"))
            self.heads.append(head)
            self.heard.append(json.loads(await reader.readexactly(length)))
            self._grown.set()
            await self.answer(writer)
        del self.open[task]
        writer.transport.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    async def close(self) -> None:
        """Cut whoever is still connected."""
        still_open = dict(self.open)
        for task, writer in still_open.items():
            writer.transport.abort()
            task.cancel()
        await asyncio.gather(*still_open, return_exceptions=True)

    @property
    def statuses(self) -> list[str]:
        return [body["worker"]["status"] for body in self.heard]

    async def hears(self, number: int) -> None:
        """Return when it was told so many times."""
        async with asyncio.timeout(PATIENCE_S):
            while len(self.heard) < number:
                self._grown.clear()
                await self._grown.wait()


class Told:
    """A worker whose status the test sets."""

    def __init__(self) -> None:
        self.status = WorkerStatus.STARTING

    def describe(self) -> WorkerInfo:
        return WorkerInfo(
            id="gpu-7", instance_id="abc", url="http://worker", model_id="builtin", backend="cpu", device="fake",
            status=self.status, implementation="sd-worker", version="0", tasks=["text-to-image"],
            queue=QueueInfo(waiting=0, running=0, capacity=8, eta_s=None),
            memory=MemoryInfo(total_bytes=None, used_bytes=None),
        )  # fmt: skip


@contextlib.asynccontextmanager
async def beating(**options: Any) -> AsyncIterator[tuple[Orchestrator, Told, Heartbeat]]:
    orchestrator, worker = Orchestrator(), Told()
    server = await asyncio.start_server(orchestrator.serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    heartbeat = Heartbeat(url, worker.describe, **{"back_off": wait_none(), **options})
    task = asyncio.create_task(heartbeat.run())
    try:
        yield orchestrator, worker, heartbeat
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        server.close()
        await orchestrator.close()


async def test_it_registers_at_once_with_all_that_is_agreed() -> None:
    async with beating(token="its own") as (orchestrator, worker, _):
        await orchestrator.hears(1)
    assert orchestrator.heads[0].startswith("POST /v1/worker-heartbeat HTTP/1.1\r\n")
    assert "accept-encoding: identity" in orchestrator.heads[0].lower()
    assert "authorization: bearer its own" in orchestrator.heads[0].lower()
    assert orchestrator.heard[0]["worker"] == worker.describe().model_dump(mode="json")
    assert orchestrator.heard[0]["timestamp"].endswith("+00:00")


async def test_a_change_of_status_is_told_at_once_and_nothing_else_is() -> None:
    async with beating() as (orchestrator, worker, heartbeat):
        await orchestrator.hears(1)
        for status in (WorkerStatus.READY, WorkerStatus.BUSY, WorkerStatus.READY):
            heartbeat.changed()  # nothing has changed yet
            worker.status = status
            heartbeat.changed()
            await orchestrator.hears(len(orchestrator.heard) + 1)
    assert orchestrator.statuses == ["starting", "ready", "busy", "ready"]


async def test_it_comes_again_and_again_without_any_change() -> None:
    async with beating(every_s=0.01) as (orchestrator, _, _):
        await orchestrator.hears(4)
    assert set(orchestrator.statuses) == {"starting"}


@pytest.mark.parametrize(
    "trouble",
    [
        reply(b"", "500 Internal Server Error"),
        reply(b"", "401 Unauthorized"),
        reply(OK, "302 Found", "Location: http://127.0.0.1:1/elsewhere\r\n"),
        reply(b"<html>"),
        reply(b"[1]"),
        reply(b"[" * 5000),
        reply(b'{"status": "error", "message": "unknown model"}'),
        reset,
        silence,
        no_http,
        endless,
    ],
)
async def test_whatever_goes_wrong_it_tries_again_with_the_newest_state(
    trouble: Answer, caplog: pytest.LogCaptureFixture
) -> None:
    async with beating(timeout_s=1.0 if trouble is silence else PATIENCE_S) as (orchestrator, worker, heartbeat):
        orchestrator.answer = trouble
        await orchestrator.hears(2)
        worker.status = WorkerStatus.BUSY
        heartbeat.changed()
        while orchestrator.statuses[-1] != "busy":
            await orchestrator.hears(len(orchestrator.heard) + 1)
        worker.status = WorkerStatus.READY
        heartbeat.changed()
        while orchestrator.statuses[-1] != "ready":
            await orchestrator.hears(len(orchestrator.heard) + 1)
        orchestrator.answer = reply(OK)
        told = len(orchestrator.heard)
        await orchestrator.hears(told + 1)
        worker.status = WorkerStatus.STOPPING
        heartbeat.changed()
        await orchestrator.hears(len(orchestrator.heard) + 1)
    assert "busy" not in orchestrator.statuses[told:], "no backlog"
    assert orchestrator.statuses[-1] == "stopping"
    troubles = [record for record in caplog.records if record.levelname == "WARNING"]
    assert len(troubles) == 1, "one line, however long it takes"
    assert "127.0.0.1" not in troubles[0].getMessage()


async def test_nobody_there_is_nothing_but_a_line_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    tried = asyncio.Semaphore(0)

    def describe() -> WorkerInfo:
        tried.release()
        return Told().describe()

    heartbeat = Heartbeat("http://127.0.0.1:1", describe, back_off=wait_none())
    task = asyncio.create_task(heartbeat.run())
    async with asyncio.timeout(PATIENCE_S):
        for _ in range(5):
            await tried.acquire()
    assert not task.done()
    assert [record.levelname for record in caplog.records if record.name == "shared_worker.heartbeat"] == ["WARNING"]
    task.cancel()
    await heartbeat.tell_last(WorkerStatus.STOPPED, PATIENCE_S)


async def test_a_name_for_whose_resolver_there_is_no_thread_is_tried_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def resolve(*given: Any, **more: Any) -> Any:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolve)
    heartbeat = Heartbeat("http://orchestrator.example", Told().describe)
    await heartbeat.tell_last(WorkerStatus.STOPPED, PATIENCE_S)
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [
        "the orchestrator does not hear of this worker: RuntimeError"
    ]


async def test_the_last_word_does_not_hold_up_the_exit() -> None:
    async with beating() as (orchestrator, _, heartbeat):
        await orchestrator.hears(1)
        orchestrator.answer = silence
        async with asyncio.timeout(PATIENCE_S / 2):
            await heartbeat.tell_last(WorkerStatus.STOPPED, 0.05)


async def test_the_last_word_is_said_once_and_is_what_it_is_to_be() -> None:
    async with beating() as (orchestrator, worker, heartbeat):
        await orchestrator.hears(1)
        orchestrator.answer = reply(b"", "500 Internal Server Error")
        worker.status = WorkerStatus.STOPPING  # where something hangs
        await heartbeat.tell_last(WorkerStatus.STOPPED, PATIENCE_S)
        assert orchestrator.statuses.count("stopped") == 1
