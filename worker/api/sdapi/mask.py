"""From this API's masks to the worker's: the other way round where asked, and with soft edges."""

from __future__ import annotations

from PIL import ImageFilter, ImageOps

from worker.api.masks import encode_mask, opacity, open_mask
from worker.jobs.params import Limits


def prepared(encoded: str, limits: Limits, *, inverted: bool, blur_px: tuple[int, int]) -> str:
    """The mask of a job as base64: what is white is drawn again, or what is opaque in a mask that is not so everywhere.

    `blur_px` is the standard deviation of a Gaussian, across and down. Takes milliseconds. Raises InvalidRequest.
    """
    opened = open_mask(encoded, limits)
    mask = opacity(opened)
    if mask.getextrema() == (255, 255):
        mask = opened.convert("L")
    if inverted:
        mask = ImageOps.invert(mask)
    if any(blur_px):
        mask = mask.filter(ImageFilter.GaussianBlur(blur_px))
    return encode_mask(mask)
