"""Pictures that come with jobs, as arrays: decoded, upright, on white, in the size that is asked for.

What a header promised was checked before; here the bytes are read for the first time.
"""

from __future__ import annotations

import io
import warnings

import numpy as np
import numpy.typing as npt
from PIL import Image as PillowImage
from PIL import ImageOps

from worker.engine.runner import Pixels
from worker.errors import InvalidInput
from worker.jobs.params import Picture

FORMATS = ("PNG", "JPEG", "WEBP")
BACKGROUND = (255, 255, 255)


def read_pixels(picture: Picture, width: int, height: int) -> Pixels:
    """Its colours; what is transparent lies on white.  # [height, width, 3]. Raises InvalidInput."""
    opened = _open(picture, "image")
    if opened.mode != "RGB":
        coloured = opened.convert("RGBA")
        background = PillowImage.new("RGBA", coloured.size, BACKGROUND)
        opened = PillowImage.alpha_composite(background, coloured).convert("RGB")
    return np.asarray(_resized(opened, width, height))


def read_mask(picture: Picture, width: int, height: int) -> npt.NDArray[np.float32]:
    """Its brightness from 0 to 1; what is transparent counts as black.  # [height, width]. Raises InvalidInput."""
    opened = _open(picture, "mask")
    if opened.mode != "L":
        coloured = opened.convert("RGBA")
        background = PillowImage.new("RGBA", coloured.size, (0, 0, 0, 255))
        opened = PillowImage.alpha_composite(background, coloured).convert("L")
    return np.asarray(_resized(opened, width, height), dtype=np.float32) / 255.0


def resize(pixels: Pixels, width: int, height: int) -> Pixels:
    """The same picture in another size.  # [height, width, 3]"""
    if pixels.shape[:2] == (height, width):
        return pixels
    return np.asarray(_resized(PillowImage.fromarray(pixels), width, height))


def _open(picture: Picture, name: str) -> PillowImage.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", PillowImage.DecompressionBombWarning)
            opened = PillowImage.open(io.BytesIO(picture.data), formats=FORMATS)
            upright = ImageOps.exif_transpose(opened)
            upright.load()
            return upright
    except Exception:  # whatever a broken file makes a decoder raise, with addresses in its text
        raise InvalidInput(f"The {name} cannot be decoded: the file is damaged or cut off") from None


def _resized(picture: PillowImage.Image, width: int, height: int) -> PillowImage.Image:
    if picture.size == (width, height):
        return picture
    return picture.resize((width, height), PillowImage.Resampling.LANCZOS)
