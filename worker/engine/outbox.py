"""What the engine tells of its jobs, from any of its threads: in order, and nothing behind an ending."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

from worker.engine.run import JobRun
from worker.jobs.events import Ending, Event

Sink = Callable[[Sequence[tuple[str, Event]]], None]


class Outbox:
    """The engine's thread gathers with `put` and sends with `flush`; the encoding pool sends at once.

    Whichever ending is sent first is the job's; the lock makes that one moment for every thread.
    """

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._gathered: list[tuple[JobRun[Any], Event]] = []
        self._sending = threading.Lock()

    def put(self, run: JobRun[Any], event: Event) -> None:
        """Send with the next `flush`."""
        self._gathered.append((run, event))

    def flush(self) -> None:
        """Send what was put, in one message."""
        gathered, self._gathered = self._gathered, []
        self._send(gathered)

    def send(self, run: JobRun[Any], event: Event) -> None:
        """Send alone and now."""
        self._send([(run, event)])

    def _send(self, told: list[tuple[JobRun[Any], Event]]) -> None:
        with self._sending:
            message = []
            for run, event in told:
                if not run.ended:
                    run.ended = isinstance(event, Ending)
                    message.append((run.work.job_id, event))
            if message:
                self._sink(message)
