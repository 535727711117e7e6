"""The words for a scene: one of the many ways to ask for it, and what of it they name."""

from __future__ import annotations

import random
from dataclasses import dataclass

from worker.models.builtin.training.scenes import COLOURS, POSITIONS, RELATIONS, SHAPES, Figure, Scene


@dataclass(frozen=True)
class Caption:
    """A text and what it names, as indices into the vocabularies (the length of one: not named)."""

    text: str
    named: tuple[int, ...]


def describe(scene: Scene, rng: random.Random) -> Caption:
    """One of the many ways to ask for `scene`, which may leave things unsaid."""
    named = _Named()
    if len(scene.figures) == 2:
        first, second = scene.figures
        text = _phrase(first, named, 0, rng, full=True)
        other = _phrase(second, named, 1, rng, full=True)
        named.relation = RELATIONS.index(scene.relation or "beside")
        match scene.relation:
            case "above":
                text = f"{text} above {other}"
            case "sides":
                text = f"{text} on the left and {other} on the right"
            case _:
                text = f"{text} {rng.choice(['and', 'and', 'next to'])} {other}"
        if rng.random() < 0.85:
            text = _with_background(text, scene.background, named, rng)
        return Caption(_dress(text, rng), named.indices())
    figure = scene.figures[0]
    kind = rng.random()
    if kind < 0.06:  # one thing alone, as negative prompts name it
        return _only_one(figure, scene.background, named, rng)
    text = _phrase(figure, named, 0, rng, full=kind > 0.14)
    if figure.position is not None and rng.random() < 0.93:
        named.position = list(POSITIONS).index(figure.position)
        where = _where(figure.position, rng)
        text = f"{where}, {text}" if rng.random() < 0.06 else f"{text} {where}"
    if rng.random() < 0.82:
        text = _with_background(text, scene.background, named, rng)
    return Caption(_dress(text, rng), named.indices())


LEAD_INS = (
    "a picture of", "a drawing of", "an image of", "a painting of", "an illustration of", "a photo of",
    "picture of", "drawing of", "please draw", "draw", "a simple drawing of", "a nice picture of",
)  # fmt: skip
TRIMMINGS = (
    "high quality", "best quality", "beautiful", "simple", "flat", "clean", "minimal", "detailed", "4k",
    "vector art", "digital art", "nice", "bright", "masterpiece", "sharp",
)  # fmt: skip
SIZE_WORDS = {"small": ("small", "small", "little", "tiny"), "large": ("large", "large", "big", "huge")}


class _Named:
    """What a caption has named so far, as indices; a vocabulary's length stands for "not named"."""

    def __init__(self) -> None:
        self.shapes = [len(SHAPES)] * 2
        self.colours = [len(COLOURS)] * 2
        self.size = 2
        self.position = len(POSITIONS)
        self.background = len(COLOURS)
        self.relation = len(RELATIONS)

    def indices(self) -> tuple[int, ...]:
        return (*self.shapes, *self.colours, self.size, self.position, self.background, self.relation)


NAMED_CLASSES = (
    len(SHAPES) + 1, len(SHAPES) + 1, len(COLOURS) + 1, len(COLOURS) + 1,
    3, len(POSITIONS) + 1, len(COLOURS) + 1, len(RELATIONS) + 1,
)  # fmt: skip
"""How many values each entry of `Caption.named` can take."""


def _phrase(figure: Figure, named: _Named, slot: int, rng: random.Random, *, full: bool) -> str:
    words = []
    if figure.size is not None and rng.random() < 0.93:
        words.append(rng.choice(SIZE_WORDS[figure.size]))
        named.size = 0 if figure.size == "small" else 1
    if full or rng.random() < 0.5:
        words.append(figure.colour)
        named.colours[slot] = list(COLOURS).index(figure.colour)
    if full or len(words) == 0 or rng.random() < 0.5:
        words.append(figure.shape)
        named.shapes[slot] = SHAPES.index(figure.shape)
    else:
        words.append(rng.choice(["shape", "figure", "thing"]))
    return _article(" ".join(words), rng)


def _article(words: str, rng: random.Random) -> str:
    if rng.random() < 0.12:
        return words
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def _where(position: str, rng: random.Random) -> str:
    if position == "center":
        return rng.choice(["in the center", "in the center", "in the middle", "at the center"])
    if " " in position:
        return rng.choice(["in the {} corner", "at the {}", "in the {}"]).format(position)
    if position in ("top", "bottom"):
        return rng.choice(["at the {}", "at the {}", "on the {}"]).format(position)
    return rng.choice(["on the {}", "on the {}", "at the {}", "on the {} side"]).format(position)


def _with_background(text: str, background: str, named: _Named, rng: random.Random) -> str:
    named.background = list(COLOURS).index(background)
    article = "an" if background[0] in "aeiou" else "a"
    form = rng.random()
    if form < 0.62:
        return f"{text} on {article} {background} background"
    if form < 0.74:
        return f"{text} on {background}"
    if form < 0.86:
        return f"{text}, {background} background"
    if form < 0.93:
        return f"{text} with {article} {background} background"
    return f"on {article} {background} background, {text}"


def _only_one(figure: Figure, background: str, named: _Named, rng: random.Random) -> Caption:
    match rng.randrange(4):
        case 0:
            named.colours[0] = list(COLOURS).index(figure.colour)
            return Caption(figure.colour, named.indices())
        case 1:
            named.shapes[0] = SHAPES.index(figure.shape)
            return Caption(_article(figure.shape, rng), named.indices())
        case 2:
            named.background = list(COLOURS).index(background)
            return Caption(f"{background} background", named.indices())
        case _:
            named.shapes[0] = SHAPES.index(figure.shape)
            named.colours[0] = list(COLOURS).index(figure.colour)
            return Caption(f"{figure.colour} {figure.shape}", named.indices())


def _dress(text: str, rng: random.Random) -> str:
    if rng.random() < 0.3:
        text = f"{rng.choice(LEAD_INS)} {text}"
    if rng.random() < 0.1:
        text += ", " + ", ".join(rng.sample(TRIMMINGS, rng.randint(1, 3)))
    if rng.random() < 0.05:
        letters = "abcdefghijklmnopqrstuvwxyz"
        text += " " + "".join(rng.choice(letters) for _ in range(rng.randint(2, 8)))
    return text
