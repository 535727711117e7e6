"""What happens in a job's life: seven frozen events, three of which end it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from worker.jobs.params import ImageFormat


class CancelReason(StrEnum):
    """Why a job was cancelled."""

    REQUESTED = "requested"
    DISCONNECTED = "disconnected"
    TIMEOUT = "timeout"
    SHUTDOWN = "shutdown"


@dataclass(frozen=True, slots=True)
class Image:
    """One finished picture, encoded."""

    index: int
    seed: int
    width: int
    height: int
    format: ImageFormat
    data: bytes


@dataclass(frozen=True, slots=True)
class Timings:
    """Where a job's time went, in seconds; None for what was not reached."""

    queue_s: float | None = None
    encode_s: float | None = None
    denoise_s: float | None = None
    decode_s: float | None = None
    total_s: float | None = None


@dataclass(frozen=True, slots=True)
class Queued:
    """The job waits behind `position` others (0: it is next)."""

    position: int
    eta_s: float | None


@dataclass(frozen=True, slots=True)
class Started:
    """The engine took the job up, for the `attempt`-th time."""

    attempt: int


@dataclass(frozen=True, slots=True)
class Progress:
    """Step `step` of `steps`, from 1, is done for every image of the job."""

    step: int
    steps: int
    eta_s: float | None

    @property
    def percent(self) -> float:
        return round(100.0 * self.step / self.steps, 1)


@dataclass(frozen=True, slots=True)
class Preview:
    """What the job's first image looks like after `step` steps."""

    step: int
    steps: int
    width: int
    height: int
    format: ImageFormat
    data: bytes


@dataclass(frozen=True, slots=True)
class Completed:
    """All images are there; `warnings` say what was not done as it was asked."""

    images: tuple[Image, ...]
    timings: Timings
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Failed:
    """The job ended without its images; `code` is one of `worker.errors`' job failures."""

    code: str
    message: str
    retriable: bool
    timings: Timings = Timings()


@dataclass(frozen=True, slots=True)
class Cancelled:
    """Somebody, its time limit or the shutdown ended the job."""

    reason: CancelReason
    timings: Timings = Timings()


Ending = Completed | Failed | Cancelled
Event = Queued | Started | Progress | Preview | Ending
