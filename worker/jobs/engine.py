"""The engine as the front knows it: four words, and a snapshot of what it is doing."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from worker.jobs.events import CancelReason
from worker.jobs.queue import Work


class EngineState(StrEnum):
    """What the engine is doing; the last two are final."""

    LOADING = "loading"
    READY = "ready"
    DRAINING = "draining"
    FAILED = "failed"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class Load:
    """What a job still asks of the device: `rows` in each call for `steps` more of them, then `images` decodings.

    `step_s` is what a step takes, where that is not what others' steps take.
    """

    rows: int
    steps: int
    images: int
    step_s: float | None = None


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast the engine was lately. A call has up to `call_rows` rows and takes `base_s`, and `row_s` for each."""

    call_rows: int
    base_s: float
    row_s: float
    decode_s: float

    def step_s(self, rows: int) -> float:
        """Seconds of a call when `rows` rows would like to be in it."""
        return self.base_s + self.row_s * min(rows, self.call_rows)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The engine at one moment. `waiting` holds job ids in order, `loads` one for each job that runs."""

    state: EngineState
    healthy: bool
    load_progress: float
    waiting: tuple[str, ...]
    loads: tuple[Load, ...]
    pace: Pace | None
    """None before the first step."""

    @property
    def running(self) -> int:
        """How many jobs run."""
        return len(self.loads)


class Engine(Protocol):
    """What the front needs of an engine, wherever it runs."""

    def submit(self, work: Work, *, whatever_waits: bool = False) -> None:
        """Take `work` up for drawing. Raises `Full`, unless it is to be taken whatever waits already."""

    def cancel(self, job_id: str, reason: CancelReason) -> bool:
        """True: it was still waiting and is gone. False: if it runs, its `Cancelled` will come as an event."""

    def snapshot(self) -> Snapshot:
        """What it is doing now."""

    def drain(self) -> list[str]:
        """Start nothing more; the ids of what was waiting and is now gone."""
