"""An engine over a fake runner, what it tells, and what is true of every job whatever happened."""

from __future__ import annotations

import itertools
import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from tests.fakes import PATIENCE_S, Instant, make_params
from worker.engine.encoding_pool import Sign
from worker.engine.engine import FIRST_CALL_S, STALL_S, Engine
from worker.engine.judging import Judging
from worker.engine.rows import RowLimit
from worker.engine.runner import Runner
from worker.jobs.events import CancelReason, Completed, Ending, Event, Failed, Preview, Progress, Started
from worker.jobs.queue import JobQueue, Work

E = TypeVar("E", bound=Event)


class Journal:
    """A sink that keeps every message; tests wait on it."""

    def __init__(self) -> None:
        self.messages: list[list[tuple[str, Event]]] = []
        self._events: defaultdict[str, list[Event]] = defaultdict(list)
        self._grown = threading.Condition()

    def __call__(self, message: Sequence[tuple[str, Event]]) -> None:
        with self._grown:
            self.messages.append(list(message))
            for job_id, event in message:
                self._events[job_id].append(event)
            self._grown.notify_all()

    def of(self, job_id: str) -> list[Event]:
        with self._grown:
            return list(self._events[job_id])

    def only(self, job_id: str, kind: type[E]) -> list[E]:
        return [event for event in self.of(job_id) if isinstance(event, kind)]

    def ending(self, job_id: str) -> Ending | None:
        return next((event for event in self.of(job_id) if isinstance(event, Ending)), None)

    def wait(self, condition: Callable[[], bool]) -> None:
        """Return once `condition`, looked at after every message, holds."""
        with self._grown:
            assert self._grown.wait_for(condition, PATIENCE_S), dict(self._events)


class Gauge:
    """A meter that keeps what it was told."""

    def __init__(self) -> None:
        self.rows: list[int] = []
        self.texts = 0
        self.pictures = 0
        self.encoded = 0

    def stepped(self, seconds: float, rows: int) -> None:
        self.rows.append(rows)

    def encoded_text(self, seconds: float) -> None:
        self.texts += 1

    def decoded(self, seconds: float) -> None:
        self.pictures += 1

    def encoded_image(self, seconds: float) -> None:
        self.encoded += 1


class Rig:
    """A started engine. `close` stops it and checks that every job it was given has one ending, and that last."""

    def __init__(
        self,
        runner: Runner[Any] | Exception,
        *,
        max_rows: int = 16,
        rows: RowLimit | None = None,
        rows_under_way: int = 0,
        welcome_share: float = 0.0,  # by the clock, which tests cannot foresee
        capacity: int = 1000,
        stall_s: float = STALL_S,
        first_call_s: float = FIRST_CALL_S,
        sign: Sign | None = None,
        judging: Judging | None = None,
        start: bool = True,
    ) -> None:
        self.runner = runner
        self.told = Journal()
        self.gauge = Gauge()
        self.ready, self.stopped = threading.Event(), threading.Event()
        self.reason: BaseException | None = None
        self._numbers = itertools.count(1)
        self._works: dict[str, Work] = {}
        self.engine: Engine[Any] = Engine(
            self._make_runner,
            JobQueue(capacity),
            self.told,
            self.gauge,
            model_id="fake",
            rows=rows or RowLimit(max_rows),
            rows_under_way=rows_under_way,
            welcome_share=welcome_share,
            stall_s=stall_s,
            first_call_s=first_call_s,
            sign=sign,
            judging=judging,
            on_ready=self.ready.set,
            on_stop=self._on_stop,
        )
        if start:
            self.engine.start()

    def _make_runner(self) -> Runner[Any]:
        if isinstance(self.runner, Exception):
            raise self.runner
        return self.runner

    def _on_stop(self, reason: BaseException | None) -> None:
        self.reason = reason
        self.stopped.set()

    def post(self, *, alone: bool = False, **changes: object) -> str:
        """Submit a job; unless told otherwise its seed is its number, from 1, and it has no guidance (one row)."""
        number = next(self._numbers)
        params = make_params(**{"seed": number, "guidance_scale": 1.0} | changes)
        work = Work(f"job {number}", params, alone=alone)
        self.engine.submit(work)
        self._works[work.job_id] = work
        return work.job_id

    @property
    def unended(self) -> list[str]:
        """The jobs that were not taken out of the queue and have no ending yet."""
        return [job_id for job_id in self._works if self.told.ending(job_id) is None]

    def cancel(self, job_id: str, reason: CancelReason = CancelReason.REQUESTED) -> bool:
        """As the front does: a job that only waited is gone and gets its ending from the front."""
        waited = self.engine.cancel(job_id, reason)
        if waited:
            del self._works[job_id]
        return waited

    def drain(self) -> list[str]:
        waiting = self.engine.drain()
        for job_id in waiting:
            del self._works[job_id]
        return waiting

    def wait_ended(self, *job_ids: str) -> None:
        """Return when these jobs have ended; all of them if none is named."""
        self.told.wait(lambda: all(self.told.ending(job_id) for job_id in job_ids or self._works))

    def wait_stopped(self) -> None:
        assert self.stopped.wait(PATIENCE_S)

    def completed(self, job_id: str) -> Completed:
        """The job's ending, which must be this one."""
        ending = self.told.ending(job_id)
        assert isinstance(ending, Completed), ending
        return ending

    def failed(self, job_id: str) -> Failed:
        """The job's ending, which must be this one."""
        ending = self.told.ending(job_id)
        assert isinstance(ending, Failed), ending
        return ending

    def close(self) -> None:
        if isinstance(self.runner, Instant):
            self.runner.allow_all()
        assert self.engine.stop(PATIENCE_S), "the engine's thread did not end"
        for work in self._works.values():
            check_life(self.told.of(work.job_id), work)


def check_life(events: list[Event], work: Work) -> None:
    """What is true of every job: one ending, last; steps from 1 without a gap; the previews asked, in order."""
    params = work.params
    assert [isinstance(event, Ending) for event in events].count(True) == 1, events
    assert isinstance(events[-1], Ending), events
    if isinstance(events[0], Started):
        assert sum(isinstance(event, Started) for event in events) == 1
    else:
        assert len(events) == 1, "only an ending can come without a start"
    steps = [event.step for event in events if isinstance(event, Progress)]
    previews = [event.step for event in events if isinstance(event, Preview)]
    assert steps == list(range(1, len(steps) + 1))
    asked = [] if params.preview is None else list(range(params.preview.every, params.steps, params.preview.every))
    assert previews == asked[: len(previews)]
    if isinstance(events[-1], Completed):
        assert steps[-1] == params.steps
        assert previews == asked
        seeds = [params.seed + index for index in range(params.num_images)]
        assert [(image.index, image.seed) for image in events[-1].images] == list(enumerate(seeds))
