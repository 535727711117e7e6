"""One job as clients see it: its parameters, its status, its log. Lives on the event loop alone.

Status follows from the events that are recorded; an event that does not fit the status raises.
"""

from __future__ import annotations

import secrets
import time
from datetime import UTC, datetime
from enum import StrEnum

from worker.jobs.events import (
    Cancelled,
    CancelReason,
    Completed,
    Event,
    Failed,
    Image,
    Preview,
    Progress,
    Queued,
    Started,
    Timings,
)
from worker.jobs.log import EventLog
from worker.jobs.params import JobParams


class Status(StrEnum):
    """Where a job stands; the last three are final."""

    QUEUED = "queued"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


class IllegalTransition(RuntimeError):
    """An event that cannot follow on the job's present status."""


class Job:
    """Created when it is accepted; everything after comes in through `record`."""

    def __init__(self, params: JobParams) -> None:
        self.id = f"job_{secrets.token_hex(12)}"
        self.params = params
        self.log = EventLog()
        self.status = Status.QUEUED
        self.attempt = 0
        self.position: int | None = None
        self.eta_s: float | None = None
        self.told_at = 0.0
        self.progress = Progress(0, params.steps, None)
        self.images: tuple[Image, ...] = ()
        self.failure: Failed | None = None
        self.timings = Timings()
        self.cancel_reason: CancelReason | None = None
        self.accepted_at = time.monotonic()
        self.ended_at: float | None = None
        self.created_at = datetime.now(UTC)
        self.started_at: datetime | None = None
        self.finished_at: datetime | None = None

    @property
    def ended(self) -> bool:
        return self.status in (Status.COMPLETED, Status.FAILED, Status.CANCELLED)

    def record(self, event: Event) -> None:
        """Take over what `event` says and append it to the log. Raises IllegalTransition if it cannot be."""
        match self.status, event:
            case Status.QUEUED, Queued(position, eta_s):
                self.position, self.eta_s = position, eta_s
                self.told_at = time.monotonic()
            case Status.QUEUED, Started(attempt):
                self.status, self.attempt = Status.RUNNING, attempt
                self.position = None
                self.started_at = datetime.now(UTC)
            case Status.RUNNING, Progress():
                self.progress, self.eta_s = event, event.eta_s
            case Status.RUNNING, Preview():
                pass
            case Status.RUNNING, Completed(images, timings):
                self.images = images
                self._end(Status.COMPLETED, timings)
            case ((Status.QUEUED | Status.RUNNING), Failed()):
                self.failure = event
                self._end(Status.FAILED, event.timings)
            case ((Status.QUEUED | Status.RUNNING), Cancelled()):
                self._end(Status.CANCELLED, event.timings)
            case _:
                raise IllegalTransition(f"{type(event).__name__} while {self.status}")
        self.log.append(event)

    def _end(self, status: Status, timings: Timings) -> None:
        self.status, self.timings = status, timings
        self.position = self.eta_s = None
        self.ended_at = time.monotonic()
        self.finished_at = datetime.now(UTC)
