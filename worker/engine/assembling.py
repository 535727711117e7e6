"""Tiles put together into their picture: where they overlap, one fades into the other."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from worker.engine.runner import Pixels
from worker.jobs.tiling import Tile

Ramp = npt.NDArray[np.floating[Any]]


def assemble(pieces: Sequence[tuple[Tile | None, Pixels]]) -> Pixels:
    """The whole picture.  # [H, W, 3]

    All pieces have one size and one scale: a preview's are smaller than their tiles. A piece without a tile is the
    picture itself.
    """
    (first, pixels), *others = pieces
    if first is None or not others:
        return pixels
    tiles = [tile for tile, _ in pieces if tile is not None]
    height, width = pixels.shape[:2]
    lefts = _starts([one.left for one in tiles], first.width, width)
    tops = _starts([one.top for one in tiles], first.height, height)
    across, down = _ramps(sorted(set(lefts)), width), _ramps(sorted(set(tops)), height)
    whole = np.zeros((max(tops) + height, max(lefts) + width, 3), dtype=np.float32)
    weights = np.zeros((*whole.shape[:2], 1), dtype=np.float32)
    for left, top, (_, piece) in zip(lefts, tops, pieces, strict=True):
        weight = (down[top][:, None] * across[left])[..., None]  # [height, width, 1]
        here = np.s_[top : top + height, left : left + width]
        whole[here] += weight * piece
        weights[here] += weight
    whole /= weights
    assembled: Pixels = np.rint(whole).astype(np.uint8)
    return assembled


def _starts(starts: Iterable[int], tile_side: int, side: int) -> list[int]:
    """Where pieces of `side` begin whose tiles have `tile_side`."""
    return [start * side // tile_side for start in starts]


def _ramps(starts: Sequence[int], side: int) -> dict[int, Ramp]:
    """What each place along a piece counts: less and less where another piece begins or ends, never nothing."""
    ramps = {}
    for before, start, after in zip([None, *starts[:-1]], starts, [*starts[1:], None], strict=True):
        places = np.arange(side, dtype=np.float32)
        ramp = np.ones(side, dtype=np.float32)
        if before is not None and (shared := before + side - start) > 0:
            ramp = np.minimum(ramp, (places + 1) / (shared + 1))
        if after is not None and (shared := start + side - after) > 0:
            ramp = np.minimum(ramp, (side - places) / (shared + 1))
        ramps[start] = ramp
    return ramps
