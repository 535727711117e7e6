"""Masks in the senses of other APIs, turned into the worker's own: white is painted anew."""

from __future__ import annotations

import base64
import io

from PIL import Image as PillowImage
from PIL import ImageFilter, ImageOps

from worker.api.pictures import FORMATS, Unreadable, read_picture
from worker.errors import FieldFault, InvalidRequest
from worker.jobs.facts import Limits

PNG_LEVEL = 1


def white_where_transparent(encoded: str, limits: Limits) -> str:
    """The mask of a job from one that is transparent where to paint anew, half transparent being grey.

    Base64 in and out. Takes milliseconds to a second. Raises InvalidRequest.
    """
    mask = _opened(encoded, limits)
    if not mask.has_transparency_data:
        raise _fault("has no transparent parts: they are what is drawn again")
    return _encoded(ImageOps.invert(_opacity(mask)))


def white_as_it_is(encoded: str, limits: Limits, *, inverted: bool, blur_px: tuple[int, int]) -> str:
    """The mask of a job from one that is white where to paint anew, or opaque if it is not so everywhere.

    `blur_px` is the standard deviation of a Gaussian, across and down. As `white_where_transparent` in all else.
    """
    opened = _opened(encoded, limits)
    mask = _opacity(opened)
    if mask.getextrema() == (255, 255):
        # of 16 bits a pixel Pillow would clip what it should scale
        mask = (opened.point(lambda value: value / 257) if opened.mode.startswith("I") else opened).convert("L")
    if inverted:
        mask = ImageOps.invert(mask)
    if any(blur_px):
        mask = mask.filter(ImageFilter.GaussianBlur(blur_px))
    return _encoded(mask)


def _opened(encoded: str, limits: Limits) -> PillowImage.Image:
    """The picture in base64 (a data: URL too), read whole and upright. Takes milliseconds. Raises InvalidRequest."""
    try:
        picture = read_picture(encoded, limits)
    except Unreadable as unreadable:
        raise _fault(str(unreadable)) from None
    try:
        mask = PillowImage.open(io.BytesIO(picture.data), formats=FORMATS)
        known = dict(mask.info)
        mask.load()
        # Turned by the EXIF before its pixels and nothing else, as the engine turns the picture.
        mask.info = {name: known[name] for name in known if name in ("exif", "transparency")}
        return ImageOps.exif_transpose(mask.copy())
    except Exception:  # whatever a broken file makes a decoder raise, with addresses in its text
        raise _fault("cannot be decoded: the file is damaged or cut off") from None


def _opacity(mask: PillowImage.Image) -> PillowImage.Image:
    """Grey, white where `mask` is opaque."""
    return mask.convert("RGBA").getchannel("A")


def _encoded(mask: PillowImage.Image) -> str:
    """A grey picture as the `mask` of a job."""
    buffer = io.BytesIO()
    mask.save(buffer, "PNG", compress_level=PNG_LEVEL)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def _fault(message: str) -> InvalidRequest:
    """What is wrong with a mask."""
    return InvalidRequest(FieldFault("mask", message))
