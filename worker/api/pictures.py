"""Pictures in a request: out of base64, and of their headers no more than format and size. Nothing is decoded.

A small file can hold hundreds of megapixels, so its size is held against the limits before anybody reads on.
"""

from __future__ import annotations

import base64
import binascii
import io
import re
import struct
import warnings
from dataclasses import dataclass

from PIL import ExifTags
from PIL import Image as PillowImage

from worker.api.request import JobRequest
from worker.errors import FieldFault
from worker.jobs.facts import Limits
from worker.jobs.params import Picture

FORMATS = ("PNG", "JPEG", "WEBP")
DATA_URL = re.compile(r"data:[^,]{0,100};base64,", re.IGNORECASE)
"""RFC 2397, section 3; what stands before the base64 of a picture. What type it names is not asked: bytes tell."""
MOST_SCANS = 100
"""Of a JPEG; progressive ones have about ten. Each is a run over all pixels, and may take ten bytes to ask for."""
MOST_CHUNKS = 32
"""Of a kind in a picture that a few bytes make large, or that a parser copies all of for each."""
BOMBS = (
    (b"\x89PNG", (b"zTXt", b"iTXt", b"iCCP"), MOST_CHUNKS),
    (b"\xff\xd8", (b"Exif\0\0",), MOST_CHUNKS),
    (b"\xff\xd8", (b"\xff\xda\0",), MOST_SCANS),  # with its length, which is small: films stand behind some pictures
)
"""Of files that begin so, how often these may stand in them."""
TURNED = (5, 6, 7, 8)
"""EXIF orientations that exchange width and height."""
NOT_BASE64 = "must be base64, with or without a data: prefix"
NO_PICTURE = "must be a PNG, JPEG or WebP picture"


@dataclass(frozen=True)
class Pictures:
    """What a request brings along; None where it brings none, or none that can be read."""

    image: Picture | None = None
    mask: Picture | None = None
    controls: tuple[Picture, ...] = ()


class Unreadable(ValueError):
    """Not a picture that is taken; its text is for the client."""


def read_pictures(asked: JobRequest, limits: Limits) -> tuple[Pictures, list[FieldFault]]:
    """All pictures of a request, and what is wrong with them."""
    faults: list[FieldFault] = []

    def read(field: str, text: str | None) -> Picture | None:
        if text is None:
            return None
        try:
            return read_picture(text, limits)
        except Unreadable as unreadable:
            faults.append(FieldFault(field, str(unreadable)))
            return None

    image, mask = read("image", asked.image), read("mask", asked.mask)
    controls = [read(f"controls.{index}.image", one.image) for index, one in enumerate(asked.controls)]
    return Pictures(image, mask, tuple(one for one in controls if one is not None)), faults


def read_picture(text: str, limits: Limits) -> Picture:
    """One of them. Raises Unreadable."""
    prefix = DATA_URL.match(text)
    try:
        data = base64.b64decode(text[prefix.end() :] if prefix else text, validate=True)
    except (binascii.Error, ValueError):
        raise Unreadable(NOT_BASE64) from None
    width, height = size_of(data, limits)
    return Picture(width, height, len(data), data)


def size_of(data: bytes, limits: Limits) -> tuple[int, int]:
    """Width and height of the picture upright, from its header. Raises Unreadable."""
    if any(data.startswith(head) and sum(map(data.count, marks)) > most for head, marks, most in BOMBS):
        raise Unreadable(NO_PICTURE)
    if (size := _webp_size(data)) is not None:  # its decoder makes room for all pixels when it reads the header
        _refuse_large(size, limits)
    try:
        with warnings.catch_warnings(), PillowImage.open(io.BytesIO(data), formats=FORMATS) as opened:
            warnings.simplefilter("ignore", PillowImage.DecompressionBombWarning)  # the limit is lower
            size, turned = opened.size, _orientation(opened) in TURNED
    except PillowImage.DecompressionBombError:
        raise Unreadable(_too_large(limits)) from None
    except Exception:  # whatever a hostile header makes a parser raise, with addresses in its text
        raise Unreadable(NO_PICTURE) from None
    _refuse_large(size, limits)
    return (size[1], size[0]) if turned else size


def _refuse_large(size: tuple[int, int], limits: Limits) -> None:
    if size[0] * size[1] > limits.max_input_pixels:
        raise Unreadable(_too_large(limits))


def _too_large(limits: Limits) -> str:
    return f"must have at most {limits.max_input_pixels} pixels"


def _orientation(opened: PillowImage.Image) -> int:
    exif = PillowImage.Exif()
    exif.load(opened.info.get("exif", b""))
    return int(exif.get(ExifTags.Base.Orientation, 1))


def _webp_size(data: bytes) -> tuple[int, int] | None:
    """The canvas that a WebP header names (RFC 9649, section 2); None where it is none."""
    if data[:4] != b"RIFF" or data[8:12] != b"WEBP" or len(data) < 30:
        return None
    match data[12:16]:
        case b"VP8X":
            return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
        case b"VP8L":
            bits = int.from_bytes(data[21:25], "little")
            return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
        case b"VP8 ":
            width, height = struct.unpack_from("<HH", data, 26)
            return width & 0x3FFF, height & 0x3FFF
        case _:
            raise Unreadable(NO_PICTURE)
