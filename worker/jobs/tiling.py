"""How a picture is cut into tiles that are drawn one by one: numbers alone, no pixel and no model."""

from __future__ import annotations

import math
from dataclasses import dataclass

SHARED = 8
"""One part in so many of a tile's side, at least, is also its neighbour's."""
NETWORK_SIDE = 128
"""Pixels of the picture that comes in, along the side of what an upscaler's network makes larger in one step."""


@dataclass(frozen=True, slots=True)
class Tile:
    """A part of a picture, in pixels of the picture as it is drawn."""

    left: int
    top: int
    width: int
    height: int


def drawn_size(width: int, height: int, multiple: int) -> tuple[int, int]:
    """Width and height as a model can draw them: those that are asked for, or the nearest."""

    def nearest(side: int) -> int:
        return multiple * max(1, (side + multiple // 2) // multiple)

    return nearest(width), nearest(height)


def cut(width: int, height: int, tile_width: int, tile_height: int, multiple: int) -> tuple[Tile, ...]:
    """Tiles of one size that cover the picture, row by row, evenly spread, each at multiples of `multiple`.

    They overlap; none is larger than the picture. All sides are multiples of `multiple`.
    """
    tile_width, tile_height = min(width, tile_width), min(height, tile_height)
    return tuple(
        Tile(left, top, tile_width, tile_height)
        for top in _starts(height // multiple, tile_height // multiple, multiple)
        for left in _starts(width // multiple, tile_width // multiple, multiple)
    )


def grid(width: int, height: int, side: int) -> tuple[Tile, ...]:
    """Tiles of up to `side` by `side` that cover the picture without a gap or an overlap, row by row."""
    return tuple(
        Tile(left, top, min(side, width - left), min(side, height - top))
        for top in range(0, height, side)
        for left in range(0, width, side)
    )


def _starts(side: int, tile: int, multiple: int) -> list[int]:
    if side == tile:
        return [0]
    shared = min(tile - 1, max(1, tile // SHARED))
    count = math.ceil((side - shared) / (tile - shared))
    return [multiple * ((side - tile) * k // (count - 1)) for k in range(count)]
