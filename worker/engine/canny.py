"""Edges of a picture: Canny, "A Computational Approach to Edge Detection", IEEE PAMI 8(6), 1986.

Without smoothing and with OpenCV's gradients and roundings, so that edges are what users' other tools make of a
picture; the tests hold it against OpenCV. It was not worth that library's weight.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from worker.engine.runner import Pixels

LOW, HIGH = 100, 200
"""The thresholds that users' tools begin with; edges that are stronger than HIGH count, and all that hangs on them and
is stronger than LOW."""
TANGENT = 13573
"""Of an eighth of a half turn, times 2¹⁵: where a direction is nearer to the axis than to the diagonal."""

Ints = npt.NDArray[np.int16]


def canny(pixels: Pixels, low: int = LOW, high: int = HIGH) -> Pixels:
    """White edges of one pixel on black.  # [H, W, 3] in and out"""
    dx, dy, strength = _gradients(pixels)
    thin = (strength > low) & _is_ridge(strength, dx, dy)
    edges = _hanging_on(thin & (strength > high), thin)
    return np.repeat(np.where(edges, 255, 0).astype(np.uint8)[..., None], 3, axis=2)


def _gradients(pixels: Pixels) -> tuple[Ints, Ints, Ints]:
    """Sobel's, across and down, and their sum's size; of whichever colour changes most.  # each [H, W]"""
    found: tuple[Ints, Ints, Ints] | None = None
    for colour in np.moveaxis(np.pad(pixels.astype(np.int16), ((1, 1), (1, 1), (0, 0)), mode="edge"), 2, 0):
        rows = colour[:-2] + 2 * colour[1:-1] + colour[2:]
        columns = colour[:, :-2] + 2 * colour[:, 1:-1] + colour[:, 2:]
        dx, dy = rows[:, 2:] - rows[:, :-2], columns[2:] - columns[:-2]
        its = dx, dy, np.abs(dx) + np.abs(dy)
        if found is None:
            found = its
        else:
            more = its[2] > found[2]
            found = np.where(more, its[0], found[0]), np.where(more, its[1], found[1]), np.maximum(its[2], found[2])
    assert found is not None, "a picture has colours"
    return found


def _is_ridge(strength: Ints, dx: Ints, dy: Ints) -> npt.NDArray[np.bool_]:
    """Whether a place is stronger than its two neighbours across the edge.  # [H, W]"""
    height, width = strength.shape
    padded = np.pad(strength, 1)

    def neighbour(down: int, right: int) -> Ints:
        return padded[1 + down : 1 + down + height, 1 + right : 1 + right + width]

    x, y = np.abs(dx).astype(np.int32), np.abs(dy).astype(np.int32) << 15
    flat = x * TANGENT
    steep = flat + (x << 16)
    # On equal terms the first of two neighbours in reading order is the edge; on diagonals neither.
    horizontal = (strength > neighbour(0, -1)) & (strength >= neighbour(0, 1))
    vertical = (strength > neighbour(-1, 0)) & (strength >= neighbour(1, 0))
    falling = (strength > neighbour(-1, -1)) & (strength > neighbour(1, 1))
    rising = (strength > neighbour(-1, 1)) & (strength > neighbour(1, -1))
    diagonal = np.where((dx ^ dy) < 0, rising, falling)
    return np.where(y < flat, horizontal, np.where(y > steep, vertical, diagonal))


def _hanging_on(sure: npt.NDArray[np.bool_], possible: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """All that is possible and hangs together with what is sure, over corners too.  # [H, W]"""
    width = possible.shape[1] + 2
    left = np.pad(possible & ~sure, 1).ravel()
    found = np.pad(sure, 1).ravel()
    around = np.array([-width - 1, -width, -width + 1, -1, 1, width - 1, width, width + 1])
    newest = np.flatnonzero(found)
    while newest.size:
        near = (newest[:, None] + around).ravel()
        newest = np.unique(near[left[near]])
        left[newest] = False
        found[newest] = True
    return found.reshape(-1, width)[1:-1, 1:-1]
