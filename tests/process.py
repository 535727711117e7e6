"""A worker in a process of its own, which a test may kill, with or without a state directory; its runner is a fake."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import resource
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import httpx

from tests.fakes import FACTS, LIMITS, DrawsNoise, Paced
from tests.serving import WAIT_S, SseEvent, check_refusal, events_of, serve
from worker.jobs.journal import NoJournal
from worker.main import SWITCH_INTERVAL_S
from worker.state.journal import SqliteJournal

_PROCESSES = multiprocessing.get_context("forkserver")
_PROCESSES.set_forkserver_preload(["pytest", __name__])  # so that a worker starts without importing anything


class PacedNoise(Paced, DrawsNoise):
    """Takes its time, and draws pictures of some size."""


class WorkerProcess:
    """Starts at once; `kill`, `terminate` and `start` again, on the same port and directory."""

    def __init__(
        self, folder: Path | None, *, step_s: float = 0.02, drain_s: float = 0.0, file_bytes: int | None = None
    ) -> None:
        self.port = _free_port()
        self._folder, self._step_s, self._drain_s = folder, step_s, drain_s
        self.client = httpx.Client(
            base_url=f"http://127.0.0.1:{self.port}",
            timeout=WAIT_S,
            trust_env=False,
            event_hooks={"response": [check_refusal]},
        )
        self.start(file_bytes=file_bytes)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.client.close()
        if self.process.is_alive():
            self.kill()

    def start(self, *, step_s: float | None = None, file_bytes: int | None = None) -> None:
        """Return when it answers. With `file_bytes` no file of its can grow larger, as on a full disk."""
        if step_s is not None:
            self._step_s = step_s

        settings = (self._folder, self.port, self._step_s, self._drain_s, file_bytes)
        self.process = _PROCESSES.Process(target=_serve, args=settings)
        self.process.start()
        never, deadline = threading.Event(), time.monotonic() + WAIT_S
        while not self._answers():
            assert self.process.is_alive(), "the worker ended"
            assert time.monotonic() < deadline, "the worker does not answer"
            never.wait(0.01)

    def kill(self) -> None:
        """`kill -9`."""
        self.process.kill()
        self.process.join()

    def terminate(self) -> int:
        """SIGTERM; the exit status."""
        self.process.terminate()
        self.process.join(WAIT_S)
        assert self.process.exitcode is not None, "the worker does not stop"
        return self.process.exitcode

    def post(self, **fields: Any) -> dict[str, Any]:
        """An accepted job."""
        response = self.try_post(**fields)
        assert response.status_code in (200, 202), response.text
        job: dict[str, Any] = response.json()
        return job

    def try_post(self, *, key: str | None = None, **fields: Any) -> httpx.Response:
        """Whatever the answer is."""
        headers = {} if key is None else {"Idempotency-Key": key}
        return self.client.post("/v1/jobs", json={"prompt": "a red circle"} | fields, headers=headers)

    def job(self, job_id: str) -> dict[str, Any]:
        """The job as it stands now."""
        response = self.client.get(f"/v1/jobs/{job_id}")
        assert response.status_code == 200, response.text
        job: dict[str, Any] = response.json()
        return job

    def picture(self, job_id: str, index: int = 0) -> bytes:
        """A finished one."""
        return self.client.get(f"/v1/jobs/{job_id}/images/{index}").raise_for_status().content

    @contextlib.contextmanager
    def following(self, job_id: str, after: int = 0) -> Iterator[Iterator[SseEvent]]:
        """The events of a job, as they come."""
        with self.client.stream("GET", f"/v1/jobs/{job_id}/stream", headers={"Last-Event-ID": str(after)}) as response:
            assert response.status_code == 200, response.read()
            yield events_of(response)

    def stream(self, job_id: str, after: int = 0) -> list[SseEvent]:
        """All events of a job behind a number, until the stream ends."""
        with self.following(job_id, after) as events:
            return list(events)

    def wait_for(self, job_id: str, name: str, after: int = 0) -> SseEvent:
        """The first event of that name."""
        with self.following(job_id, after) as events:
            return next(event for event in events if event.name == name)

    def _answers(self) -> bool:
        try:
            return self.client.get("/ready").status_code == 200
        except httpx.TransportError:
            return False


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def _serve(folder: Path | None, port: int, step_s: float, drain_s: float, file_bytes: int | None) -> None:
    """Serve until stopped."""
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    if file_bytes is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a write beyond the limit is then an error like any other
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))
    listener = socket.create_server(("127.0.0.1", port), backlog=512)
    listener.setblocking(False)
    limits = replace(LIMITS, queue_capacity=1000)
    journal = NoJournal() if folder is None else SqliteJournal(folder, FACTS.id)
    with contextlib.closing(journal):
        sys.exit(asyncio.run(serve(PacedNoise(step_s), listener, limits=limits, drain_s=drain_s, journal=journal)))
