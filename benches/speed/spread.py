"""Samples to figures: medians, quantiles, and how far the samples lie apart. Knows numbers alone."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Spread:
    """A figure drawn from `count` samples; `low` and `high` say how they lie around it, `of` which way."""

    value: float
    low: float
    high: float
    count: int
    of: str


def middle(samples: Sequence[float]) -> Spread:
    """The median, from the least to the greatest."""
    return Spread(statistics.median(samples), min(samples), max(samples), len(samples), "median, min to max")


def quartiles(samples: Sequence[float]) -> Spread:
    """The median, from the first to the third quartile."""
    low, high = quantile(samples, 0.25), quantile(samples, 0.75)
    return Spread(statistics.median(samples), low, high, len(samples), "median, quartiles")


def tail(samples: Sequence[float], share: float = 0.99) -> Spread:
    """The quantile `share`, from the median to the worst."""
    name = f"p{100 * share:g}, median to worst"
    return Spread(quantile(samples, share), statistics.median(samples), max(samples), len(samples), name)


def worst(samples: Sequence[float]) -> Spread:
    """The greatest, from the least on."""
    return Spread(max(samples), min(samples), max(samples), len(samples), "worst, from the least")


def once(sample: float) -> Spread:
    """What was measured a single time."""
    return Spread(sample, sample, sample, 1, "once")


def quantile(samples: Sequence[float], share: float) -> float:
    """The value below which `share` (0 to 1) of the samples lie, linear between neighbours. Raises ValueError."""
    if not samples:
        raise ValueError("no samples, no quantile")
    ordered = sorted(samples)
    place = share * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


def ratios(over: Sequence[float], under: Sequence[float]) -> list[float]:
    """Round by round, since neighbours in time saw the same machine. Raises ValueError for unequal lengths."""
    return [a / b for a, b in zip(over, under, strict=True)]


def lost_percent(with_it_s: Sequence[float], without_s: Sequence[float]) -> list[float]:
    """Throughput lost, round by round, where the samples are seconds for the same work."""
    return [100 * (1 - without / with_it) for with_it, without in zip(with_it_s, without_s, strict=True)]
