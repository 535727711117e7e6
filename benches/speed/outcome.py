"""What came of a row: figures for its claims, groups of bars behind them, notes, and what could not be had."""

from __future__ import annotations

from dataclasses import dataclass, field

from benches.speed.spread import Spread


class NotMeasured(Exception):
    """A row, an arm or a figure that this machine cannot give; the text says why."""


@dataclass(frozen=True)
class Group:
    """Figures in one unit that are read side by side: a table's rows, a chart's bars."""

    title: str
    unit: str
    bars: dict[str, Spread]


@dataclass(frozen=True)
class Outcome:
    """`figures` are by the keys of the claims; a claim in `missing` was not measured for the reason given there."""

    row: int
    figures: dict[str, Spread] = field(default_factory=dict)
    groups: tuple[Group, ...] = ()
    notes: tuple[str, ...] = ()
    missing: dict[str, str] = field(default_factory=dict)
    took_s: float = 0.0
