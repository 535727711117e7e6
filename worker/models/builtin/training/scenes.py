"""The pictures the built-in model learns: flat figures on a flat background.

Knows geometry and colours; knows nothing of words, tensors or training. The judge in `benches/`
reads the same outlines and colours, so that a picture is measured by what it was asked to show.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

SIZE_PX = 128
SUPERSAMPLING = 4

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (220, 40, 40),
    "green": (40, 160, 65),
    "blue": (45, 80, 215),
    "yellow": (248, 215, 45),
    "purple": (130, 55, 180),
    "orange": (245, 135, 25),
    "white": (248, 248, 248),
    "black": (18, 18, 18),
    "pink": (250, 150, 190),
    "cyan": (60, 210, 225),
}
SHAPES = ("circle", "square", "triangle", "star", "ring", "cross", "diamond", "heart")
RADII_PX = {"small": (16.0, 20.0), None: (25.0, 33.0), "large": (42.0, 50.0)}
"""Half the longest side of a figure, as (least, most), by the word for its size."""

POSITIONS: dict[str, tuple[int, int]] = {
    "center": (0, 0),
    "left": (-1, 0),
    "right": (1, 0),
    "top": (0, -1),
    "bottom": (0, 1),
    "top left": (-1, -1),
    "top right": (1, -1),
    "bottom left": (-1, 1),
    "bottom right": (1, 1),
}
"""Direction from the middle of the picture by name, x to the right and y down."""

RELATIONS = ("beside", "above", "sides")
"""How the second of two figures stands to the first."""

Points = list[tuple[float, float]]
Mask = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Figure:
    """One shape with what is said of it (None: nothing) and where it stands, in pixels."""

    shape: str
    colour: str
    size: str | None
    position: str | None
    x: float
    y: float
    radius: float
    rgb: tuple[int, int, int]


@dataclass(frozen=True)
class Scene:
    """One or two figures on a background; `relation` says how two stand to each other."""

    figures: tuple[Figure, ...]
    background: str
    background_rgb: tuple[int, int, int]
    relation: str | None = None


def outline(shape: str) -> list[Points]:
    """The polygons of `shape` inside the square from -1 to 1; every second one is a hole."""
    round_ = [(math.cos(a), math.sin(a)) for a in np.linspace(0, 2 * math.pi, 96, endpoint=False)]
    match shape:
        case "circle":
            return [round_]
        case "ring":
            return [round_, [(0.58 * x, 0.58 * y) for x, y in round_]]
        case "square":
            return [[(-0.86, -0.86), (0.86, -0.86), (0.86, 0.86), (-0.86, 0.86)]]
        case "diamond":
            return [[(0.0, -1.0), (0.78, 0.0), (0.0, 1.0), (-0.78, 0.0)]]
        case "triangle":
            return [[(0.0, -0.9), (1.0, 0.83), (-1.0, 0.83)]]
        case "cross":
            a = 0.34
            return [
                [
                    (-a, -1), (a, -1), (a, -a), (1, -a), (1, a), (a, a),
                    (a, 1), (-a, 1), (-a, a), (-1, a), (-1, -a), (-a, -a),
                ]
            ]  # fmt: skip
        case "star":
            tips = [(1.0 if k % 2 == 0 else 0.42, -math.pi / 2 + k * math.pi / 5) for k in range(10)]
            return [[(r * math.cos(a), r * math.sin(a) + 0.06) for r, a in tips]]
        case "heart":
            # x = 16 sin^3 t, y = 13 cos t - 5 cos 2t - 2 cos 3t - cos 4t, scaled into the square.
            ts = np.linspace(0, 2 * math.pi, 96, endpoint=False)
            xs = 16 * np.sin(ts) ** 3
            ys = 13 * np.cos(ts) - 5 * np.cos(2 * ts) - 2 * np.cos(3 * ts) - np.cos(4 * ts)
            return [[(float(x) / 16.5, -float(y + 2.5) / 16.5) for x, y in zip(xs, ys, strict=True)]]
        case _:
            raise ValueError(f"unknown shape {shape!r}")


def coverage(shape: str, x: float, y: float, radius: float, size: int = SIZE_PX) -> Mask:
    """How much of each pixel the figure covers, 0 to 1.  # [size, size]"""
    canvas = Image.new("L", (size * SUPERSAMPLING, size * SUPERSAMPLING), 0)
    draw = ImageDraw.Draw(canvas)
    for k, polygon in enumerate(outline(shape)):
        points = [((x + radius * px) * SUPERSAMPLING, (y + radius * py) * SUPERSAMPLING) for px, py in polygon]
        draw.polygon(points, fill=255 if k % 2 == 0 else 0)
    return np.asarray(canvas.reduce(SUPERSAMPLING), dtype=np.float32) / 255.0


def render(scene: Scene) -> tuple[npt.NDArray[np.uint8], list[Mask]]:
    """The picture  # [128, 128, 3]  and how much of each pixel each figure covers, 0 to 1.  # [128, 128] each"""
    masks = [coverage(figure.shape, figure.x, figure.y, figure.radius) for figure in scene.figures]
    picture = np.empty((SIZE_PX, SIZE_PX, 3), dtype=np.float32)
    picture[:] = scene.background_rgb
    for figure, mask in zip(scene.figures, masks, strict=True):
        picture += mask[..., None] * (np.asarray(figure.rgb, dtype=np.float32) - picture)
    return np.round(picture).astype(np.uint8), masks


def recoloured(scene: Scene, rng: random.Random) -> Scene:
    """`scene` in any colours, which no caption names: a VAE has to know them too."""

    def any_colour() -> tuple[int, int, int]:
        return rng.randint(0, 255), rng.randint(0, 255), rng.randint(0, 255)

    figures = tuple(replace(figure, rgb=any_colour()) for figure in scene.figures)
    return replace(scene, figures=figures, background_rgb=any_colour())


def held_out(colour: str, shape: str, background: str) -> bool:
    """Whether this combination is kept from training, for the judge: every tenth of them."""
    colours = list(COLOURS)
    return (7 * colours.index(colour) + 3 * SHAPES.index(shape) + colours.index(background)) % 10 == 0


def place(position: str | None, radius: float, rng: random.Random) -> tuple[float, float]:
    """A centre, in pixels, for a figure that is said to stand at `position`, wholly inside the picture."""
    reach = SIZE_PX / 2 - radius - 3.0
    dx, dy = POSITIONS[position or "center"]
    loose = 7.0 if position is None else 3.0

    def along(direction: int) -> float:
        offset = direction * min(reach, 36.0) + rng.uniform(-loose, loose)
        return SIZE_PX / 2 + max(-reach, min(reach, offset))

    return along(dx), along(dy)


def draw_scene(rng: random.Random) -> Scene:
    """A scene at random, never one that is `held_out`."""
    if rng.random() < 0.13:
        return _draw_pair(rng)
    while True:
        shape, colour, background = rng.choice(SHAPES), rng.choice(list(COLOURS)), rng.choice(list(COLOURS))
        if colour != background and not held_out(colour, shape, background):
            break
    size = rng.choices(["small", None, "large"], [0.25, 0.5, 0.25])[0]
    position = None
    if rng.random() < 0.55:
        position = rng.choices(list(POSITIONS), [1.2, 2, 2, 2, 2, 0.6, 0.6, 0.6, 0.6])[0]
    radius = rng.uniform(*RADII_PX[size])
    x, y = place(position, radius, rng)
    figure = Figure(shape, colour, size, position, x, y, radius, _shade(colour, rng))
    return Scene((figure,), background, _shade(background, rng))


def _draw_pair(rng: random.Random) -> Scene:
    background = rng.choice(list(COLOURS))
    others = [colour for colour in COLOURS if colour != background]
    relation = rng.choice(RELATIONS)
    figures = []
    for sign in (-1, 1):
        radius = rng.uniform(20.0, 26.0)
        offset, drift = 32.0 * sign + rng.uniform(-3, 3), rng.uniform(-6, 6)
        dx, dy = (drift, offset) if relation == "above" else (offset, drift)
        colour = rng.choice(others)
        figures.append(
            Figure(
                rng.choice(SHAPES), colour, None, None,
                SIZE_PX / 2 + dx, SIZE_PX / 2 + dy, radius, _shade(colour, rng),
            )
        )  # fmt: skip
    return Scene(tuple(figures), background, _shade(background, rng), relation)


def _shade(colour: str, rng: random.Random) -> tuple[int, int, int]:
    r, g, b = (max(0, min(255, c + rng.randint(-6, 6))) for c in COLOURS[colour])
    return r, g, b
