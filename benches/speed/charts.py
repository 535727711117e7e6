"""Outcomes as one page of charts: how far each claim is from its floor, and the bars behind the claims."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benches.speed.claims import Claim, claims_of
from benches.speed.outcome import Group, Outcome
from benches.speed.spread import Spread
from benches.speed.table import number

COLUMNS = 3
LINE_IN = 2.2
BLUE, GREEN, RED, GREY = "#3b6ea5", "#3d8b5f", "#b5483a", "#8a8a8a"
BEST_SHOWN, WORST_SHOWN = 10.0, 0.1


def draw_page(folder: Path, heading: str, outcomes: Sequence[Outcome]) -> Path:
    """Writes `bench.png` into `folder`. Raises ImportError where matplotlib is not installed."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot

    folder.mkdir(parents=True, exist_ok=True)
    # One bar alone compares nothing: the tables have it.
    groups = [(outcome.row, group) for outcome in outcomes for group in outcome.groups if len(group.bars) > 1]
    claims = [
        (claim, figure) for outcome in outcomes for claim in claims_of(outcome.row)
        if (figure := outcome.figures.get(claim.key))
    ]  # fmt: skip
    lines = math.ceil(len(groups) / COLUMNS)
    top_in = 1.2 + 0.34 * max(1, len(claims))
    page: Any = pyplot.figure(figsize=(16, top_in + LINE_IN * lines + 0.8), layout="constrained")
    # Two pages in one, so that the long names of the claims do not take their room from the panels below.
    above, below = page.subfigures(2, 1, height_ratios=[top_in, max(0.1, LINE_IN * lines)])
    page.suptitle(heading, fontsize=12)
    _claims(above.add_subplot(), claims)
    for place, (row, group) in enumerate(groups):
        _bars(below.add_subplot(lines, COLUMNS, place + 1), row, group)
    target = folder / "bench.png"
    page.savefig(target, dpi=110)
    pyplot.close(page)
    return target


def margin(claim: Claim, value: float) -> float:
    """How many times better than the floor: 1 on it, more is better whatever the unit; bounded for the axis."""
    better, worse = (value, claim.floor) if claim.more else (claim.floor, value)
    times = better / worse if worse > 0 else BEST_SHOWN
    return min(BEST_SHOWN, max(WORST_SHOWN, times))


def _claims(axes: Any, claims: Sequence[tuple[Claim, Spread]]) -> None:
    names = [f"{claim.row}  {claim.what}" for claim, _ in claims]
    margins = [margin(claim, figure.value) for claim, figure in claims]
    colours = [GREEN if claim.holds(figure.value) else RED for claim, figure in claims]
    axes.barh(names, margins, color=colours, height=0.62)
    for place, (claim, figure) in enumerate(claims):
        axes.annotate(
            f"{number(figure.value)} {claim.unit}",
            (margins[place], place), xytext=(4, 0), textcoords="offset points", va="center", fontsize=8, zorder=3,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
        )  # fmt: skip
        if claim.aim is not None:
            axes.plot([margin(claim, claim.aim)] * 2, [place - 0.4, place + 0.4], color="black", linewidth=1.2)
    axes.axvline(1.0, color="black", linewidth=1.5)
    axes.set_xscale("log")
    axes.set_xlim(WORST_SHOWN, BEST_SHOWN * 1.5)
    axes.set_xticks([0.1, 0.2, 0.5, 1, 2, 5, 10], ["0.1", "0.2", "0.5", "1", "2", "5", "≥ 10"])
    axes.minorticks_off()
    axes.invert_yaxis()
    axes.set_xlabel("times better than the floor (long line: the floor; short lines: the aims)")
    axes.tick_params(axis="y", labelsize=8)
    _plain(axes)


def _bars(axes: Any, row: int, group: Group) -> None:
    names = list(group.bars)
    values = [bar.value for bar in group.bars.values()]
    below = [max(0.0, bar.value - bar.low) for bar in group.bars.values()]
    above = [max(0.0, bar.high - bar.value) for bar in group.bars.values()]
    axes.barh(names, values, xerr=[below, above], color=BLUE, ecolor=GREY, height=0.6, capsize=3)
    axes.invert_yaxis()
    axes.set_xlim(left=min(0.0, *values) if values else 0.0)
    axes.set_xlabel(group.unit)
    axes.set_title(f"Row {row}: {group.title}", fontsize=9, loc="left")
    axes.tick_params(axis="y", labelsize=8)
    _plain(axes)


def _plain(axes: Any) -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.grid(axis="x", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
