"""Requests as bytes: what is not HTTP is refused in words, and what HTTP allows is taken."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable

import pytest

from tests.fakes import StepByStep
from tests.serving import WAIT_S, ServedWorker
from worker.api.headers import EVERYWHERE

HEAD = b"GET /health HTTP/1.1\r\nHost: test\r\n"
POST = b"POST /v1/jobs HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"
BODY = b'{"prompt": "x"}'
IN_CHUNKS = b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)
BROKEN = {
    "no host": b"GET /health HTTP/1.1\r\n\r\n",
    "two hosts": HEAD + b"Host: other\r\n\r\n",
    "a header's name": HEAD + b"X y: z\r\n\r\n",
    "a length": POST + b"Content-Length: 1x\r\n\r\n",
    "two lengths": POST + b"Content-Length: 15\r\nContent-Length: 16\r\n\r\n" + BODY,
    "a chunk": POST + CHUNKED + b"xyz\r\n",
    "no request": b"\x16\x03\x01 hello\r\n\r\n",
}


def answer_to(worker: ServedWorker, *sent: bytes) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and all that comes behind them until the worker closes the connection."""
    with socket.create_connection(("127.0.0.1", worker.port), timeout=WAIT_S) as client:
        for part in sent:
            client.sendall(part)
        received = client.makefile("rb").read()
    head, _, rest = received.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines)
    return int(status.split()[1]), headers, rest


@pytest.mark.parametrize("broken", BROKEN)
def test_what_is_not_http_is_refused_as_anything_else(
    instant: ServedWorker, broken: str, caplog: pytest.LogCaptureFixture
) -> None:
    status, headers, body = answer_to(instant, BROKEN[broken])
    assert (status, headers["connection"], headers["content-type"]) == (400, "close", "application/problem+json")
    assert b'"code":"malformed_request"' in body
    assert len(body) == int(headers["content-length"])
    for name, value in EVERYWHERE.items():
        assert headers[name.lower()] == value.lower()
    assert headers["cache-control"] == "no-store"
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


@pytest.mark.parametrize("behind", [b"\r\n", b"Host: other\r\n\r\n", CHUNKED + b"xyz\r\n"])
def test_head_has_no_body_though_it_is_broken(instant: ServedWorker, behind: bytes) -> None:
    head = b"HEAD /health HTTP/1.1\r\n" + (b"Host: test\r\n" if len(behind) > 2 else b"")
    status, headers, body = answer_to(instant, head + behind)
    assert (status, headers["content-type"], body) == (400, "application/problem+json", b"")


def test_a_body_that_breaks_behind_its_answer_closes_the_connection(instant: ServedWorker) -> None:
    with socket.create_connection(("127.0.0.1", instant.port), timeout=WAIT_S) as client, client.makefile("rb") as read:
        client.sendall(POST.replace(b"json", b"xml") + CHUNKED)
        assert read.readline().split()[1] == b"415"
        while read.readline().strip():
            pass
        client.sendall(b"xyz\r\n")
        assert b"HTTP/1.1" not in read.read()


def test_a_body_of_two_lengths_is_the_last_of_its_connection(serve: Callable[..., ServedWorker]) -> None:
    worker = serve(StepByStep())
    ambiguous = POST + b"Content-Length: 5\r\n" + CHUNKED + IN_CHUNKS
    status, headers, body = answer_to(worker, ambiguous + POST + CHUNKED + IN_CHUNKS)
    assert (status, headers["connection"]) == (202, "close")
    assert len(body) == int(headers["content-length"]), "nothing behind it is answered"
    assert len(worker.client.get("/v1/jobs").json()["jobs"]) == 1


@pytest.mark.parametrize(
    ("target", "status"),
    [
        *(("http://other:1/health", 200), ("HTTP://other/health?x=http://y/z", 200), ("https://[::1]:8/v1/jobs", 200)),
        *(("http://other", 200), ("http://other?x", 200), ("http://other/%68ealth", 200), ("http://other/x", 404)),
        *(("http://other/v1/jobs?limit=0", 422), ("http:///health", 404), ("http://me@other/health", 404)),
    ],
)
def test_a_target_may_name_the_host(instant: ServedWorker, target: str, status: int) -> None:
    sent = f"GET {target} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n"
    assert answer_to(instant, sent.encode())[0] == status


def test_links_begin_with_the_host_that_the_target_names(instant: ServedWorker) -> None:
    body = b'{"prompt": "x", "response_format": "url"}'
    head = (
        b"POST http://other:1/v1/images/generations HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\nConnection: close\r\n\r\n" % len(body)
    )
    status, _, answer = answer_to(instant, head + body)
    assert status == 200
    assert b'"url":"http://other:1/v1/jobs/' in answer
