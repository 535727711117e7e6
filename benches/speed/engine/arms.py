"""Two ways to draw the same jobs in this process: B0 without its HTTP (lock, pipeline, PNG, base64), and the engine."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any, Protocol

from benches.speed.arms.pipeline import as_base64_png, draw
from benches.speed.engine.rig import EngineRig
from benches.speed.job import Job


class Arm(Protocol):
    """Anything that draws jobs in this process."""

    def images_per_s(self, jobs: Iterator[Job], *, clients: int, each: int) -> float:
        """Of closed loops: `clients` at once, `each` pictures a client."""


class B0:
    """Clients are threads; one lock lets one after the other have the device."""

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
