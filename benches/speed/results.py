"""Outcomes as JSON, and as a section of a Markdown page."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benches.speed.claims import claims_of
from benches.speed.outcome import Outcome
from benches.speed.table import HEADING, claim_rows, group_rows

TITLE = """# Results

Made by `bin/bench`. Every ratio is between arms of one run that took turns round by round. Times are the client's, on
the machine that also runs the servers. B0 is a one-file FastAPI server over the stock diffusers pipeline with one lock;
B1 is B0 with `torch.compile`; B2 is B0 with a static micro-batcher (50 ms, at most 8, jobs of equal steps, size and
guidance together); LitServe is the package of that name with its batching on.
"""


def as_json(machine: Mapping[str, str], outcomes: Iterable[Outcome]) -> dict[str, Any]:
    """Everything that was measured, with the claims beside it."""
    return {
        "machine": dict(machine),
        "rows": [
            asdict(outcome) | {"claims": [asdict(claim) for claim in claims_of(outcome.row)]} for outcome in outcomes
        ],
    }


def section(machine: Mapping[str, str], outcomes: Sequence[Outcome]) -> str:
    """One run, from machine to notes, in Markdown."""
    parts = [f"## Run of {machine['date']}\n"]
    parts.append("\n".join(f"- {name}: {value}" for name, value in machine.items() if name != "date") + "\n")
    parts.append(_markdown([HEADING, *claim_rows(outcomes)]))
    for outcome in outcomes:
        for group in outcome.groups:
            rows = [("", f"{group.unit}", "spread"), *group_rows(group)]
            parts.append(f"**Row {outcome.row}: {group.title}**\n\n{_markdown(rows)}")
        if outcome.notes:
            parts.append("\n".join(f"- Row {outcome.row}: {note}" for note in outcome.notes) + "\n")
    return "\n".join(parts)


def append_section(page: Path, text: str) -> None:
    """Behind what stands on the page; a new page gets its title first."""
    before = page.read_text(encoding="utf-8").rstrip("\n") if page.exists() else TITLE.rstrip("\n")
    page.write_text(f"{before}\n\n{text}", encoding="utf-8")


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Readable, with a newline at the end."""
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]]) + "\n"
