"""How a run is meant: quick or whole, on which backend, with how many threads. Every row is given one."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from shared_worker.device import Backend

T = TypeVar("T")

REPOSITORY = Path(__file__).resolve().parents[2]
BUILTIN = REPOSITORY / "worker" / "models" / "builtin" / "weights"


def usable_cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class Bench:
    """`threads` is what every arm's torch computes with."""

    quick: bool = False
    backend: Backend = "cpu"
    threads: int = field(default_factory=usable_cores)
    model: Path = BUILTIN

    def pick(self, whole: T, quick: T) -> T:
        """The one that goes with this run."""
        return quick if self.quick else whole
