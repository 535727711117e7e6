"""Lays pictures out on one sheet with words below them. Knows pixels and text; knows nothing of what makes a fault."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

COLUMNS = 8

_PAPER, _INK, _FAULT = (236, 236, 236), (30, 30, 30), (215, 0, 0)
_FRAME_PX, _GAP_PX, _LINE_PX, _LINES = 4, 12, 11, 5
_LETTERS_PER_LINE = 25  # of the built-in font at 10 px, below a picture of 128 px


@dataclass(frozen=True)
class Tile:
    """A picture  # [H, W, 3]  with the words below it, and what is wrong with it, if anything is."""

    picture: npt.NDArray[np.uint8]
    words: str
    fault: str | None = None


def contact_sheet(tiles: Sequence[Tile], heading: str) -> Image.Image:
    """One picture of all `tiles`, eight in a row and equally large, those with a fault framed in red."""
    height_px, width_px = tiles[0].picture.shape[:2]
    across, down = width_px + _GAP_PX, height_px + _LINES * _LINE_PX + _GAP_PX
    top = 2 * _GAP_PX + _LINE_PX
    rows = -(-len(tiles) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * across + _GAP_PX, rows * down + top), _PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.text((_GAP_PX, _GAP_PX), heading, fill=_INK, font=ImageFont.load_default(12))
    font = ImageFont.load_default(10)
    for k, tile in enumerate(tiles):
        x, y = _GAP_PX + k % COLUMNS * across, top + k // COLUMNS * down
        if tile.fault is not None:
            frame = (x - _FRAME_PX, y - _FRAME_PX, x + width_px - 1 + _FRAME_PX, y + height_px - 1 + _FRAME_PX)
            pen.rectangle(frame, outline=_FAULT, width=_FRAME_PX)
        sheet.paste(Image.fromarray(tile.picture), (x, y))
        lines = [(line, _INK) for line in textwrap.wrap(tile.words, _LETTERS_PER_LINE)]
        lines += [(line, _FAULT) for line in textwrap.wrap(tile.fault or "", _LETTERS_PER_LINE)]
        for n, (line, ink) in enumerate(lines[:_LINES]):
            pen.text((x, y + height_px + _FRAME_PX + n * _LINE_PX), line, fill=ink, font=font)
    return sheet
