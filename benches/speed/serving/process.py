"""A child process that serves on loopback: started, waited for until it is ready, laid to rest, ended by its own id."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from typing import IO

from benches.speed.bench import REPOSITORY, Bench
from benches.speed.outcome import NotMeasured

READY_S = 240.0
STOP_S = 10.0
POLL_S = 0.1
LOG_LINES = 4


def environment(bench: Bench) -> dict[str, str]:
    """The caller's, with the threads of this run, without the network, without flags meant for another worker."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SDW_")}
    threads = str(bench.threads)
    return kept | {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "HF_HUB_OFFLINE": "1"}


def free_port() -> int:
    """A loopback port that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@contextmanager
def started(arguments: Sequence[str], bench: Bench, log: IO[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """`python` with `arguments`, in a session of its own, which is ended with it: some servers have children."""
    process = subprocess.Popen(
        [sys.executable, *arguments],
        cwd=REPOSITORY,
        env=environment(bench),
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        stop(process)


def stop(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM, patience, SIGKILL for it and for whatever it has left behind in its session."""
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(STOP_S)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@dataclass(frozen=True)
class Server:
    """A server that is up; `session` is the process group of it and its children."""

    url: str
    session: int

    def resting(self) -> AbstractContextManager[None]:
        """Stopped until it has a `turn`: some servers poll many times a second while they have nothing to do."""
        return self._between(signal.SIGSTOP, signal.SIGCONT)

    def turn(self) -> AbstractContextManager[None]:
        """The machine to itself, if all others rest."""
        return self._between(signal.SIGCONT, signal.SIGSTOP)

    @contextmanager
    def _between(self, first: signal.Signals, last: signal.Signals) -> Iterator[None]:
        os.killpg(self.session, first)
        try:
            yield
        finally:
            os.killpg(self.session, last)


@contextmanager
def serving(name: str, arguments: Sequence[str], bench: Bench, *, ready: str = "/ready") -> Iterator[Server]:
    """A server that is told its port as the last argument. Raises NotMeasured when it does not come up."""
    port = free_port()
    with tempfile.TemporaryFile() as log, started([*arguments, "--port", str(port)], bench, log) as process:
        deadline = time.monotonic() + READY_S
        while status(port, ready) != 200:
            if process.poll() is not None or time.monotonic() > deadline:
                raise NotMeasured(f"{name} did not come up: {_tail(log)}")
            time.sleep(POLL_S)
        yield Server(f"http://127.0.0.1:{port}", process.pid)


def status(port: int, path: str) -> int | None:
    """What the server says to a GET, or None when nobody answers."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def _tail(log: IO[bytes]) -> str:
    log.seek(0)
    lines = [line.strip() for line in log.read().decode("utf-8", "replace").splitlines() if line.strip()]
    return " / ".join(lines[-LOG_LINES:]) or "it said nothing"
