"""Connections that are not meant well: half-sent requests by the hundred, endless heads, and a million pieces."""

from __future__ import annotations

import socket
import time
from contextlib import ExitStack

import pytest

from tests.process import WorkerProcess
from tests.reliability.conftest import Report, p99

CLOSED_WITHIN_S = 20.0
HALVES = (
    b"",
    b"GET /health HT",
    b"GET /health HTTP/1.1\r\nHost: x\r\nX-Long: ",
    b"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{",
)


@pytest.mark.guard(120)
def test_half_sent_requests(report: Report) -> None:
    count = report.pick(200, 40)
    with WorkerProcess(None) as worker, ExitStack() as stack:
        connections = []
        for number in range(count):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", worker.port)))
            connection.sendall(HALVES[number % len(HALVES)])
            connections.append(connection)
        began = time.monotonic()
        waits: list[float] = []
        for _ in range(200):
            asked = time.monotonic()
            assert worker.client.get("/health").status_code == 200
            waits.append(time.monotonic() - asked)
        for connection in connections:
            connection.settimeout(CLOSED_WITHIN_S)
            try:
                while connection.recv(4096):
                    pass
            except ConnectionResetError:
                pass
        closed_s = time.monotonic() - began
    report.add(
        "Hostile input",
        "half-sent requests are closed",
        f"{count} connections of four kinds",
        f"all within {closed_s:.1f} s",
    )
    report.add("Hostile input", "health beside half-sent requests", "200 times", f"p99 {1e3 * p99(waits):.1f} ms")
    assert closed_s <= CLOSED_WITHIN_S


@pytest.mark.guard(120)
def test_heads_and_bodies_without_end(report: Report) -> None:
    megabytes = report.pick(20, 2)
    pieces = report.pick(1_000_000, 50_000)
    with WorkerProcess(None) as worker:
        with socket.create_connection(("127.0.0.1", worker.port)) as connection:
            head = refused(connection, [b"GET / HTTP/1.1\r\nX-Long: ", *[b"x" * 1_000_000] * megabytes])
        with socket.create_connection(("127.0.0.1", worker.port)) as connection:
            start = b"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            many = b"1\r\n \r\n" * 1000
            body = refused(
                connection, [start + b"Transfer-Encoding: chunked\r\n\r\n", *[many] * (pieces // 1000), b"0\r\n\r\n"]
            )
        for both in (
            b"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            b"GET /health HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
            b"GET /health HTTP/1.1\r\n\r\n",
        ):
            with socket.create_connection(("127.0.0.1", worker.port)) as connection:
                assert refused(connection, [both]) // 100 == 4
        assert worker.client.get("/health").status_code == 200
    report.add("Hostile input", "a head without end", f"{megabytes} MB", f"status {head}")
    report.add("Hostile input", "a body in very many pieces", f"{pieces} chunks of one byte", f"status {body}")
    assert head // 100 == 4
    assert body // 100 == 4


def refused(connection: socket.socket, sent: list[bytes]) -> int:
    """The status that a request gets while it is being sent, or at its end; 400 if the connection is cut."""
    connection.settimeout(60)
    try:
        for piece in sent:
            connection.sendall(piece)
        return int(connection.recv(65536).split()[1])
    except (ConnectionResetError, BrokenPipeError):
        return 400
