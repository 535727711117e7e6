"""A launcher at its end: what hangs does not hold it up, and no signal cuts its last words short."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import real
from tests.shared_worker.test_heartbeat import PATIENCE_S, Orchestrator, silence

END_S = 60.0
UNRESOLVED = """
import socket, threading
resolve = socket.getaddrinfo
def hang(host, *given, **more):
    if "orchestrator.example" in str(host):
        threading.Event().wait()
    return resolve(host, *given, **more)
socket.getaddrinfo = hang
"""
ENDS = """
from worker.engine.engine import Engine
Engine._main = lambda engine: None
"""
HANGS = """
import threading
from worker.engine.engine import Engine
Engine._main = lambda engine: threading.Event().wait()
"""
UNWRITTEN = """
import threading
from worker.engine.encoding_pool import EncodingPool
EncodingPool.close = lambda pool: threading.Event().wait()
"""
NO_MORE_THREADS = """
import threading
from worker.server import Server
begin = Server.begin_shutdown
def refuse(thread):
    raise RuntimeError("can't start new thread")
def begin_without(server):
    threading.Thread.start = refuse
    begin(server)
Server.begin_shutdown = begin_without
"""


@contextlib.contextmanager
def started(launch: str, *flags: str) -> Iterator[real.Worker]:
    worker = real.start(*flags, launch=launch + real.LAUNCH)
    try:
        yield worker
    finally:
        worker.process.kill()
        real.stop(worker)


def is_closed(state: Path) -> bool:
    """Whether the journal was, which takes the log of what was written along."""
    return [file.name for file in state.glob("jobs.sqlite3*")] == ["jobs.sqlite3"]


def test_a_name_that_nobody_resolves_does_not_hold_up_the_exit(tmp_path: Path) -> None:
    flags = "--orchestrator-url", "http://orchestrator.example", "--state-dir", str(tmp_path)
    with started(UNRESOLVED + ENDS, *flags) as worker:
        assert not is_closed(tmp_path)
        worker.process.terminate()
        assert worker.process.wait(END_S) == 0
        assert is_closed(tmp_path)


def test_a_machine_without_memory_for_another_thread_does_not_spoil_the_exit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://127.0.0.1:1/v1/traces")
    flags = "--orchestrator-url", "http://localhost:1", "--state-dir", str(tmp_path)
    with started(NO_MORE_THREADS + ENDS, *flags) as worker:
        worker.process.terminate()
        assert worker.process.wait(END_S) == 0
        assert is_closed(tmp_path)


@pytest.mark.parametrize(
    ("launch", "number"),
    [(ENDS, signal.SIGTERM), (HANGS, signal.SIGINT), (ENDS + UNWRITTEN, signal.SIGTERM)],
    ids=["at rest", "its engine hangs", "its disk hangs"],
)
async def test_the_last_word_is_that_it_has_stopped_whatever_signals_come(
    tmp_path: Path, launch: str, number: signal.Signals
) -> None:
    orchestrator = Orchestrator()
    server = await asyncio.start_server(orchestrator.serve, "127.0.0.1", 0)
    flags = "--orchestrator-url", f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", "--state-dir", str(tmp_path)
    try:
        with started(launch, *flags) as worker:
            await orchestrator.hears(1)
            orchestrator.answer = silence
            worker.process.terminate()
            async with asyncio.timeout(PATIENCE_S):
                while orchestrator.statuses[-1] != "stopped":
                    await orchestrator.hears(len(orchestrator.heard) + 1)
            worker.process.send_signal(number)
            assert await asyncio.to_thread(worker.process.wait, END_S) == 0
            assert is_closed(tmp_path)
    finally:
        server.close()
        await orchestrator.close()
