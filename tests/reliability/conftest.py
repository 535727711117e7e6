"""Promises with their figures: each test adds rows, and with `--long` they go to `benches/RELIABILITY.md`."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest

FIGURES = Path(__file__).parents[2] / "benches" / "reliability.json"
PAGE = FIGURES.with_name("RELIABILITY.md")
HEAD = """# Reliability

What the worker promises, how that was tried, and what was seen. Made by `bin/test --long tests/reliability`, which runs
the stated sizes and takes hours; `bin/test` runs the same at a size for two cores. A part of it can be run alone, and
brings its own rows up to date. All of it goes against a real server on a real port, in a process of its own where it
can be killed; the model is a fake unless the row says otherwise.

| | promise | how it was tried | figure | when and where |
|---|---|---|---|---|
"""
TOPICS = (
    "Streams",
    "Durability",
    "Idempotency",
    "Back-pressure",
    "Cancel",
    "Drain",
    "Health",
    "Orchestrator",
    "Access",
    "Hostile input",
    "Every order",
    "Soak",
    "Memory",
)


@dataclass
class Report:
    """The rows so far. `long` is whether the stated sizes are asked for."""

    long: bool
    rows: list[dict[str, str]] = field(default_factory=list)

    def pick(self, stated: int, short: int) -> int:
        """The size that goes with this run."""
        return stated if self.long else short

    def add(self, topic: str, promise: str, tried: str, figure: str) -> None:
        """One row; call it before the figure is judged, so that one that does not hold is told too."""
        assert topic in TOPICS
        machine = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"
        versions = f"Python {platform.python_version()}, torch {importlib.metadata.version('torch')}"
        when = f"{datetime.now(UTC):%Y-%m-%d}, {machine}, {versions}"
        self.rows.append({"topic": topic, "promise": promise, "tried": tried, "figure": figure, "when": when})

    def write(self) -> None:
        """Bring the figures and the page up to date."""
        known = json.loads(FIGURES.read_text(encoding="utf-8")) if FIGURES.exists() else []
        rows = {(row["topic"], row["promise"]): row for row in [*known, *self.rows]}
        ordered = sorted(rows.values(), key=lambda row: TOPICS.index(row["topic"]))
        FIGURES.write_text(json.dumps(ordered, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        lines = [f"| {' | '.join(row[name] for name in row)} |" for row in ordered]
        PAGE.write_text(HEAD + "\n".join(lines) + "\n", encoding="utf-8")


@pytest.fixture(scope="session")
def report(pytestconfig: pytest.Config) -> Iterator[Report]:
    collected = Report(bool(pytestconfig.getoption("--long")))
    yield collected
    if collected.long and collected.rows:
        collected.write()


def p99(samples: list[float]) -> float:
    """The value that one in a hundred exceeds."""
    return sorted(samples)[min(len(samples) - 1, int(0.99 * len(samples)))]


def resident_bytes(pid: int) -> int:
    """What the process holds in memory."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))
