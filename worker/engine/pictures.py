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
WHITE, BLACK = (255, 255, 255, 255), (0, 0, 0, 255)


def read_pixels(picture: Picture, width: int, height: int, name: str = "image") -> Pixels:
    """Its colours; what is transparent lies on white.  # [height, width, 3]. Raises InvalidInput about `name`."""
    return np.asarray(_resized(_read(picture, name, "RGB", WHITE), width, height))


def read_control(picture: Picture, width: int, height: int) -> Pixels:
    """Its colours; what is transparent is black, and so says nothing.  # [height, width, 3]. Raises InvalidInput."""
    return np.asarray(_resized(_read(picture, "control picture", "RGB", BLACK), width, height))


def read_mask(picture: Picture, width: int, height: int) -> npt.NDArray[np.float32]:
    """Its brightness from 0 to 1; what is transparent counts as black.  # [height, width]. Raises InvalidInput."""
    return np.asarray(_resized(_read(picture, "mask", "L", BLACK), width, height), dtype=np.float32) / 255.0


def resize(pixels: Pixels, width: int, height: int) -> Pixels:
    """The same picture in another size.  # [height, width, 3]"""
    if pixels.shape[:2] == (height, width):
        return pixels
    return np.asarray(_resized(PillowImage.fromarray(pixels), width, height))


def _read(picture: Picture, name: str, mode: str, background: tuple[int, int, int, int]) -> PillowImage.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", PillowImage.DecompressionBombWarning)
            opened = PillowImage.open(io.BytesIO(picture.data), formats=FORMATS)
            return _flattened(_upright(opened), background).convert(mode)
    except Exception:  # whatever a broken file makes a decoder raise, with addresses in its text
        raise InvalidInput(f"The {name} cannot be decoded: the file is damaged or cut off") from None


def _upright(opened: PillowImage.Image) -> PillowImage.Image:
    """Turned as the EXIF before its pixels says, by which the front knows its size and browsers show it; not by what
    else Pillow finds of it: XMP, or EXIF behind the pixels."""
    known = dict(opened.info)
    opened.load()
    opened.info = {name: known[name] for name in known if name in ("exif", "transparency")}
    return ImageOps.exif_transpose(opened.copy())  # a copy knows nothing but this


def _flattened(picture: PillowImage.Image, background: tuple[int, int, int, int]) -> PillowImage.Image:
    if picture.mode.startswith("I"):  # 16 bits a pixel, which Pillow would clip instead of scaling
        return PillowImage.fromarray((np.asarray(picture, dtype=np.float64) / 257.0).astype(np.uint8))
    if not picture.has_transparency_data:
        return picture
    coloured = picture.convert("RGBA")
    return PillowImage.alpha_composite(PillowImage.new("RGBA", coloured.size, background), coloured)


def _resized(picture: PillowImage.Image, width: int, height: int) -> PillowImage.Image:
    if picture.size == (width, height):
        return picture
    return picture.resize((width, height), PillowImage.Resampling.LANCZOS)
