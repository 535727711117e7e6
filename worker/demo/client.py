"""The demo's side of the HTTP contract: wait until the worker is ready, follow a job, understand refusals."""

from __future__ import annotations

import base64
import json
import subprocess
import time
from contextlib import suppress
from typing import Any

import httpx

from worker.demo.events import read_events
from worker.demo.screen import Screen

Json = dict[str, Any]

START_S = 300.0
POLL_S = 0.1
SILENCE_S = 60.0
"""The stream sends a comment every 15 s: one that is silent for so long is dead."""


class DemoError(Exception):
    """The demo cannot go on; its text is the line that the user reads."""


class WorkerTrouble(DemoError):
    """The worker itself is at fault, so its log is worth showing."""


def wait_until_ready(client: httpx.Client, worker: subprocess.Popen[bytes], screen: Screen) -> None:
    """Returns when the model is loaded. Raises WorkerTrouble when it never will be."""
    deadline = time.monotonic() + START_S
    path = "/health"
    while time.monotonic() < deadline:
        if worker.poll() is not None:
            raise WorkerTrouble(f"the worker ended before it was ready: exit status {worker.returncode}")
        with suppress(httpx.TransportError):  # the port is not open yet
            response = client.get(path)
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


def follow(client: httpx.Client, url: str, screen: Screen) -> tuple[Json, int]:
    """Shows the stream; the data of its `completed`, and how many previews came. Raises DemoError at any other end."""
    previews = 0
    with client.stream("GET", url, timeout=httpx.Timeout(10, read=SILENCE_S)) as response:
        if not response.is_success:
            response.read()
        accepted(response)
        for event in read_events(response.iter_bytes()):
            data: Json = json.loads(event.data)
            match event.name:
                case "queued":
                    screen.show("waiting", None, None, f"{data['position']} ahead")
                case "progress":
                    screen.show(
                        "drawing", data["step"], data["steps"], f"{data['step']}/{data['steps']}, {previews} previews"
                    )
                case "preview":
                    previews += 1
                    screen.show_picture(base64.b64decode(data["image"]))
                case "completed":
                    screen.show("drawn", 1, 1, f"{previews} previews")
                    return data, previews
                case "failed":
                    raise DemoError(f"the job failed: {data['message']} ({data['code']})")
                case "cancelled":
                    raise DemoError(f"the job was cancelled ({data['reason']})")
    raise DemoError("the stream ended before the job did")


def accepted(response: httpx.Response) -> httpx.Response:
    """The response, if it is a success. Raises DemoError with what the problem+json says."""
    if response.is_success:
        return response
    try:
        problem = response.json()
        faults = [f"{fault['field']}: {fault['message']}" for fault in problem.get("errors") or []]
        reason = "; ".join(faults) or problem["detail"]
    except (ValueError, KeyError, TypeError, AttributeError):
        reason = response.reason_phrase
    raise DemoError(f"the worker refused: {reason} ({response.status_code})")
