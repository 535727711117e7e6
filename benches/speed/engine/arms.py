"""Ways to draw the same jobs in this process: B0 without its HTTP (lock, pipeline, PNG, base64), and the engine, also
with its calls compiled as `--compile` has it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice, takewhile
from typing import Any, Protocol, Self

from benches.speed.arms.pipeline import as_base64_png, draw
from benches.speed.engine.rig import EngineRig
from benches.speed.job import Job
from benches.speed.outcome import NotMeasured
from shared_worker.device import Device
from worker.compiler import CompilerProcess
from worker.engine.compiling import Compiled as CompiledCall
from worker.engine.compiling import Compiler, Compiling
from worker.engine.shapes import Shapes
from worker.models.checkpoint import Checkpoint

MODE = "default"
"""Of torch.compile."""
ADOPTED_WITHIN_S = 60.0
"""Once a call is compiled: the jobs that run end as they began, and those after them are drawn with it."""


def first_line(error: Exception) -> str:
    """Of what it says; compilers say much."""
    return (str(error).strip().splitlines() or ["no word"])[0]


class Arm(Protocol):
    """Anything that draws jobs in this process."""

    def images_per_s(self, jobs: Iterator[Job], *, clients: int, each: int) -> float:
        """Of closed loops: `clients` at once, `each` pictures a client."""


class B0:
    """Clients are threads; they have the device one after the other. B1, if the pipeline is compiled.

    One thread draws for all of them: torch keeps plans of convolutions and attention by thread, and each new one would
    make its own.
    """

    def __init__(self, pipeline: Any) -> None:
        self._pipeline = pipeline
        self._drawing = ThreadPoolExecutor(1)

    def images_per_s(self, jobs: Iterator[Job], *, clients: int, each: int) -> float:
        """As `Arm` has it."""
        asked = list(islice(jobs, clients * each))
        began = time.perf_counter()
        with ThreadPoolExecutor(clients) as pool:
            answers = list(pool.map(self._answer, asked))
        return len(answers) / (time.perf_counter() - began)

    def _answer(self, job: Job) -> str:
        (image,) = self._drawing.submit(draw, self._pipeline, [job]).result()
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


class UntilShut:
    """A compiler, left alone until it is `shut`: it then begins nothing more, and gives up what is on its way.

    So that nothing is compiled beside what is measured. `rows` are those of the calls that were compiled, `reason` is
    why the last one was not.
    """

    def __init__(self, compiler: Compiler) -> None:
        self._compiler = compiler
        self._begun = 0
        self.shut = False
        self.rows: list[int] = []
        self.reason = ""

    def begin(self, shapes: Shapes) -> None:
        """As `Compiler` has it."""
        self._refuse()
        with self._noted():
            self._compiler.begin(shapes)
        self._begun = shapes.latents.shape[0]

    def ended(self) -> CompiledCall | None:
        """As `Compiler` has it."""
        self._refuse()
        with self._noted():
            call = self._compiler.ended()
        if call is not None:
            self.rows.append(self._begun)
        return call

    def rest(self) -> None:
        """As `Compiler` has it."""
        self._compiler.rest()

    @contextmanager
    def _noted(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self.reason = first_line(error)
            raise

    def _refuse(self) -> None:
        if self.shut:
            self._compiler.rest()
            raise RuntimeError("nothing is compiled any more, since there is something to measure")


class Compiled:
    """The engine as `Ours`, with its calls compiled in a process beside; a context. Raises NotMeasured.

    `settle` draws until calls are compiled; from the first of them on nothing more is. `rows` are theirs.
    """

    def __init__(self, checkpoint: Checkpoint, device: Device, *, max_rows: int, rows_under_way: int) -> None:
        checkpoint = replace(checkpoint, facts=replace(checkpoint.facts, compile=MODE))
        self._compiler = UntilShut(CompilerProcess(checkpoint, device, MODE))
        self._first_at: float | None = None
        self._failed_once = False
        compiling = Compiling(self._compiler, on_call=self._called, on_failed=self._failed)
        self._rig = EngineRig(checkpoint, device, max_rows=max_rows, rows_under_way=rows_under_way, compiling=compiling)

    def __enter__(self) -> Self:
        self._rig.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self._rig.__exit__(*exception)
        self._compiler.rest()

    @property
    def rows(self) -> tuple[int, ...]:
        """Of the compiled calls."""
        return tuple(sorted(self._compiler.rows))

    def images_per_s(self, jobs: Iterator[Job], *, clients: int, each: int) -> float:
        """As `Arm` has it."""
        return Ours(self._rig).images_per_s(jobs, clients=clients, each=each)

    def settle(self, jobs: Iterator[Job], *, clients: int, within_s: float) -> float:
        """Seconds until the first compiled call. Raises NotMeasured if no call is compiled `within_s`.

        In one closed loop, which begins and ends once: the fewer calls there are with rows that are not taken, the
        fewer are worth compiling. Those that are not compiled in time never are.
        """
        began = time.monotonic()

        def goes_on(job: Job) -> bool:
            took_s = time.monotonic() - began
            if took_s > within_s and self._compiler.rows:
                self._compiler.shut = True
            last_s = within_s + ADOPTED_WITHIN_S if self._compiler.rows else within_s
            return self._first_at is None and not self._failed_once and took_s < last_s

        self._rig.draw(takewhile(goes_on, jobs), at_once=clients)
        if self._first_at is None:
            told = f"a call cannot be compiled here: {self._compiler.reason or 'its first calls failed'}"
            raise NotMeasured(told if self._failed_once else f"no call was compiled within {within_s:.0f} s")
        return self._first_at - began

    def _called(self, compiled: bool) -> None:
        if compiled and self._first_at is None:
            self._first_at = time.monotonic()
            self._compiler.shut = True

    def _failed(self) -> None:
        self._failed_once = self._failed_once or not self._compiler.shut
