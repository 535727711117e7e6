"""From what was drawn to the picture that was asked for: in its size, and with what was not painted anew as it came."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image as PillowImage
from PIL import ImageFilter

from worker.engine import pictures
from worker.engine.runner import Pixels
from worker.jobs.params import JobParams

EDGE_PX = 4
"""How far inside the mask what was drawn has taken over from the picture."""

Weights = npt.NDArray[np.floating[Any]]


def compose(drawn: Pixels, params: JobParams) -> Pixels:
    """The finished picture.  # [height, width, 3]. Outside the mask every pixel is the picture's own."""
    width, height = params.width, params.height
    fitted = pictures.resize(drawn, width, height)
    if params.image is None or params.mask is None:
        return fitted
    original = pictures.read_pixels(params.image, width, height).astype(np.float32)
    weight = soften(pictures.read_mask(params.mask, width, height))[..., None]
    blended: Pixels = np.rint(original + weight * (fitted - original)).astype(np.uint8)
    return blended


def soften(mask: Weights) -> Weights:
    """A mask from 0 to 1 whose edge fades inwards, so that nothing outside of it is touched.  # [height, width]

    Where it is thinner than its edge would be, its middle counts in full.
    """
    grown = _filtered(1.0 - mask, ImageFilter.BoxBlur(EDGE_PX / 2))
    inside = np.clip(1.0 - 2.0 * grown, 0.0, 1.0)
    highest = _filtered(inside, ImageFilter.MaxFilter(2 * EDGE_PX + 1))
    edge = np.divide(inside, highest, out=np.ones_like(inside), where=highest > 0.0)
    softened: Weights = np.where(mask > 0.0, mask * edge, 0.0)
    return softened


def _filtered(values: Weights, by: ImageFilter.Filter) -> Weights:
    picture = PillowImage.fromarray(np.rint(values * 255).astype(np.uint8))
    return np.asarray(picture.filter(by), dtype=np.float32) / 255.0
