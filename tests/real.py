"""The real worker on the built-in model, in a process of its own."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx

START_S = 120.0
"""For a start, and for any answer: a worker that loads, or that is beside another, may take its time."""
LAUNCH = "from worker.main import cpu; raise SystemExit(cpu())"


@dataclass
class Worker:
    """A worker process and what `/ready` said on the way up."""

    process: subprocess.Popen[str]
    url: str
    log_reader: threading.Thread
    ready_answers: list[tuple[int, dict[str, Any]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.client = client_of(self.url)

    def wait_until_ready(self) -> None:
        """Keep what `/ready` said meanwhile."""
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            answer = self.client.get("/ready")
            self.ready_answers.append((answer.status_code, answer.json()))
            if answer.status_code == 200:
                return
            # Paced by the worker itself: this answers when the engine's thread lets the event loop run.
            self.client.get("/v1/info")
        raise AssertionError("the worker did not get ready")


def client_of(url: str) -> httpx.Client:
    """One that waits, and asks nobody else."""
    return httpx.Client(base_url=url, timeout=START_S, trust_env=False)


def start(*flags: str, launch: str = LAUNCH) -> Worker:
    """As soon as it says where it listens; its model is still loading then."""
    process = subprocess.Popen([sys.executable, "-c", launch, "--port", "0", *flags], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if found := re.search(r"http://127\.0\.0\.1:\d+", line):
            log_reader = threading.Thread(target=process.stderr.read, daemon=True)
            log_reader.start()
            return Worker(process, found.group(), log_reader)
    raise AssertionError("the worker did not say where it listens")


def stop(worker: Worker) -> None:
    """SIGTERM, and the end of it."""
    worker.client.close()
    worker.process.terminate()
    worker.process.wait(60)
    worker.log_reader.join(10)
    assert worker.process.stderr is not None
    worker.process.stderr.close()


@contextlib.contextmanager
def running(*flags: str) -> Iterator[Worker]:
    """A worker that is ready, until the block is left."""
    worker = start(*flags)
    try:
        worker.wait_until_ready()
        yield worker
    finally:
        stop(worker)
