"""A runner whose pictures are looked at before anybody gets them, by a judge that knows pixels alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, Literal

import numpy as np
from PIL import Image as PillowImage

from worker.engine.device_errors import mapped_errors
from worker.engine.runner import D, Pixels, Runner
from worker.errors import UnsafeOutput
from worker.jobs.params import JobParams

Judge = Callable[[Pixels], bool]
"""Whether a picture is flagged."""
LEFT_PX = 8
"""The longer side of what is left of a blurred picture."""


class Judged(Generic[D]):
    """`runner`, with what it draws judged. Of a flagged picture a blur is left and a warning, or its job fails.

    `load_judge` is called on the engine's thread, once the model is there. Previews are judged too: a flagged one is
    blurred, and the job goes on.
    """

    def __init__(self, runner: Runner[D], load_judge: Callable[[], Judge], on_unsafe: Literal["blur", "fail"]) -> None:
        self._runner = runner
        self._load_judge = load_judge
        self._on_unsafe = on_unsafe

    def load(self, report: Callable[[float], None]) -> None:
        """The model, then the judge."""
        self._runner.load(lambda share: report(0.9 * share))
        self._judge = self._load_judge()
        report(1.0)

    def open(self, params: JobParams) -> list[D]:
        """As the runner does."""
        return self._runner.open(params)

    def step(self, batch: Sequence[D]) -> None:
        """As the runner does."""
        self._runner.step(batch)

    def time_call(self, rows: int) -> tuple[float, int | None]:
        """As the runner does."""
        return self._runner.time_call(rows)

    def preview(self, drawing: D) -> Pixels:
        """Blurred if it is flagged."""
        pixels = self._runner.preview(drawing)
        return blurred(pixels) if self._flags(pixels) else pixels

    def finish(self, drawing: D) -> Pixels:
        """Blurred if it is flagged, and the drawing says so; or raises UnsafeOutput."""
        pixels = self._runner.finish(drawing)
        if not self._flags(pixels):
            return pixels
        if self._on_unsafe == "fail":
            raise UnsafeOutput(f"Image {drawing.index} was flagged by the safety checker")
        drawing.warnings = (*drawing.warnings, f"image {drawing.index}: flagged by the safety checker and blurred")
        return blurred(pixels)

    def _flags(self, pixels: Pixels) -> bool:
        with mapped_errors():
            return self._judge(pixels)


def blurred(pixels: Pixels) -> Pixels:
    """Its colours, and where they roughly were; nothing that could be recognised, or undone.  # [H, W, 3]"""
    height, width = pixels.shape[:2]
    scale = min(1.0, LEFT_PX / max(width, height))
    left = (max(1, round(width * scale)), max(1, round(height * scale)))
    picture = PillowImage.fromarray(pixels).resize(left, PillowImage.Resampling.BOX)
    return np.asarray(picture.resize((width, height), PillowImage.Resampling.BICUBIC))
