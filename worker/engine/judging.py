"""Every picture is looked at before anybody gets it, by a judge that knows pixels alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
from PIL import Image as PillowImage

from worker.engine.assembling import assemble
from worker.engine.encoding_pool import Pieces
from worker.engine.runner import Pixels
from worker.errors import UnsafeOutput

Judge = Callable[[Pixels], bool]
"""Whether a picture is flagged."""
LEFT_PX = 8
"""The longer side of what is left of a blurred picture."""


class Judging:
    """Of a flagged picture a blur is left and a warning, or its job fails. A flagged preview is blurred, and the job
    goes on. A picture in tiles is judged whole.

    `load_judge` is called by `load`; all calls come from the engine's thread.
    """

    def __init__(self, load_judge: Callable[[], Judge], on_unsafe: Literal["blur", "fail"]) -> None:
        self._load_judge = load_judge
        self._on_unsafe = on_unsafe

    def load(self) -> None:
        """What the judge needs. Raises what it raises."""
        self._judge = self._load_judge()

    def preview(self, pieces: Pieces) -> Pieces:
        """Blurred if it is flagged."""
        whole = assemble(pieces)
        return [(None, blurred(whole) if self._flags(whole) else whole)]

    def picture(self, pieces: Pieces, index: int, warn: Callable[[str], None]) -> Pieces:
        """Image `index` of its job: blurred if it is flagged, and said so. Raises UnsafeOutput, OutOfMemory."""
        whole = assemble(pieces)
        if not self._flags(whole):
            return [(None, whole)]
        if self._on_unsafe == "fail":
            raise UnsafeOutput(f"Image {index} was flagged by the safety checker")
        warn(f"image {index}: flagged by the safety checker and blurred")
        return [(None, blurred(whole))]

    def _flags(self, pixels: Pixels) -> bool:
        from worker.engine.device_errors import mapped_errors  # torch is there by now

        with mapped_errors():
            return self._judge(pixels)


def blurred(pixels: Pixels) -> Pixels:
    """Its colours, and where they roughly were; nothing that could be recognised, or undone.  # [H, W, 3]"""
    height, width = pixels.shape[:2]
    scale = min(1.0, LEFT_PX / max(width, height))
    left = (max(1, round(width * scale)), max(1, round(height * scale)))
    picture = PillowImage.fromarray(pixels).resize(left, PillowImage.Resampling.BOX)
    return np.asarray(picture.resize((width, height), PillowImage.Resampling.BICUBIC))
