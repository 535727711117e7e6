"""How fast a device multiplies large matrices: the limit that a model's rate is held against."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

WARM_S = 2.0
"""A card that was idle computes faster for a moment than it can for long."""
SIDE = 8192
TERA = 1e12


def matrix_tflops(
    device: str, dtype: torch.dtype, *, side: int = SIDE, rounds: int = 20, warm_s: float = WARM_S
) -> float:
    """TFLOP/s of a square product, the median of `rounds`, after `warm_s` of nothing else."""
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    seconds = timed_s(lambda: torch.mm(a, b), device, rounds=rounds, warm_s=warm_s)
    return 2 * side**3 / seconds / TERA


def timed_s(work: Callable[[], object], device: str, *, rounds: int, warm: int = 3, warm_s: float = 0.0) -> float:
    """Seconds of `work` until the device is done with it, the median of `rounds`, once it was done `warm` times and
    then for `warm_s` more."""

    def once_s() -> float:
        _wait(device)
        began = time.perf_counter()
        work()
        _wait(device)
        return time.perf_counter() - began

    for _ in range(warm):
        once_s()
    began = time.perf_counter()
    while time.perf_counter() - began < warm_s:
        once_s()
    return statistics.median(once_s() for _ in range(rounds))


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()
