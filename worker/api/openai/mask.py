"""From this API's masks to the worker's: there, what is transparent is drawn again; here, what is white."""

from __future__ import annotations

import base64
import binascii
import io
import warnings

from PIL import Image as PillowImage
from PIL import ImageOps

from worker.errors import FieldFault, InvalidRequest
from worker.jobs.params import Limits

FORMATS = ("PNG", "WEBP")
"""Those that can be transparent."""
PNG_LEVEL = 1


def white_where_transparent(encoded: str, limits: Limits) -> str:
    """The mask of a job as base64, half transparent being grey. Takes milliseconds. Raises InvalidRequest."""
    content = encoded.partition(",")[2] if encoded.startswith("data:") else encoded
    try:
        data = base64.b64decode(content, validate=True)
    except (binascii.Error, ValueError):
        raise _fault("must be base64") from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", PillowImage.DecompressionBombWarning)
            mask = PillowImage.open(io.BytesIO(data), formats=FORMATS)
    except Exception:  # whatever a broken file makes a decoder raise, with addresses in its text
        raise _fault("must be a PNG or WebP picture") from None
    if mask.width * mask.height > limits.max_pixels:
        raise _fault(f"may have at most {limits.max_pixels} pixels")
    if not mask.has_transparency_data:
        raise _fault("has no transparent parts: they are what is drawn again")
    try:
        opacity = mask.convert("RGBA").getchannel("A")
    except Exception:
        raise _fault("cannot be decoded: the file is damaged or cut off") from None
    buffer = io.BytesIO()
    ImageOps.invert(opacity).save(buffer, "PNG", compress_level=PNG_LEVEL)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def _fault(message: str) -> InvalidRequest:
    return InvalidRequest(FieldFault("mask", message))
