"""Waits for a worker that was just started: its port, then its model. Knows `/health` and `/ready`."""

from __future__ import annotations

import subprocess
import time
from contextlib import suppress

import httpx

from worker.cli.screen import Screen

START_S = 300.0
POLL_S = 0.1


class DemoError(Exception):
    """The demo cannot go on; its text is the line that the user reads."""


class WorkerTrouble(DemoError):
    """The worker itself is at fault, so its log is worth showing."""


def wait_until_ready(url: str, worker: subprocess.Popen[bytes], screen: Screen) -> None:
    """Returns when the model is loaded. Raises WorkerTrouble when it never will be."""
    deadline = time.monotonic() + START_S
    path = "/health"
    # Proxies are for the world outside; the worker is on loopback.
    with httpx.Client(base_url=url, trust_env=False) as http:
        while time.monotonic() < deadline:
            if worker.poll() is not None:
                raise WorkerTrouble(f"the worker ended before it was ready: exit status {worker.returncode}")
            with suppress(httpx.TransportError):  # the port is not open yet
                response = http.get(path)
                if response.is_success and path == "/ready":
                    return
                if response.is_success:
                    path = "/ready"
                    continue
                state = response.json()
                if state.get("reason") == "failed":
                    raise WorkerTrouble("the worker could not load its model")
                progress = state.get("progress")
                screen.show("loading", progress, 1.0 if progress else None, "the model")
            time.sleep(POLL_S)
    raise WorkerTrouble(f"the worker was not ready after {START_S:.0f} s")
