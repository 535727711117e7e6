"""Ways to draw the same jobs in this process: B0 without its HTTP (lock, pipeline, PNG, base64), and the engine, also
with its calls compiled as `--compile` has it."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from typing import Any, Protocol, Self

from benches.speed.arms.pipeline import as_base64_png, draw
from benches.speed.engine.rig import EngineRig
from benches.speed.job import Job
from benches.speed.outcome import NotMeasured
from shared_worker.device import Device
from worker.compiler import CompilerProcess
from worker.engine.compiling import Compiling
from worker.models.checkpoint import Checkpoint

MODE = "default"
"""Of torch.compile."""


class Arm(Protocol):
    """Anything that draws jobs in this process."""

    def images_per_s(self, jobs: Iterator[Job], *, clients: int, each: int) -> float:
        """Of closed loops: `clients` at once, `each` pictures a client."""


class B0:
    """Clients are threads; one lock lets one after the other have the device. B1, if the pipeline is compiled."""

    def __init__(self, pipeline: Any) -> None:
        self._pipeline = pipeline
        self._lock = threading.Lock()

    def images_per_s(self, jobs: Iterator[Job], *, clients: int, each: int) -> float:
        """As `Arm` has it."""
        asked = list(islice(jobs, clients * each))
        began = time.perf_counter()
        with ThreadPoolExecutor(clients) as pool:
            answers = list(pool.map(self._answer, asked))
        return len(answers) / (time.perf_counter() - began)

    def _answer(self, job: Job) -> str:
        with self._lock:
            image = draw(self._pipeline, [job])[0]
        return json.dumps({"image": as_base64_png(image)})


class Ours:
    """The engine, whose own threads encode."""

    def __init__(self, rig: EngineRig) -> None:
        self._rig = rig

    def images_per_s(self, jobs: Iterator[Job], *, clients: int, each: int) -> float:
        """As `Arm` has it."""
        asked = list(islice(jobs, clients * each))
        began = time.perf_counter()
        self._rig.draw(asked, at_once=clients)
        return len(asked) / (time.perf_counter() - began)


class Compiled:
    """The engine as `Ours`, with its calls compiled in a process beside; a context. Raises NotMeasured.

    `settle` draws until calls are compiled.
    """

    def __init__(self, checkpoint: Checkpoint, device: Device, *, max_rows: int) -> None:
        checkpoint = replace(checkpoint, facts=replace(checkpoint.facts, compile=MODE))
        self._process = CompilerProcess(checkpoint, device, MODE)
        self._compiled_calls = self._failures = 0
        compiling = Compiling(self._process, on_call=self._called, on_failed=self._failed)
        self._rig = EngineRig(checkpoint, device, max_rows=max_rows, compiling=compiling)

    def __enter__(self) -> Self:
        self._rig.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self._rig.__exit__(*exception)
        self._process.rest()

    def images_per_s(self, jobs: Iterator[Job], *, clients: int, each: int) -> float:
        """As `Arm` has it."""
        return Ours(self._rig).images_per_s(jobs, clients=clients, each=each)

    def settle(self, jobs: Iterator[Job], *, clients: int, within_s: float) -> float:
        """Seconds until the first compiled call. Raises NotMeasured if there is none `within_s`."""
        began = time.monotonic()
        while not self._compiled_calls:
            if self._failures:
                raise NotMeasured("a call cannot be compiled here")
            if time.monotonic() - began > within_s:
                raise NotMeasured(f"no call was compiled within {within_s:.0f} s")
            self.images_per_s(jobs, clients=clients, each=1)
        return time.monotonic() - began

    def _called(self, compiled: bool) -> None:
        self._compiled_calls += compiled

    def _failed(self) -> None:
        self._failures += 1
