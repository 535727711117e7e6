"""Row 11: how soon after its start a worker answers, and is ready, against a bare load of the pipeline."""

from __future__ import annotations

import subprocess
import tempfile
import time
from dataclasses import dataclass
from typing import IO

from benches.speed.bench import Bench
from benches.speed.outcome import Group, NotMeasured, Outcome
from benches.speed.serving.process import free_port, started, status
from benches.speed.serving.servers import worker_arguments
from benches.speed.spread import middle, once, ratios

HTTP_POLL_S = 0.01
READY_POLL_S = 0.05
"""Answering takes time from loading, so it is asked less often than an open port is looked for."""
GIVE_UP_S = 240.0


@dataclass(frozen=True)
class Start:
    """Seconds from the start of a process until something was true of it."""

    http_s: float
    ready_s: float
    bare_s: float


def measure(bench: Bench) -> Outcome:
    """Starts in turns, one at a time; the first of each, when files may not be in memory yet, stands apart."""
    cold = _one_of_each(bench)
    starts = [_one_of_each(bench) for _ in range(bench.pick(5, 1))]
    ready_s, bare_s = [one.ready_s for one in starts], [one.bare_s for one in starts]
    http = middle([one.http_s for one in starts])
    groups = (
        Group("warm start", "s", {"HTTP": http, "ready": middle(ready_s), "bare load": middle(bare_s)}),
        Group(
            "first start of this run", "s",
            {"HTTP": once(cold.http_s), "ready": once(cold.ready_s), "bare load": once(cold.bare_s)},
        ),
    )  # fmt: skip
    return Outcome(11, {"11.http": http, "11.ready": middle(ratios(ready_s, bare_s))}, groups)


def _one_of_each(bench: Bench) -> Start:
    with tempfile.TemporaryFile() as log:
        http_s, ready_s = _worker_start(bench, log)
        return Start(http_s, ready_s, _bare_load(bench, log))


def _worker_start(bench: Bench, log: IO[bytes]) -> tuple[float, float]:
    """Seconds until anything is answered, and until `/ready` says yes."""
    port, began = free_port(), time.monotonic()
    with started(worker_arguments("--port", str(port)), bench, log) as process:
        while status(port, "/health") is None:
            _go_on(process, began, HTTP_POLL_S)
        http_s = time.monotonic() - began
        while status(port, "/ready") != 200:
            _go_on(process, began, READY_POLL_S)
        return http_s, time.monotonic() - began


def _bare_load(bench: Bench, log: IO[bytes]) -> float:
    """Seconds until a fresh process has imported diffusers and has the pipeline in memory."""
    began = time.monotonic()
    with (
        tempfile.NamedTemporaryFile() as told,
        started(["-m", "benches.speed.arms.bare_load", str(bench.model), told.name], bench, log) as process,
    ):
        process.wait(GIVE_UP_S)
        moment = told.read().decode()
    if not moment:
        raise NotMeasured("the stock pipeline did not load")
    return float(moment) - began


def _go_on(process: subprocess.Popen[bytes], began: float, poll_s: float) -> None:
    if process.poll() is not None or time.monotonic() - began > GIVE_UP_S:
        raise NotMeasured("the worker did not come up")
    time.sleep(poll_s)
