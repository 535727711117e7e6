"""More runners without torch, for what only the engine's own tests ask: moods by prompt, held encoders, lost memory."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tests.fakes import PATIENCE_S, SECRET, Instant, Sketch, StepByStep, paint
from worker import errors
from worker.engine.runner import DeviceLost, Drawing, Pixels
from worker.jobs.params import JobParams
from worker.jobs.tiling import cut

NONSENSE = np.zeros((2, 2, 7), dtype=np.uint8)
"""Pixels that no encoder takes."""
MOODS = ("fails to open", "fails at its second step", "fails to preview", "previews nonsense", "has no memory",
         "fails to decode", "draws nonsense")  # fmt: skip
"""Prompts that `Moody` obeys; each fails its own job, if it has two steps and previews."""


class Moody(Instant):
    """Does to each job what its prompt says, one of `MOODS`; draws well for any other prompt."""

    def __init__(self) -> None:
        super().__init__()
        self._moods: weakref.WeakKeyDictionary[Drawing, str] = weakref.WeakKeyDictionary()

    def open(self, params: JobParams) -> list[Sketch]:
        if params.prompt == "fails to open":
            raise RuntimeError(SECRET)
        drawings = [MoodySketch.of(sketch) for sketch in super().open(params)]
        self._moods.update(dict.fromkeys(drawings, params.prompt))
        return list(drawings)

    def before_step(self, batch: Sequence[Sketch]) -> None:
        for drawing in batch:
            if drawing.step == 1 and self._moods[drawing] == "fails at its second step":
                raise RuntimeError(SECRET)
            if drawing.step == 1 and self._moods[drawing] == "has no memory":
                raise errors.OutOfMemory

    def preview(self, drawing: Sketch) -> Pixels:
        match self._moods[drawing]:
            case "fails to preview":
                raise RuntimeError(SECRET)
            case "previews nonsense":
                return NONSENSE
        return super().preview(drawing)

    def finish(self, drawing: Sketch) -> Pixels:
        match self._moods[drawing]:
            case "fails to decode":
                raise errors.NanOutput
            case "draws nonsense":
                return NONSENSE
        return super().finish(drawing)


class MoodySketch(Sketch):
    """A sketch that can be looked up weakly."""

    __slots__ = ("__weakref__",)

    @classmethod
    def of(cls, sketch: Sketch) -> MoodySketch:
        return cls(**{name: getattr(sketch, name) for name in sketch.__dataclass_fields__})


class HeldPixels(np.ndarray[Any, np.dtype[np.uint8]]):
    """A picture that an encoder cannot read before `released`; `reached` says that one tries."""

    reached: threading.Event
    released: threading.Event

    @classmethod
    def of(cls, pixels: Pixels) -> HeldPixels:
        held = pixels.view(cls)
        held.reached, held.released = threading.Event(), threading.Event()
        return held

    @property
    def __array_interface__(self) -> dict[str, Any]:
        self.reached.set()
        self.released.wait(PATIENCE_S)
        return self.view(np.ndarray).__array_interface__


class HoldsEncoders(Instant):
    """What is encoded of the drawing of `seed` is held: its picture, or its previews."""

    def __init__(self, seed: int = 1, *, previews: bool = False) -> None:
        super().__init__()
        self._seed = seed
        self._previews = previews
        self.held = HeldPixels.of(paint(seed, 64, 64))

    def preview(self, drawing: Sketch) -> Pixels:
        return self.held if self._previews and drawing.seed == self._seed else super().preview(drawing)

    def finish(self, drawing: Sketch) -> Pixels:
        return self.held if not self._previews and drawing.seed == self._seed else super().finish(drawing)

    def allow_all(self) -> None:
        super().allow_all()
        self.held.released.set()


class HoldsFirstPreview(HoldsEncoders):
    """The preview of the first step is held."""

    def preview(self, drawing: Sketch) -> Pixels:
        return self.held if drawing.step == 1 else paint(drawing.seed, 64, 64)


class HoldsEncodersAndSteps(HoldsEncoders, StepByStep):
    """As the one, and each model call takes a permit as with the other."""


class LosesDeviceWhileEncoding(HoldsEncoders):
    """Holds the picture of seed 1, and loses the device with the next job, once an encoder has the picture."""

    def before_step(self, batch: Sequence[Sketch]) -> None:
        if any(drawing.seed != self._seed for drawing in batch):
            assert self.held.reached.wait(PATIENCE_S)
            raise DeviceLost(SECRET)


class InTiles(StepByStep):
    """Every image in four tiles of half its sides and a little; each of them painted as the whole is there."""

    def open(self, params: JobParams) -> list[Sketch]:
        side = params.width // 2 + 8
        tiles = cut(params.width, params.height, side, side, 8)
        return [
            replace(sketch, key=(side, side), width=side, height=side, pixels=side**2, tile=tile, tiles=len(tiles))
            for sketch in super().open(params)
            for tile in tiles
        ]

    def preview(self, drawing: Sketch) -> Pixels:
        return self._part(drawing)[::8, ::8]

    def finish(self, drawing: Sketch) -> Pixels:
        self.finished.append(drawing.seed)
        return self._part(drawing)

    def _part(self, drawing: Sketch) -> Pixels:
        tile = drawing.tile
        assert tile is not None
        whole = paint(drawing.seed, tile.left + tile.width, tile.top + tile.height)
        return whole[tile.top :, tile.left :]


class MakesTilesOneByOne(InTiles):
    """Each tile's drawing is made when it is asked for; `calls_before` says how many calls there had been then, and
    `on_tile` is told its number. Pictures of 64 pixels are not cut."""

    def __init__(self) -> None:
        super().__init__()
        self.calls_before: list[int] = []
        self.on_tile: Callable[[int], None] = lambda number: None

    def open(self, params: JobParams) -> Iterator[Sketch]:
        if params.width == 64:
            yield from StepByStep.open(self, params)
            return
        for number, sketch in enumerate(super().open(params)):
            self.calls_before.append(len(self.calls))
            self.on_tile(number)
            yield sketch

    def finish(self, drawing: Sketch) -> Pixels:
        return super().finish(drawing) if drawing.tile else paint(drawing.seed, drawing.width, drawing.height)


class Weights:
    """What a job names beside the model."""


@dataclass(slots=True, eq=False, kw_only=True)
class Weighted(Sketch):
    """A sketch of a job that names weights, which it has to its last call."""

    weights: Weights | None

    def end_calls(self) -> None:
        self.weights = None


class LacksRoomBesideWeights(MakesTilesOneByOne):
    """While weights that a job named are in memory there is no room for `what` of a job that named none: a step, a
    decoding, or another tile. They stay until it is told to let go of what no drawing has."""

    def __init__(self, what: str, *, share_calls: bool = False) -> None:
        super().__init__()
        self._what = what
        self._share_calls = share_calls
        self._weights: weakref.ref[Weights] | None = None
        self.on_tile = lambda number: self._need("another tile")

    def _need(self, what: str) -> None:
        if what == self._what and self._weights is not None:
            raise errors.OutOfMemory

    def open(self, params: JobParams) -> Iterator[Sketch]:
        if not params.reads_files:
            yield from super().open(params)
            return
        weights = Weights()
        self._weights = weakref.ref(weights)
        for sketch in super().open(params):
            fields = {name: getattr(sketch, name) for name in sketch.__dataclass_fields__}
            yield Weighted(**fields | ({} if self._share_calls else {"key": "with weights"}), weights=weights)

    def step(self, batch: Sequence[Sketch]) -> None:
        super().step(batch)
        for sketch in batch:
            if sketch.done:
                sketch.end_calls()

    def before_step(self, batch: Sequence[Sketch]) -> None:
        super().before_step(batch)
        if self._share_calls or not all(isinstance(sketch, Weighted) for sketch in batch):
            self._need("a step")

    def finish(self, drawing: Sketch) -> Pixels:
        self._need("a decoding")
        return super().finish(drawing)

    def let_go(self) -> bool:
        idle = self._weights is not None and self._weights() is None
        self._weights = None if idle else self._weights
        return idle


class CallsWhenOpening(Instant):
    """Calls `on_open` in the middle of opening a job, on the engine's thread."""

    def __init__(self) -> None:
        super().__init__()
        self.on_open: Callable[[], None] = lambda: None

    def open(self, params: JobParams) -> list[Sketch]:
        self.on_open()
        return super().open(params)


class NeedsItsMemoryBack(Instant):
    """The first call of several drawings has no memory; `kept` tells for every later call if its tensors live on."""

    def __init__(self) -> None:
        super().__init__()
        self._tensor: weakref.ref[np.ndarray[Any, Any]] | None = None
        self.kept: list[bool] = []

    def before_step(self, batch: Sequence[Sketch]) -> None:
        if self._tensor is not None:
            self.kept.append(self._tensor() is not None)
        elif len(batch) > 1:
            gc.disable()  # it is the engine that must let go
            activations = np.zeros(10)
            self._tensor = weakref.ref(activations)
            try:
                raise RuntimeError("CUDA out of memory")
            except RuntimeError:
                raise errors.OutOfMemory from None

    def allow_all(self) -> None:
        gc.enable()


class TakesItsTime(Instant):
    """A device that is full with `full_at` rows; at that many it raises `error` instead, if there is one."""

    def __init__(self, full_at: int, error: Exception | None = None) -> None:
        super().__init__()
        self._full_at = full_at
        self._error = error
        self._never = threading.Event()

    def time_call(self, rows: int) -> tuple[float, int | None]:
        if rows >= self._full_at and self._error is not None:
            raise self._error
        return self._seconds(rows), None

    def before_step(self, batch: Sequence[Sketch]) -> None:
        self._never.wait(self._seconds(sum(sketch.rows for sketch in batch)))

    def _seconds(self, rows: int) -> float:
        return 0.010 * max(1.0, rows / self._full_at)


class TakesItsTimeByRows(Instant):
    """Each row takes as long as the rest of a call twice."""

    BASE_S = 0.004

    def __init__(self) -> None:
        super().__init__()
        self._never = threading.Event()

    def before_step(self, batch: Sequence[Sketch]) -> None:
        self._never.wait(self.BASE_S + 2 * self.BASE_S * sum(sketch.rows for sketch in batch))


class HoldsPixels(Instant):
    """Has memory for so many pixels in a call."""

    def __init__(self, pixels: int) -> None:
        super().__init__()
        self._pixels = pixels

    def before_step(self, batch: Sequence[Sketch]) -> None:
        if sum(sketch.rows * sketch.pixels for sketch in batch) > self._pixels:
            raise errors.OutOfMemory
