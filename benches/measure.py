"""Reads a picture: which named colours, which outline, which place. Knows pixels and the drawn outlines of `scenes`;
knows nothing of prompts, tensors or models, and never peeks at what was asked.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from worker.models.builtin.training.scenes import COLOURS, POSITIONS, RADII_PX, SHAPES, SIZE_PX, coverage

Floats = npt.NDArray[np.floating]
Mask = npt.NDArray[np.bool_]
Picture = npt.NDArray[np.uint8]

BORDER_PX = 2
"""Every figure keeps 3 px from the edge, so a frame of 2 px shows the background alone."""
LEAST_CONTRAST = 12.0
"""In CIE Lab; half of what parts the two nearest named colours (blue and purple, 26). Below it there is no figure."""
LEAST_AREA_PX = 150
"""A quarter of the smallest figure ever drawn (a ring of radius 16 px covers 530 px)."""
LEAST_OVERLAP = 0.5
"""A figure that no outline overlaps by half has no shape at all, however its eight poor overlaps compare."""

_MIDDLE_PX = SIZE_PX / 2
_MARGIN_PX, _FARTHEST_PX = 3.0, 36.0  # the margin and the longest way from the middle in `scenes.place`
_NEAR_MIDDLE_PX = 10.0


@dataclass(frozen=True)
class Reading:
    """What a picture shows; of no figure (`area_px` 0) only the background is known.

    `x`, `y` (the fitted centre) and `radius` are in pixels as in `scenes.Figure`; `overlap` is the intersection of
    figure and best outline over their union, 0 to 1.
    """

    background: str
    colour: str | None = None
    shape: str | None = None
    position: str | None = None
    size: str | None = None
    overlap: float = 0.0
    x: float = _MIDDLE_PX
    y: float = _MIDDLE_PX
    radius: float = 0.0
    area_px: int = 0


def read(picture: Picture) -> Reading:
    """Measures `picture`  # [128, 128, 3], sRGB. Raises ValueError for any other shape."""
    if picture.shape != (SIZE_PX, SIZE_PX, 3):
        raise ValueError(f"a picture is [{SIZE_PX}, {SIZE_PX}, 3], not {list(picture.shape)}")
    ground_rgb = np.median(_border(picture), axis=0)  # [3]
    background = nearest_colour(ground_rgb)
    mask = figure_mask(picture, ground_rgb)
    if not mask.any():
        return Reading(background)
    fit = fit_outline(mask)
    return Reading(
        background,
        colour=nearest_colour(np.median(picture[mask], axis=0)),
        shape=fit.shape if fit.overlap >= LEAST_OVERLAP else None,
        position=named_position(fit.x, fit.y, fit.radius),
        size=named_size(fit.radius),
        overlap=fit.overlap,
        x=fit.x,
        y=fit.y,
        radius=fit.radius,
        area_px=int(mask.sum()),
    )


# Colours


def lab(rgb: npt.ArrayLike) -> Floats:
    """sRGB 0 to 255 as CIE Lab under D65 (IEC 61966-2-1, CIE 15).  # [..., 3] to [..., 3]"""
    encoded = np.asarray(rgb, dtype=np.float32) / 255.0
    linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    xyz = linear @ _XYZ_OF_RGB.T / _WHITE_XYZ
    f = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    x, y, z = f[..., 0], f[..., 1], f[..., 2]
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


_XYZ_OF_RGB = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]],
    dtype=np.float32,
)
_WHITE_XYZ = _XYZ_OF_RGB.sum(axis=1)


def nearest_colour(rgb: npt.ArrayLike) -> str:
    """The name of the colour nearest to `rgb`  # [3], 0 to 255."""
    distances = np.linalg.norm(lab(list(COLOURS.values())) - lab(rgb), axis=-1)
    return list(COLOURS)[int(distances.argmin())]


def _border(picture: Picture) -> Picture:
    """The pixels of the outermost frame.  # [n, 3]"""
    inner = np.zeros(picture.shape[:2], dtype=np.bool_)
    inner[BORDER_PX:-BORDER_PX, BORDER_PX:-BORDER_PX] = True
    return picture[~inner]


# The figure


def figure_mask(picture: Picture, ground_rgb: npt.ArrayLike) -> Mask:
    """Where `picture` is not background; nowhere if nothing stands out or what does is a speck.  # [128, 128]

    Otsu's threshold only finds what the other colour is. The edge is then drawn half way to that colour, which is where
    a smoothed outline covers half a pixel, whatever share of the picture the figure takes.
    """
    distance = np.linalg.norm(lab(picture) - lab(ground_rgb), axis=-1)
    others = distance[distance > _otsu(distance)]
    contrast = float(np.median(others)) if others.size else 0.0
    if contrast < LEAST_CONTRAST:
        return np.zeros(distance.shape, dtype=np.bool_)
    return _without_specks(distance > contrast / 2)


def _otsu(values: Floats) -> float:
    """The threshold with the greatest variance between the classes it makes (Otsu 1979)."""
    counts, edges = np.histogram(values, bins=128)
    centres = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)[:-1]
    above = values.size - below
    sum_below = np.cumsum(counts * centres)[:-1]
    sum_above = (counts * centres).sum() - sum_below
    between = below * above * (sum_below / np.maximum(below, 1) - sum_above / np.maximum(above, 1)) ** 2
    return float(edges[1 + int(between.argmax())])


def _without_specks(mask: Mask) -> Mask:
    """`mask` less the pieces below a tenth of the largest one, or nothing if even that one is too small.

    A second piece of some size is kept: a figure torn in two, or drawn twice, has to show in the overlap.
    """
    pieces = _pieces(mask)
    largest = max((len(piece) for piece in pieces), default=0)
    kept = np.zeros(mask.size, dtype=np.bool_)
    if largest >= LEAST_AREA_PX:
        for piece in pieces:
            kept[piece] = len(piece) * 10 >= largest
    return kept.reshape(mask.shape)


def _pieces(mask: Mask) -> list[list[int]]:
    """The pixels of each 4-connected piece of `mask`, as flat indices."""
    # A frame of background around the mask saves asking at each step whether a neighbour is still in the picture.
    width = mask.shape[1] + 2
    open_ = np.pad(mask, 1).ravel().tolist()
    pieces = []
    for start in np.flatnonzero(np.pad(mask, 1)).tolist():
        if not open_[start]:
            continue
        open_[start] = False
        piece = [start]
        for pixel in piece:  # grows while it is walked
            for neighbour in (pixel - width, pixel - 1, pixel + 1, pixel + width):
                if open_[neighbour]:
                    open_[neighbour] = False
                    piece.append(neighbour)
        pieces.append([(pixel // width - 1) * mask.shape[1] + pixel % width - 1 for pixel in piece])
    return pieces


# The outline


@dataclass(frozen=True)
class Fit:
    """The outline that overlaps a mask best, and where, in pixels."""

    shape: str
    overlap: float
    x: float
    y: float
    radius: float


def fit_outline(mask: Mask) -> Fit:
    """The best of the eight outlines over `mask`  # [128, 128], not empty.

    Each outline is tried at the radius that gives it the mask's area and a little around it, and at every whole pixel
    of the picture at once: a correlation by Fourier transform yields all intersections.
    """
    return max((_fit(shape, mask) for shape in SHAPES), key=lambda fit: fit.overlap)


def _fit(shape: str, mask: Mask) -> Fit:
    area = float(mask.sum())
    even_radius = math.sqrt(area / _template(shape, 64).area) * 32.0
    halves = {round(2 * min(60.0, max(6.0, even_radius * scale))) for scale in (0.88, 0.94, 1.0, 1.06, 1.12)}
    spectrum = np.fft.rfft2(mask.astype(np.float32))
    best = Fit(shape, 0.0, _MIDDLE_PX, _MIDDLE_PX, even_radius)
    for half_px in sorted(halves):
        template = _template(shape, half_px)
        common = np.fft.irfft2(spectrum * template.conjugate, s=mask.shape)  # [128, 128], by shift
        dy, dx = divmod(int(common.argmax()), SIZE_PX)
        intersection = float(common[dy, dx])
        overlap = intersection / (area + template.area - intersection)
        if overlap > best.overlap:
            # The middle of the templates is where four pixels meet; shifts beyond half the picture are negative ones.
            x, y = (dx + _MIDDLE_PX) % SIZE_PX, (dy + _MIDDLE_PX) % SIZE_PX
            best = Fit(shape, overlap, x, y, half_px / 2)
    return best


@dataclass(frozen=True)
class _Template:
    """An outline in the middle of the picture, ready to be correlated."""

    conjugate: npt.NDArray[np.complexfloating]  # [128, 65]
    area: float


@lru_cache(maxsize=1024)
def _template(shape: str, half_px: int) -> _Template:
    """`shape` with a radius of `half_px` half pixels."""
    covered = coverage(shape, _MIDDLE_PX, _MIDDLE_PX, half_px / 2)
    return _Template(np.conj(np.fft.rfft2(covered)), float(covered.sum()))


# Place and size


def named_position(x: float, y: float, radius: float) -> str | None:
    """The position that a figure of `radius` centred at (`x`, `y`) stands at, in pixels; None between two of them.

    A small figure asked to the left moves 36 px, one of radius 50 only 11 and as little as 8, so each is measured by
    the way that is open to it (`scenes.place`). To stand at a side it must have gone half of that way and be off the
    middle in that direction by half as much again as in the other: a lean within 34 degrees of straight. A corner takes
    half the way in both directions. The center is whatever has gone half the way in neither, and no further than 10 px,
    beyond which no eye calls it the center.
    """
    dx, dy = x - _MIDDLE_PX, y - _MIDDLE_PX
    largest = max(most for _, most in RADII_PX.values())
    half_way = min(_FARTHEST_PX, _MIDDLE_PX - _MARGIN_PX - min(radius, largest)) / 2
    further, nearer = max(abs(dx), abs(dy)), min(abs(dx), abs(dy))
    if further < min(half_way, _NEAR_MIDDLE_PX):
        return "center"
    if further < half_way:
        return None
    if further >= 1.5 * nearer:
        towards = (_sign(dx), 0) if abs(dx) > abs(dy) else (0, _sign(dy))
    elif nearer >= half_way:
        towards = (_sign(dx), _sign(dy))
    else:
        return None
    return next(name for name, direction in POSITIONS.items() if direction == towards)


def named_size(radius: float) -> str | None:
    """`small`, `large` or None (neither), whichever range of `scenes.RADII_PX` is the nearest to `radius` in pixels."""
    return min(RADII_PX, key=lambda size: max(RADII_PX[size][0] - radius, radius - RADII_PX[size][1], 0.0))


def _sign(value: float) -> int:
    return 1 if value > 0 else -1
