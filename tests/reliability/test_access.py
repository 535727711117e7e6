"""Who has no token gets nothing, however the request is spelt."""

from __future__ import annotations

import itertools
import random
import socket

from tests.reliability.conftest import Report
from tests.serving import ServedWorker

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE", "PROPFIND", "get")
PATHS = (
    "/v1/jobs",
    "/v1/jobs/x",
    "/v1/jobs/x/stream",
    "/v1/jobs/x/images/0",
    "/v1/info",
    "/docs",
    "/openapi.json",
    "/assets/x.js",
)
SPELLINGS = (
    lambda path: path,
    str.upper,
    lambda path: path + "/",
    lambda path: "/" + path,
    lambda path: path + "?/health",
    lambda path: "/health/.." + path,
    lambda path: "/health/%2e%2e" + path,
    lambda path: "/metrics;" + path,
    lambda path: path.replace("/", "%2F"),
    lambda path: "http://x/health" + path,
)
HOSTS = ("x", "/health", "127.0.0.1/health?", "")
TOKENS = (
    "",
    "Bearer",
    "Bearer ",
    "Bearer wrong",
    "Basic c2VjcmV0",
    "secret",
    "Bearer secre",
    "Bearer secrett",
    "Bearer SECRET",
)
CLOSED = (400, 401)


def test_nobody_without_a_token(report: Report, leaving: list[ServedWorker]) -> None:
    worker = ServedWorker(tokens=["secret"])
    asked = list(itertools.product(METHODS, PATHS, SPELLINGS, HOSTS, TOKENS))
    random.Random(1).shuffle(asked)
    asked = asked[: report.pick(len(asked), 300)]
    refused = 0
    for method, path, spell, host, token in asked:
        lines = [f"{method} {spell(path)} HTTP/1.1", f"Host: {host}", "Connection: close", "Content-Length: 0"]
        if token:
            lines.append(f"Authorization: {token}")
        with socket.create_connection(("127.0.0.1", worker.port), timeout=10) as connection:
            connection.sendall("\r\n".join([*lines, "", ""]).encode())
            answer = connection.makefile("rb").read()
        status = int(answer.split()[1])
        assert status in CLOSED, lines
        assert b"secret" not in answer
        refused += 1
    worker.leave()
    leaving.append(worker)
    report.add(
        "Access",
        "every route and method is closed without its token",
        f"{len(asked)} requests: {len(METHODS)} methods, {len(PATHS)} paths in {len(SPELLINGS)} spellings, "
        f"{len(HOSTS)} hosts, {len(TOKENS)} wrong tokens",
        f"{refused} refused",
    )
