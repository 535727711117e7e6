"""Tells what the judge found: as tables, as JSON, as tiles of a contact sheet. Finds nothing itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benches.measure import Picture, Reading
from benches.prompts import WHERE
from benches.sheet import Tile
from benches.verdict import Judgement, Rate, misses, rates, size_rate
from worker.models.builtin.training.scenes import COLOURS, SHAPES

SHEET_SAMPLE, SHEET_FAULTS, WORST_CASES = 64, 32, 12
ASPECTS = {"shape": tuple(SHAPES), "colour": tuple(COLOURS), "background": tuple(COLOURS), "position": tuple(WHERE)}
"""What the pictures are sorted by, and into what."""


@dataclass(frozen=True)
class Timing:
    """Seconds a picture."""

    drawing_s: float
    measuring_s: float


def print_report(
    judgements: Sequence[Judgement], floors: Mapping[str, float], timing: Timing, console: Console
) -> None:
    """Prints the rates, whole and by shape, colour and position, and the worst pictures."""
    table = Table("as asked", "right", "of", "rate", "floor", "", title="What the pictures show")
    for name, rate in rates(judgements).items():
        mark = "[red]missed[/]" if rate.misses(floors[name]) else "[green]held[/]" if rate.of else ""
        table.add_row(name, str(rate.right), str(rate.of), _percent(rate), f"{floors[name]:.0%}", mark)
    size = size_rate(judgements)
    table.add_row("size", str(size.right), str(size.of), _percent(size), "none", "")
    console.print(table)
    for aspect in ASPECTS:
        console.print(_table_by(aspect, judgements))
    _print_worst(judgements, console)
    console.print(f"{timing.drawing_s:.3f} s a picture to draw, {timing.measuring_s:.3f} s to measure")


def _table_by(aspect: str, judgements: Sequence[Judgement]) -> Table:
    table = Table(aspect, "asked", "colours", "shape", "position", "overlap", "taken for", title=f"By {aspect}")
    for name, group in _groups(aspect, judgements).items():
        found = rates(group)
        mistaken = Counter(str(getattr(j.reading, aspect) or "none") for j in group if aspect in j.faults)
        overlap = float(np.mean([j.reading.overlap for j in group]))
        table.add_row(
            name,
            str(len(group)),
            _percent(found["both colours"]),
            _percent(found["shape"]),
            _percent(found["position"]),
            f"{overlap:.2f}",
            ", ".join(f"{other} {count}" for other, count in mistaken.most_common()),
        )
    return table


def _groups(aspect: str, judgements: Sequence[Judgement]) -> dict[str, list[Judgement]]:
    """The judgements by what was asked of `aspect`, without the names that nobody asked for."""
    groups = {name: [j for j in judgements if getattr(j.asked, aspect) == name] for name in ASPECTS[aspect]}
    return {name: group for name, group in groups.items() if group}


def _print_worst(judgements: Sequence[Judgement], console: Console) -> None:
    faulty = sorted((j for j in judgements if j.faults), key=lambda j: (-len(j.faults), j.reading.overlap))
    if not faulty:
        console.print("No picture has a fault.")
        return
    table = Table("seed", "asked", "measured", "wrong", title=f"The worst of {len(faulty)} pictures with a fault")
    for j in faulty[:WORST_CASES]:
        table.add_row(str(j.asked.seed), j.asked.text, _in_words(j.reading), ", ".join(j.faults))
    console.print(table)


def _percent(rate: Rate) -> str:
    return "-" if rate.value is None else f"{rate.value:.1%}"


def _in_words(reading: Reading) -> str:
    if reading.area_px == 0:
        return f"nothing on {reading.background}"
    shape = reading.shape or "no shape"
    where = f"at {reading.position or 'no named place'} ({reading.x:.0f}, {reading.y:.0f})"
    return f"{reading.colour} {shape} {reading.overlap:.2f} on {reading.background} {where}"


def as_json(
    judgements: Sequence[Judgement], floors: Mapping[str, float], timing: Timing, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """Everything measured, ready for `json.dumps`; `settings` is passed on as it is."""
    found = {**rates(judgements), "size": size_rate(judgements)}
    return {
        "settings": dict(settings),
        "rates": {
            name: {**asdict(rate), "rate": rate.value, "floor": floors.get(name)} for name, rate in found.items()
        },
        "missed": misses(judgements, floors),
        "rates_by": {aspect: _rates_by(aspect, judgements) for aspect in ASPECTS},
        "seconds_per_picture": asdict(timing),
        "pictures": [asdict(j) for j in judgements],
    }


def _rates_by(aspect: str, judgements: Sequence[Judgement]) -> dict[str, dict[str, float | None]]:
    return {
        name: {key: rate.value for key, rate in rates(group).items()}
        for name, group in _groups(aspect, judgements).items()
    }


def sheet_tiles(judgements: Sequence[Judgement], pictures: Sequence[Picture]) -> list[Tile]:
    """The first pictures whatever they show, for a fair look, then what has faults among the rest."""
    both = list(zip(judgements, pictures, strict=True))
    shown = both[:SHEET_SAMPLE] + [(j, p) for j, p in both[SHEET_SAMPLE:] if j.faults][:SHEET_FAULTS]
    return [Tile(p, j.asked.text, _in_words(j.reading) if j.faults else None) for j, p in shown]
