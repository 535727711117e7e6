"""Promises with their figures: each test adds a row, and `--long` writes them all to `benches/RELIABILITY.md`."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "benches" / "RELIABILITY.md"
HEAD = """# Reliability

What the worker promises, how that was tried, and what was seen. Made by `bin/test --long tests/reliability`, which runs
the stated sizes; `bin/test` runs the same at a size for two cores. All of it goes against a real server on a real port,
in a process of its own where it says so; the model is a fake unless the row says otherwise.
"""


@dataclass
class Report:
    """The rows so far. `long` is whether the stated sizes are asked for."""

    long: bool
    rows: list[tuple[str, str, str]] = field(default_factory=list)

    def pick(self, stated: int, short: int) -> int:
        """The size that goes with this run."""
        return stated if self.long else short

    def add(self, promise: str, tried: str, figure: str) -> None:
        """One row."""
        self.rows.append((promise, tried, figure))

    def page(self) -> str:
        """All of it in Markdown."""
        machine = (
            f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
        )
        lines = [HEAD, f"Run of {datetime.now(UTC):%Y-%m-%d %H:%M} UTC on {machine}.", ""]
        lines += ["| promise | how it was tried | figure |", "|---|---|---|"]
        lines += [f"| {promise} | {tried} | {figure} |" for promise, tried, figure in self.rows]
        return "\n".join(lines) + "\n"


@pytest.fixture(scope="session")
def report(pytestconfig: pytest.Config) -> Iterator[Report]:
    collected = Report(bool(pytestconfig.getoption("--long")))
    yield collected
    if collected.long and collected.rows:
        PAGE.write_text(collected.page(), encoding="utf-8")


def p99(samples: list[float]) -> float:
    """The value that one in a hundred exceeds."""
    return sorted(samples)[min(len(samples) - 1, int(0.99 * len(samples)))]
