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
class Snapshot:
    """The engine at one moment. `waiting` holds job ids in order; `work_ahead` counts image-steps still to do."""

    state: EngineState
    healthy: bool
    load_progress: float
    waiting: tuple[str, ...]
    running: int
    running_image_steps: int
    image_step_s: float | None
    """Measured seconds for each image-step, None before there was one."""


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
