"""Runners without torch, named by how they behave, and small values to build jobs from.

All of them may be shared between the engine's thread and the test's. Whatever waits here gives up after
`PATIENCE_S`, so that a test that goes wrong fails and does not hang.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from worker import errors
from worker.engine.runner import DeviceLost, Drawing, Pixels
from worker.jobs.facts import Limits, ModelFacts
from worker.jobs.params import ImageFormat, JobParams, OnDisconnect, OutputParams, PreviewParams, Priority, Task

PATIENCE_S = 30.0
SECRET = "Traceback in /srv/site-packages/secret.py at 0x7f00deadbeef"
"""What an unforeseen error might say, and no client may ever read."""

FACTS = ModelFacts(
    id="fake",
    family="sd",
    dtype="float32",
    width=64,
    height=64,
    multiple=8,
    steps=4,
    guidance_scale=5.0,
    sampler="euler",
    samplers=("ddim", "euler", "dpmpp_2m"),
    tasks=(Task.TEXT_TO_IMAGE,),
)
LIMITS = Limits(queue_capacity=8)
PNG = OutputParams(ImageFormat.PNG, 90, inline=False, metadata=True)
PREVIEW = PreviewParams(every=1, size=32, format=ImageFormat.JPEG)


def make_params(**changes: object) -> JobParams:
    """A small job's parameters, some of them changed."""
    usual = JobParams(
        task=Task.TEXT_TO_IMAGE,
        prompt="a red circle",
        negative_prompt=None,
        width=64,
        height=64,
        steps=4,
        guidance_scale=5.0,
        seed=1,
        num_images=1,
        sampler="euler",
        preview=None,
        output=PNG,
        priority=Priority.NORMAL,
        on_disconnect=OnDisconnect.CONTINUE,
        timeout_s=600.0,
        labels={},
    )
    return replace(usual, **changes)  # type: ignore[arg-type]


@dataclass(slots=True, eq=False, kw_only=True)
class Sketch(Drawing):
    """A drawing that remembers its size, so that it can be finished."""

    width: int
    height: int


class Instant:
    """Steps at once. `calls` holds, for each model call, the (seed, step) pairs that the batch was about to do."""

    def __init__(self) -> None:
        self.calls: list[list[tuple[int, int]]] = []
        self.opened: list[JobParams] = []
        self.finished: list[int] = []
        self._called = threading.Condition()

    def load(self, report: Callable[[float], None]) -> None:
        report(0.5)
        report(1.0)

    def open(self, params: JobParams) -> list[Sketch]:
        self.opened.append(params)
        return [
            Sketch(
                key=(params.width, params.height),
                rows=2 if params.guidance_scale > 1 else 1,
                pixels=params.width * params.height,
                index=index,
                seed=params.seed + index,
                steps=params.steps,
                width=params.width,
                height=params.height,
            )
            for index in range(params.num_images)
        ]

    def step(self, batch: Sequence[Sketch]) -> None:
        with self._called:
            self.calls.append([(drawing.seed, drawing.step + 1) for drawing in batch])
            self._called.notify_all()
        self.before_step(batch)
        for drawing in batch:
            drawing.step += 1

    def before_step(self, batch: Sequence[Sketch]) -> None:
        """What a kind of runner does inside the model call; raising leaves every drawing as it was."""

    def time_call(self, rows: int) -> tuple[float, int | None]:
        raise AssertionError("nothing is measured where the rows are given")

    def prepare(self) -> bool:
        return False

    def let_go(self) -> bool:
        return False

    def preview(self, drawing: Sketch) -> Pixels:
        return paint(drawing.seed, drawing.width // 8, drawing.height // 8)

    def finish(self, drawing: Sketch) -> Pixels:
        self.finished.append(drawing.seed)
        return paint(drawing.seed, drawing.width, drawing.height)

    def wait_for_calls(self, number: int) -> None:
        """Return when the model was called `number` times in all (the last call may still be going on)."""
        with self._called:
            assert self._called.wait_for(lambda: len(self.calls) >= number, PATIENCE_S), f"{len(self.calls)} calls"

    def allow_all(self) -> None:
        """Hold nothing back any more."""


class Warns(Instant):
    """Has something to say of every job."""

    def __init__(self, *warnings: str) -> None:
        super().__init__()
        self._warnings = warnings

    def open(self, params: JobParams) -> list[Sketch]:
        return [replace(sketch, warnings=self._warnings) for sketch in super().open(params)]


class DrawsNoise(Instant):
    """Pictures that no format can make smaller."""

    def finish(self, drawing: Sketch) -> Pixels:
        return np.random.default_rng(drawing.seed).integers(0, 256, (drawing.height, drawing.width, 3), dtype=np.uint8)


class StepByStep(Instant):
    """Each model call takes one permit; the test gives them with `allow`."""

    def __init__(self, allowed: int = 0) -> None:
        super().__init__()
        self._permits = threading.Semaphore(allowed)
        self._free = False

    def allow(self, number: int = 1) -> None:
        """Let so many model calls happen."""
        self._permits.release(number)

    def allow_all(self) -> None:
        self._free = True
        self._permits.release()

    def before_step(self, batch: Sequence[Sketch]) -> None:
        if not self._free and not self._permits.acquire(timeout=PATIENCE_S):
            raise TimeoutError("the test allowed no further step")


class Paced(Instant):
    """Each model call takes `step_s`."""

    def __init__(self, step_s: float) -> None:
        super().__init__()
        self._step_s = step_s
        self._never = threading.Event()

    def before_step(self, batch: Sequence[Sketch]) -> None:
        self._never.wait(self._step_s)


class NeverEnds(Instant):
    """Hangs in its first model call until `allow_all`."""

    def __init__(self) -> None:
        super().__init__()
        self._let_go = threading.Event()

    def allow_all(self) -> None:
        self._let_go.set()

    def before_step(self, batch: Sequence[Sketch]) -> None:
        self._let_go.wait(PATIENCE_S)


class FailsAtStep(Instant):
    """Raises `error` when a drawing is about to do step `step`; only the drawing of `seed`, if one is given."""

    def __init__(self, step: int, *, seed: int | None = None, error: Exception | None = None) -> None:
        super().__init__()
        self._step = step
        self._seed = seed
        self._error = error or RuntimeError(SECRET)

    def before_step(self, batch: Sequence[Sketch]) -> None:
        for drawing in batch:
            if drawing.step + 1 == self._step and self._seed in (None, drawing.seed):
                raise self._error


class OutOfMemory(Instant):
    """Cannot step more than `max_rows` rows at once."""

    def __init__(self, max_rows: int) -> None:
        super().__init__()
        self._max_rows = max_rows

    def before_step(self, batch: Sequence[Sketch]) -> None:
        if sum(drawing.rows for drawing in batch) > self._max_rows:
            raise errors.OutOfMemory


class LosesDevice(FailsAtStep):
    """The device is gone for good at step `step`."""

    def __init__(self, step: int, *, seed: int | None = None) -> None:
        super().__init__(step, seed=seed, error=DeviceLost(SECRET))


class FailsToOpen(Instant):
    """Cannot encode any prompt."""

    def __init__(self, error: Exception | None = None) -> None:
        super().__init__()
        self._error = error or RuntimeError(SECRET)

    def open(self, params: JobParams) -> list[Sketch]:
        raise self._error


class FailsToDecode(Instant):
    """Steps, and then cannot make pixels: of any image, or of the one of `seed`."""

    def __init__(self, *, seed: int | None = None, error: Exception | None = None) -> None:
        super().__init__()
        self._seed = seed
        self._error = error or errors.NanOutput()

    def finish(self, drawing: Sketch) -> Pixels:
        if self._seed in (None, drawing.seed):
            raise self._error
        return super().finish(drawing)


class FailsToLoad(Instant):
    """There is no model."""

    def __init__(self, error: Exception | None = None) -> None:
        super().__init__()
        self._error = error or errors.ModelUnusable("the fake model cannot be loaded")

    def load(self, report: Callable[[float], None]) -> None:
        report(0.5)
        raise self._error


class LoadsWhenTold(Instant):
    """Stays at a quarter of its loading until `finish_loading`; `loading` is set once it is there."""

    def __init__(self) -> None:
        super().__init__()
        self.loading = threading.Event()
        self._told = threading.Event()

    def load(self, report: Callable[[float], None]) -> None:
        report(0.25)
        self.loading.set()
        self._told.wait(PATIENCE_S)
        report(1.0)

    def finish_loading(self) -> None:
        self._told.set()

    def allow_all(self) -> None:
        self.finish_loading()


class Unmetered:
    """A meter that counts nothing."""

    def stepped(self, seconds: float, rows: int) -> None: ...

    def encoded_text(self, seconds: float) -> None: ...

    def decoded(self, seconds: float) -> None: ...

    def encoded_image(self, seconds: float) -> None: ...


def paint(seed: int, width: int, height: int) -> Pixels:
    """A picture that tells its seed in its colour and is not flat.  # [H, W, 3]"""
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    pixels[..., 0] = np.arange(width, dtype=np.uint8)
    pixels[..., 1] = np.arange(height, dtype=np.uint8)[:, None]
    pixels[..., 2] = seed % 256
    return pixels
