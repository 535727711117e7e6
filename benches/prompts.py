"""Prompts the built-in model was never trained on, and what each of them asks for. Knows words; knows no pictures."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass
from itertools import product

from worker.models.builtin.training.scenes import COLOURS, SHAPES, held_out

LEAD_INS = ("a picture of", "a drawing of")
WHERE = {
    "center": "in the center",
    "left": "on the left",
    "right": "on the right",
    "top": "at the top",
    "bottom": "at the bottom",
}


@dataclass(frozen=True)
class Asked:
    """A prompt and what it says; None where it says nothing. `seed` is of the picture's own generator."""

    text: str
    shape: str
    colour: str
    background: str
    size: str | None
    position: str | None
    seed: int


def make_prompts(count: int, seed: int) -> list[Asked]:
    """`count` prompts the model was never trained on, the same for the same seed.

    Held-out combinations come equally often, and where they cannot, those of the shapes and colours that came least.
    Half the prompts name a position and half a size.
    """
    rng = random.Random(seed)
    combinations = [
        (shape, colour, background)
        for shape, colour, background in product(SHAPES, COLOURS, COLOURS)
        if colour != background and held_out(colour, shape, background)
    ]
    # Every position as often as any other, and each of them as often with each size.
    ways = [
        (list(WHERE)[turn % len(WHERE)] if named else None, (None, "small", None, "large")[turn // len(WHERE) % 4])
        for turn, named in (divmod(k, 2) for k in range(count))
    ]
    rng.shuffle(ways)
    used: Counter[tuple[str, ...]] = Counter()
    prompts = []
    for k, (position, size) in enumerate(ways):
        rng.shuffle(combinations)
        shape, colour, background = chosen = min(
            combinations,
            key=lambda c: (used[c], used["shape", c[0]] + used["colour", c[1]] + used["background", c[2]]),
        )
        used.update([chosen, ("shape", shape), ("colour", colour), ("background", background)])
        lead_in = rng.choice(LEAD_INS) if rng.random() < 0.25 else None
        text = _wording(shape, colour, background, size, position, lead_in)
        prompts.append(Asked(text, shape, colour, background, size, position, seed + k))
    return prompts


def _wording(
    shape: str, colour: str, background: str, size: str | None, position: str | None, lead_in: str | None
) -> str:
    words = [size, colour, shape] if size else [colour, shape]
    parts = [lead_in, _article(" ".join(words)), WHERE[position] if position else None]
    return " ".join(part for part in [*parts, "on", _article(f"{background} background")] if part)


def _article(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"
