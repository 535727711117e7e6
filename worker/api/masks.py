"""Masks that come in another API's sense: opened within bounds, and handed on as the worker's, white to be painted."""

from __future__ import annotations

import base64
import binascii
import io
import warnings

from PIL import Image as PillowImage

from worker.errors import FieldFault, InvalidRequest
from worker.jobs.params import Limits

FORMATS = ("PNG", "JPEG", "WEBP")
PNG_LEVEL = 1


def open_mask(encoded: str, limits: Limits) -> PillowImage.Image:
    """The picture in base64 (a data: URL too), read whole. Takes milliseconds. Raises InvalidRequest."""
    content = encoded.partition(",")[2] if encoded.startswith("data:") else encoded
    try:
        data = base64.b64decode(content, validate=True)
    except (binascii.Error, ValueError):
        raise fault("must be base64") from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", PillowImage.DecompressionBombWarning)
            mask = PillowImage.open(io.BytesIO(data), formats=FORMATS)
    except Exception:  # whatever a broken file makes a decoder raise, with addresses in its text
        raise fault("must be a PNG, JPEG or WebP picture") from None
    if mask.width * mask.height > limits.max_pixels:
        raise fault(f"may have at most {limits.max_pixels} pixels")
    try:
        mask.load()
    except Exception:
        raise fault("cannot be decoded: the file is damaged or cut off") from None
    return mask


def opacity(mask: PillowImage.Image) -> PillowImage.Image:
    """Grey, white where `mask` is opaque."""
    return mask.convert("RGBA").getchannel("A")


def encode_mask(mask: PillowImage.Image) -> str:
    """A grey picture as the `mask` of a job."""
    buffer = io.BytesIO()
    mask.save(buffer, "PNG", compress_level=PNG_LEVEL)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def fault(message: str) -> InvalidRequest:
    """What is wrong with a mask."""
    return InvalidRequest(FieldFault("mask", message))
