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
from worker.jobs.log import Entry, EventLog
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
    """Created when it is accepted; everything after comes in through `record`.

    One that was accepted by an earlier process is given its id and its time again.
    """

    def __init__(
        self,
        params: JobParams,
        job_id: str | None = None,
        created_at: datetime | None = None,
        trace_id: str | None = None,
    ) -> None:
        self.id = job_id or f"job_{secrets.token_hex(12)}"
        self.params = params
        self.trace_id = trace_id
        self.log = EventLog()
        self.status = Status.QUEUED
        self.attempt = 0
        self.position: int | None = None
        self.eta_s: float | None = None
        self.told_at = 0.0
        self.progress = Progress(0, params.steps_drawn, None)
        self.images: tuple[Image, ...] = ()
        self.warnings: tuple[str, ...] = ()
        self.failure: Failed | None = None
        self.timings = Timings()
        self.cancel_reason: CancelReason | None = None
        self.created_at = created_at or datetime.now(UTC)
        self.accepted_at = _monotonic(self.created_at)
        self.ended_at: float | None = None
        self.started_at: datetime | None = None
        self.finished_at: datetime | None = None

    @property
    def ended(self) -> bool:
        return self.status in (Status.COMPLETED, Status.FAILED, Status.CANCELLED)

    def record(self, event: Event, at: datetime | None = None) -> Entry:
        """Take over what `event` says and append it to the log. Raises IllegalTransition if it cannot be.

        `at` is when it happened, if not now. `Queued` while it runs puts it back, to be started once more.
        """
        at = at or datetime.now(UTC)
        match self.status, event:
            case ((Status.QUEUED | Status.RUNNING), Queued(position, eta_s)):
                if self.status is Status.RUNNING:
                    self.status, self.started_at = Status.QUEUED, None
                    self.progress = Progress(0, self.params.steps_drawn, None)
                self.position, self.eta_s = position, eta_s
                self.told_at = time.monotonic()
            case Status.QUEUED, Started(attempt):
                self.status, self.attempt = Status.RUNNING, attempt
                self.position = None
                self.started_at = at
            case Status.RUNNING, Progress():
                self.progress, self.eta_s = event, event.eta_s
            case Status.RUNNING, Preview():
                pass
            case Status.RUNNING, Completed(images, timings, warnings):
                self.images, self.warnings = images, warnings
                self._end(Status.COMPLETED, timings, at)
            case ((Status.QUEUED | Status.RUNNING), Failed()):
                self.failure = event
                self._end(Status.FAILED, event.timings, at)
            case ((Status.QUEUED | Status.RUNNING), Cancelled()):
                self.cancel_reason = event.reason
                self._end(Status.CANCELLED, event.timings, at)
            case _:
                raise IllegalTransition(f"{type(event).__name__} while {self.status}")
        return self.log.append(event)

    def _end(self, status: Status, timings: Timings, at: datetime) -> None:
        self.status, self.timings = status, timings
        if self.params.has_pictures:
            self.params = self.params.without_pictures()
        self.position = self.eta_s = None
        self.ended_at = _monotonic(at)
        self.finished_at = at


def _monotonic(at: datetime) -> float:
    """When that was by the other clock; not in the future, where another process may have seen it by a clock that was
    ahead."""
    return time.monotonic() - max(0.0, (datetime.now(UTC) - at).total_seconds())
