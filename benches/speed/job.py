"""What is drawn, in every arm's words: one job of one picture."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

COLOURS = ("red", "green", "blue", "yellow", "purple", "orange")
SHAPES = ("circle", "square", "heart", "star", "ring", "triangle")
GUIDANCE_SCALE = 2.5
SIDE_PX = 128


@dataclass(frozen=True)
class Job:
    """Guidance above 1 means two rows in each model call."""

    prompt: str
    seed: int
    steps: int
    guidance_scale: float = GUIDANCE_SCALE
    width: int = SIDE_PX
    height: int = SIDE_PX


def stream_of_jobs(steps: int, **changes: Any) -> Iterator[Job]:
    """Jobs without end, each with a seed of its own; the prompts come round again after thirty-six."""
    pairs = itertools.cycle(itertools.product(COLOURS, SHAPES))
    for seed, (colour, shape) in enumerate(pairs, start=1):
        yield replace(Job(f"a {colour} {shape} on a white background", seed, steps), **changes)
