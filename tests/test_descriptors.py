"""Where files run out: connections are bounded before that, probes answered, and the worker's own files opened."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import logging
import resource
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from tests.conftest import eventually
from tests.serving import WAIT_S
from tests.test_server import PutForward, Uploading
from worker import descriptors
from worker.connection import SPARE, SPARE_RECEIVE_S
from worker.descriptors import LEAST, OWN, room_for_connections
from worker.door import Door
from worker.server import listen, make_server

PROCESS = """
import asyncio, contextlib, os, resource, sys
from starlette.responses import Response
from worker.descriptors import room_for_connections
from worker.door import Door
from worker.server import listen, make_server

limit, bounded = int(sys.argv[1]), sys.argv[2] == "bounded"
resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))

async def app(scope, receive, send):
    if scope["path"] == "/v1/jobs":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while (await receive())["type"] != "http.disconnect": pass
        return
    with contextlib.ExitStack() as opened:
        for _ in range(150 if scope["path"] == "/opens" else 0):
            opened.enter_context(open(os.devnull))
        await Response("answered")(scope, receive, send)

async def main():
    async def drain(): ...
    door, listener = Door(other_origins=False), listen("127.0.0.1", 0)
    door.open(app)
    print(listener.getsockname()[1], flush=True)
    bound = {"connections": room_for_connections()} if bounded else {}
    await make_server(door, drain, lambda: None, **bound).serve(sockets=[listener])

asyncio.run(main())
"""


@contextlib.contextmanager
def served(limit: int, how: str) -> Iterator[tuple[int, subprocess.Popen[str]]]:
    """Its port and process."""
    child = subprocess.Popen(
        [sys.executable, "-c", PROCESS, str(limit), how],
        cwd=Path(__file__).parent.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with child:
        try:
            assert child.stdout is not None
            yield int(child.stdout.readline()), child
        finally:
            child.kill()


def ask(connection: socket.socket, path: str) -> None:
    connection.sendall(f"GET {path} HTTP/1.1\r\nHost: test\r\n\r\n".encode())


def head(connection: socket.socket) -> bytes:
    """Of the answer; nothing where there is none."""
    with contextlib.suppress(ConnectionError):
        return connection.recv(12)
    return b""


def whole(connection: socket.socket) -> bytes:
    """What comes until it is closed."""
    came = b""
    with contextlib.suppress(ConnectionError):
        while data := connection.recv(65536):
            came += data
    return came


def test_more_readers_than_files_leave_probes_and_the_workers_own_files_alone() -> None:
    room = LEAST - OWN
    with served(LEAST, "bounded") as (port, child), contextlib.ExitStack() as at_end:

        def connect() -> socket.socket:
            return at_end.enter_context(socket.create_connection(("127.0.0.1", port), WAIT_S))

        def answer(path: str) -> bytes:
            ask(connection := connect(), path)
            return whole(connection).lower()

        first = connect()
        ask(first, "/")
        assert head(first) == b"HTTP/1.1 200"
        readers = [connect() for _ in range(2 * LEAST)]
        for reader in readers:
            with contextlib.suppress(ConnectionError):
                ask(reader, "/v1/jobs")
        heads = [head(reader) for reader in readers]
        held = room - 1
        assert heads[:held] == [b"HTTP/1.1 200"] * held
        assert set(heads[held:]) <= {b"HTTP/1.1 503", b""}
        for reader in readers[held:]:
            whole(reader)

        for path in ("/health", "/ready", "/metrics"):
            probe = answer(path)
            assert probe.startswith(b"http/1.1 200")
            assert b"connection: close" in probe
        refused, _, problem = answer("/v1/info").partition(b"\r\n\r\n")
        assert refused.startswith(b"http/1.1 503")
        assert json.loads(problem)["code"] == "too_many_connections"
        for header in (b"connection: close", b"retry-after: 5", b"application/problem+json", b"nosniff"):
            assert header in refused

        first.recv(65536)
        ask(first, "/opens")
        assert head(first) == b"HTTP/1.1 200"
        readers[0].close()

        def has_room() -> bool:
            ask(connection := connect(), "/v1/jobs")
            return head(connection) == b"HTTP/1.1 200"

        eventually(has_room)
        child.kill()
        assert child.stderr is not None
        assert child.stderr.read() == ""


def test_connections_that_find_no_file_wait_and_are_told_of_in_one_line() -> None:
    with served(64, "unbounded") as (port, child), contextlib.ExitStack() as at_end:
        connections = [at_end.enter_context(socket.create_connection(("127.0.0.1", port), WAIT_S)) for _ in range(100)]
        for connection in connections:
            ask(connection, "/")
        assert child.stderr is not None
        said = child.stderr.readline()
        assert said == "connections wait, since the system has no room for them: Too many open files\n"
        for connection in connections:
            assert head(connection) == b"HTTP/1.1 200"
            connection.close()
        child.kill()
        assert child.stderr.read() == ""


async def test_what_finds_no_file_is_told_once_a_minute_and_all_else_as_usual(caplog: pytest.LogCaptureFixture) -> None:
    async def drain() -> None: ...

    listener = listen("127.0.0.1", 0)
    server = make_server(Door(other_origins=False), drain, lambda: None)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    _, writer = await asyncio.open_connection(*listener.getsockname())
    with caplog.at_level(logging.ERROR):
        exhausted = {"message": "m", "exception": OSError(errno.EMFILE, "Too many open files"), "socket": listener}
        for context in (exhausted, exhausted, {"message": "another", "exception": KeyError()}, exhausted):
            asyncio.get_running_loop().call_exception_handler(context)
    assert [record.name for record in caplog.records] == ["worker.server", "asyncio"]
    writer.close()
    server.should_exit = True
    await serving


def test_who_says_nothing_on_a_connection_too_many_is_soon_cut() -> None:
    async def main() -> None:
        async def drain() -> None: ...

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await Response()(scope, receive, send)

        door, listener = Door(other_origins=False), listen("127.0.0.1", 0)
        door.open(app)
        server = make_server(door, drain, lambda: None, connections=1)
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        streams = [await asyncio.open_connection(*listener.getsockname()) for _ in range(2 + SPARE)]
        first, silent, *_, beyond = (Uploading(*stream) for stream in streams)
        assert await beyond.is_closed()
        silent.wait(SPARE_RECEIVE_S)
        assert await silent.is_closed()
        await first.send(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
        assert await first.answer() == (200, b"")
        for _, writer in streams:
            writer.close()
        server.should_exit = True
        await serving

    with asyncio.Runner(loop_factory=PutForward) as runner:
        runner.run(main())


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((1024, 4096), (4096, 4096)),
        ((256, resource.RLIM_INFINITY), (10_000, resource.RLIM_INFINITY)),
        ((1024, 1_048_576), (10_000, 1_048_576)),
        ((20_000, 1_048_576), None),
        ((4096, 4096), None),
    ],
    ids=["to the highest", "of any", "and no further", "never lowered", "there already"],
)
def test_the_limit_is_raised(
    monkeypatch: pytest.MonkeyPatch, before: tuple[int, int], after: tuple[int, int] | None
) -> None:
    became: list[tuple[int, int]] = []
    monkeypatch.setattr(descriptors, "WANTED", 10_000)
    monkeypatch.setattr(resource, "getrlimit", lambda which: before)
    monkeypatch.setattr(resource, "setrlimit", lambda which, limits: became.append(limits))
    assert room_for_connections() == (after or before)[0] - OWN
    assert became == ([] if after is None else [after])


def test_a_limit_that_cannot_be_raised_is_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(which: int, limits: tuple[int, int]) -> None:
        raise ValueError

    monkeypatch.setattr(resource, "getrlimit", lambda which: (LEAST, 4096))
    monkeypatch.setattr(resource, "setrlimit", refuse)
    assert room_for_connections() == LEAST - OWN
