"""How fast a device multiplies large matrices: the limit that a model's rate is held against."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

SIDE = 8192
TERA = 1e12


def matrix_tflops(device: str, dtype: torch.dtype, *, side: int = SIDE, rounds: int = 20) -> float:
    """TFLOP/s of a square product, the median of `rounds`."""
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    seconds = timed_s(lambda: torch.mm(a, b), device, rounds=rounds)
    return 2 * side**3 / seconds / TERA


def timed_s(work: Callable[[], object], device: str, *, rounds: int, warm: int = 3) -> float:
    """Seconds of `work` until the device is done with it, the median of `rounds`."""
    taken = []
    for number in range(warm + rounds):
        _wait(device)
        began = time.perf_counter()
        work()
        _wait(device)
        if number >= warm:
            taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()
