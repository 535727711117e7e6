"""A launcher before its application is there: the port answers, nothing that is posted is lost, it ends in order."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import httpx
import pytest

from tests.conftest import eventually

END_S = 60.0
LAUNCH = """
import sys
from worker import main, provide
everything = provide.everything
def when_told(*given):
    if sys.stdin.read(1) == "?":
        raise KeyError("a secret of the operator's")
    return everything(*given)
provide.everything = when_told
raise SystemExit(main.cpu())
"""
JOB = {"prompt": "a red circle", "steps": 1}


class Starting:
    """A worker whose preparing goes on when it is told to."""

    def __init__(self, *flags: str, stderr: int = subprocess.PIPE) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("SDW_")}
        self.process = subprocess.Popen(
            [sys.executable, "-c", LAUNCH, "--port", str(port), *flags],
            stdin=subprocess.PIPE,
            stderr=stderr,
            text=True,
            env=inherited,
        )
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120.0)
        self._pool = ThreadPoolExecutor()
        eventually(self._answers, within_s=END_S)

    def post(self) -> Future[httpx.Response]:
        """A job, posted from a connection of its own."""
        return self._pool.submit(httpx.post, f"{self.client.base_url}/v1/jobs", json=JOB, timeout=120.0)

    def go_on(self, how: str = "!") -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(how)
        self.process.stdin.flush()

    def ended(self) -> tuple[int, str]:
        """Its status and all that it said."""
        _, said = self.process.communicate(timeout=END_S)
        return self.process.returncode, said

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()
        self._pool.shutdown()
        self.client.close()

    def _answers(self) -> bool:
        with contextlib.suppress(httpx.ConnectError):
            return self.client.get("/health").status_code == 200
        return False


@pytest.fixture
def starting() -> Iterator[type[Starting]]:
    made: list[Starting] = []

    class Closed(Starting):
        def __init__(self, *flags: str, stderr: int = subprocess.PIPE) -> None:
            made.append(self)
            super().__init__(*flags, stderr=stderr)

    yield Closed
    for worker in made:
        worker.close()


def test_probes_answer_at_once_and_a_job_that_is_posted_meanwhile_is_accepted(starting: type[Starting]) -> None:
    worker = starting()
    ready = worker.client.get("/ready")
    assert (ready.status_code, ready.json()) == (503, {"ready": False, "reason": "loading", "progress": 0.0})
    posted = worker.post()
    assert worker.client.get("/health").json() == {"status": "healthy"}
    assert not posted.done()

    worker.go_on()
    accepted = posted.result(END_S)
    assert accepted.status_code == 202
    with worker.client.stream("GET", f"/v1/jobs/{accepted.json()['job_id']}/stream") as stream:
        assert "event: completed" in stream.read().decode()
    worker.process.send_signal(signal.SIGTERM)
    url = f"/v1/jobs/{accepted.json()['job_id']}/images/0"
    assert worker.client.get(url).status_code == 200, "what has just ended can be fetched"
    status, said = worker.ended()
    assert (status, "Traceback" in said) == (0, False)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_meanwhile_ends_it_at_once(starting: type[Starting], number: signal.Signals) -> None:
    worker = starting()
    posted = worker.post()
    worker.client.get("/health")
    worker.process.send_signal(number)
    assert worker.ended() == (0, "")  # although what prepares would go on for ever
    with contextlib.suppress(httpx.TransportError):  # it may not have been read yet
        assert (posted.result(END_S).status_code, posted.result().json()["code"]) == (503, "draining")


def test_what_is_found_wrong_meanwhile_ends_it_with_one_line(starting: type[Starting]) -> None:
    worker = starting("--model", "/nowhere")
    posted = worker.post()
    worker.client.get("/health")
    worker.go_on()
    status, said = worker.ended()
    assert (status, said) == (
        2,
        "sd-worker-cpu: no diffusers model folder: model_index.json is not there\n",
    )
    with contextlib.suppress(httpx.TransportError):
        assert (posted.result(END_S).status_code, posted.result().json()["code"]) == (503, "worker_failed")


def test_what_nobody_expected_meanwhile_ends_it_too(starting: type[Starting]) -> None:
    worker = starting()
    worker.go_on("?")
    status, said = worker.ended()
    assert status == 1
    assert said.splitlines()[-1].startswith("KeyError")


def full_disk() -> Iterator[int]:
    descriptor = os.open("/dev/full", os.O_WRONLY)
    yield descriptor
    os.close(descriptor)


def without_reader() -> Iterator[int]:
    reader, writer = os.pipe()
    os.close(reader)
    yield writer
    os.close(writer)


def unread() -> Iterator[int]:
    """And full."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writer, b".")
    os.set_blocking(writer, True)
    yield writer
    os.close(reader)
    os.close(writer)


@pytest.mark.parametrize("standard_error", [full_disk, without_reader, unread])
def test_a_worker_whose_lines_nobody_takes_serves_and_stops(
    starting: type[Starting], standard_error: Callable[[], Iterator[int]]
) -> None:
    with contextlib.contextmanager(standard_error)() as descriptor:
        worker = starting("--log-level", "debug", stderr=descriptor)
        worker.go_on()
        eventually(lambda: worker.client.get("/ready").status_code == 200, within_s=END_S)
        job_id = worker.post().result(END_S).json()["job_id"]
        with worker.client.stream("GET", f"/v1/jobs/{job_id}/stream") as stream:
            assert "event: completed" in stream.read().decode()
        worker.process.send_signal(signal.SIGTERM)
        assert worker.process.wait(END_S) == 0
