"""The command line of the benches: which rows, how thoroughly, and where the figures go."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from benches.speed.bench import Bench, usable_cores
from benches.speed.claims import ROWS, claims_of
from benches.speed.machine import describe
from benches.speed.outcome import Outcome
from benches.speed.results import append_section, as_json, section, write_json
from benches.speed.rows import run
from benches.speed.selection import GPU_ROWS, parse_rows
from benches.speed.table import HEADING, align, claim_rows, group_rows

LIBRARIES = {
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "DIFFUSERS_VERBOSITY": "error",
    "TRANSFORMERS_VERBOSITY": "error",
}
"""No network, and nothing said between the tables."""


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and tell; 0 if every figure that was measured is within its floor, 1 if one is not, 2 for bad usage."""
    args = _parse(argv)
    logging.basicConfig(level=logging.DEBUG if args.verbose else logging.WARNING)
    os.environ |= LIBRARIES
    signal.signal(signal.SIGTERM, _interrupt)  # so that the servers that were started are stopped on the way out
    bench = Bench(quick=args.quick, backend=args.backend, threads=args.threads)
    rows = args.rows or (GPU_ROWS if args.backend == "cuda" else ROWS)
    machine, outcomes, began = describe(bench), list[Outcome](), time.monotonic()
    print("\n".join(f"{name}: {value}" for name, value in machine.items()) + "\n", flush=True)
    try:
        for outcome in run(rows, bench):
            outcomes.append(outcome)
            print(_told(outcome), flush=True)
    finally:  # a run that is broken off keeps what it has
        machine["the whole took"] = f"{(time.monotonic() - began) / 60:.1f} minutes"
        print(align([HEADING, *claim_rows(outcomes)]))
        _keep(args, machine, outcomes)
    return 0 if all(_holds(outcome) for outcome in outcomes) else 1


def _keep(args: argparse.Namespace, machine: dict[str, str], outcomes: list[Outcome]) -> None:
    """Into the files that were asked for."""
    if args.json:
        write_json(args.json, as_json(machine, outcomes))
    if args.out:
        append_section(args.out, section(machine, outcomes))
    if args.charts:
        from benches.speed.charts import draw_page

        print(f"\ncharts: {draw_page(args.charts, _heading(machine), outcomes)}")


def _told(outcome: Outcome) -> str:
    """One row as soon as it is there: its figures, what lies behind them, its notes."""
    parts = [f"row {outcome.row} ({outcome.took_s:.0f} s)", align([HEADING, *claim_rows([outcome])])]
    parts += [align([(group.title, group.unit, "spread"), *group_rows(group)]) for group in outcome.groups]
    return "\n".join([*parts, *(f"note: {note}" for note in outcome.notes)]) + "\n"


def _holds(outcome: Outcome) -> bool:
    return all(
        claim.holds(figure.value)
        for claim in claims_of(outcome.row)
        if (figure := outcome.figures.get(claim.key)) is not None
    )


def _heading(machine: dict[str, str]) -> str:
    shown = ("date", "GPU", "processor", "torch threads", "kind of run")
    return "sd-worker: " + "; ".join(f"{name} {machine[name]}" for name in shown if name in machine)


def _interrupt(signum: int, _frame: FrameType | None) -> None:
    sys.exit(128 + signum)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="bin/bench",
        description="Measures what is claimed of the worker's speed against reference servers, all on this machine.",
        epilog="Rows: " + "; ".join(f"{row} {claims_of(row)[0].what}" for row in ROWS) + ". The machine should be "
        "otherwise idle. On an NVIDIA GPU where torch, diffusers and transformers are installed already, and nothing "
        "else: python -m benches.speed --backend cuda",
    )
    parser.add_argument("--rows", type=_rows, metavar="LIST", help="such as 1,5,8 or 1-4 (default: all of the backend)")
    parser.add_argument("--quick", action="store_true", help="seconds a row; shows that it runs, not how fast")
    parser.add_argument("--backend", choices=("cpu", "cuda"), default="cpu", help="(default cpu)")
    parser.add_argument(
        "--threads", type=int, default=usable_cores(), metavar="N", help="torch threads of every arm (default: cores)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything measured")
    parser.add_argument("--charts", type=Path, metavar="DIR", help="write a page of charts, bench.png")
    parser.add_argument("--out", type=Path, metavar="FILE.md", help="append a section, such as to benches/RESULTS.md")
    parser.add_argument("--verbose", action="store_true", help="tell of every fault at length")
    return parser.parse_args(argv)


def _rows(text: str) -> tuple[int, ...]:
    try:
        return parse_rows(text)
    except ValueError as fault:
        raise argparse.ArgumentTypeError(str(fault)) from None
