"""From this API's masks to the worker's: there, what is transparent is drawn again; here, what is white."""

from __future__ import annotations

from PIL import ImageOps

from worker.api.masks import encode_mask, fault, opacity, open_mask
from worker.jobs.params import Limits


def white_where_transparent(encoded: str, limits: Limits) -> str:
    """The mask of a job as base64, half transparent being grey. Takes milliseconds. Raises InvalidRequest."""
    mask = open_mask(encoded, limits)
    if not mask.has_transparency_data:
        raise fault("has no transparent parts: they are what is drawn again")
    return encode_mask(ImageOps.invert(opacity(mask)))
