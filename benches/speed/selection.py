"""Which rows are asked for, and which of them this machine can give."""

from __future__ import annotations

from pathlib import Path

from benches.speed.bench import Bench
from benches.speed.claims import ROWS

BF16_UNITS = ("amx_bf16", "avx512_bf16")
"""Processor flags; without them bf16 is computed in fp32 and slower than it."""
GPU_ROWS = (12, 13, 14)
GPU_ONLY = (12, 13)


def parse_rows(text: str) -> tuple[int, ...]:
    """`1,5,8` or `1-4,8`, in the order of the table. Raises ValueError with a sentence."""
    asked: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise ValueError(f"{part.strip()!r} is no row and no range of rows")
        rows = range(int(first), int(last or first) + 1)
        if not rows or not set(rows) <= set(ROWS):
            raise ValueError(f"rows go from {ROWS[0]} to {ROWS[-1]}; {part.strip()!r} does not")
        asked |= set(rows)
    return tuple(row for row in ROWS if row in asked)


def why_not(row: int, bench: Bench, *, flags: frozenset[str], cuda: bool) -> str | None:
    """Why `row` cannot be measured here, or None. `flags` are the processor's, `cuda` whether a device is there."""
    if bench.backend == "cuda":
        if row not in GPU_ROWS:
            return "a row for the CPU, and this run is on cuda"
        return None if cuda else "no CUDA device is found here"
    if row in GPU_ONLY:
        return "a row for an NVIDIA GPU: bin/bench --backend cuda"
    if row == 10 and not flags & set(BF16_UNITS):
        return f"this processor has no bf16 units ({' or '.join(BF16_UNITS)})"
    return None


def processor_flags() -> frozenset[str]:
    """What the processor can do, by the names of the Linux kernel; empty where nobody tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return frozenset()
    told = next((line.partition(":")[2] for line in lines if line.startswith("flags")), "")
    return frozenset(told.split())


def has_cuda(bench: Bench) -> bool:
    """Whether there is a device; torch is imported only for a run that wants one."""
    if bench.backend != "cuda":
        return False
    import torch

    return torch.cuda.is_available()
