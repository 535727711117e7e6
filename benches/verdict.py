"""Compares what a picture shows with what was asked for, and counts. Knows nothing of how either came about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benches.measure import Picture, Reading, read
from benches.prompts import Asked

FLOORS = {"background": 0.95, "colour": 0.95, "both colours": 0.95, "shape": 0.90, "position": 0.90}
"""The least rate of pictures that must show each thing as asked."""


@dataclass(frozen=True)
class Judgement:
    """What was asked, what was measured, and which of the two differ (keys of `FLOORS`)."""

    asked: Asked
    reading: Reading
    faults: tuple[str, ...]


@dataclass(frozen=True)
class Rate:
    """`right` pictures `of` so many; a rate of none is neither good nor bad."""

    right: int
    of: int

    @property
    def value(self) -> float | None:
        return self.right / self.of if self.of else None

    def misses(self, floor: float) -> bool:
        return self.value is not None and self.value < floor


def judge(asked: Asked, picture: Picture) -> Judgement:
    """Measures `picture`  # [128, 128, 3]  and only then compares it with what was asked.

    A picture without a figure is wrong in everything: whatever its background, it is not the one that was asked for.
    """
    reading = read(picture)
    nothing = reading.area_px == 0
    wrong = {
        "background": nothing or reading.background != asked.background,
        "colour": nothing or reading.colour != asked.colour,
        "shape": nothing or reading.shape != asked.shape,
        "position": asked.position is not None and (nothing or reading.position != asked.position),
    }
    wrong["both colours"] = wrong["background"] or wrong["colour"]
    return Judgement(asked, reading, tuple(name for name in FLOORS if wrong[name]))


def rates(judgements: Sequence[Judgement]) -> dict[str, Rate]:
    """The rate of each key of `FLOORS`; of position, among the prompts that name one."""
    found = {}
    for name in FLOORS:
        asked_for = [j for j in judgements if name != "position" or j.asked.position is not None]
        found[name] = Rate(sum(name not in j.faults for j in asked_for), len(asked_for))
    return found


def misses(judgements: Sequence[Judgement], floors: Mapping[str, float]) -> list[str]:
    """The names of the rates below their floor."""
    return [name for name, rate in rates(judgements).items() if rate.misses(floors[name])]


def size_rate(judgements: Sequence[Judgement]) -> Rate:
    """How often a named size was drawn. For information: the project sets it no floor."""
    sized = [j for j in judgements if j.asked.size is not None]
    return Rate(sum(j.reading.area_px > 0 and j.reading.size == j.asked.size for j in sized), len(sized))
