"""Outcomes as tables of plain text that a stranger can read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from benches.speed.claims import Claim, claims_of
from benches.speed.outcome import Group, Outcome
from benches.speed.spread import Spread

HEADING = ("row", "what", "figure", "floor", "aim", "holds", "spread")


def claim_rows(outcomes: Iterable[Outcome]) -> list[tuple[str, ...]]:
    """A row of cells for every claim of the outcomes, as `HEADING` names them."""
    return [_claim_row(claim, outcome) for outcome in outcomes for claim in claims_of(outcome.row)]


def group_rows(group: Group) -> list[tuple[str, ...]]:
    """A row of cells for every bar: name, figure, spread."""
    return [(name, _with_unit(bar.value, group.unit), shown(bar)) for name, bar in group.bars.items()]


def align(rows: Sequence[Sequence[str]]) -> str:
    """Rows of equally many cells, the first a heading, in columns."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def number(value: float) -> str:
    """Three digits that count, and no exponent."""
    if value == 0:
        return "0"
    if abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.2f}" if abs(value) >= 1 else f"{value:.3f}"


def shown(spread: Spread) -> str:
    """Where the samples lie, and how many they are."""
    if spread.count == 1:
        return "one sample"
    return f"{number(spread.low)} to {number(spread.high)} ({spread.of}; n = {spread.count})"


def verdict(claim: Claim, value: float) -> str:
    """In a word or two."""
    if not claim.holds(value):
        return "NO"
    return "yes, aim too" if claim.reached(value) else "yes"


def _claim_row(claim: Claim, outcome: Outcome) -> tuple[str, ...]:
    sign = "≥ " if claim.more else "≤ "
    floor = sign + _with_unit(claim.floor, claim.unit)
    aim = "" if claim.aim is None else sign + _with_unit(claim.aim, claim.unit)
    figure = outcome.figures.get(claim.key)
    if figure is None:
        reason = outcome.missing.get(claim.key, "no sample came")
        return str(claim.row), claim.what, "", floor, aim, "", f"not measured: {reason}"
    cell = _with_unit(figure.value, claim.unit)
    return str(claim.row), claim.what, cell, floor, aim, verdict(claim, figure.value), shown(figure)


def _with_unit(value: float, unit: str) -> str:
    return f"{number(value)}{unit}" if unit in ("x", "%") else f"{number(value)} {unit}"
