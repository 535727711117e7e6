"""The worker's engine without its HTTP front: jobs go in, endings come out. The one place here that knows its parts."""

from __future__ import annotations

import itertools
import queue
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Self

from benches.speed.job import Job
from benches.speed.outcome import NotMeasured
from shared_worker.device import Device
from worker.engine.compiling import Compiling
from worker.engine.denoiser import Denoiser
from worker.engine.engine import Engine
from worker.engine.rows import RowLimit
from worker.jobs.events import Completed, Ending, Event, Image
from worker.jobs.params import ImageFormat, JobParams, OnDisconnect, OutputParams, Priority, Task
from worker.jobs.queue import JobQueue, Work
from worker.models.base import Model
from worker.models.registry import Checkpoint

PATIENCE_S = 600.0
STOP_S = 30.0


class SilentMeter:
    """Measures nothing."""

    def stepped(self, seconds: float, rows: int) -> None:
        """One model call."""

    def encoded_text(self, seconds: float) -> None:
        """One job's text."""

    def decoded(self, seconds: float) -> None:
        """One image."""

    def encoded_image(self, seconds: float) -> None:
        """One image or preview."""


class EngineRig:
    """An engine over a checkpoint on a device; `wrap` may put something around the model. Used by one thread.

    A call has `max_rows`; jobs are taken up to `rows_under_way`, as many if that is not given. In exact numerics if
    `exact`, with `compiling` as the worker that compiles. `keep_images` is given every job's pictures, and `meter` what
    is measured, on threads of the engine's.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        device: Device,
        *,
        max_rows: int,
        rows_under_way: int | None = None,
        wrap: Callable[[Model], Model] = lambda model: model,
        exact: bool = False,
        compiling: Compiling | None = None,
        keep_images: Callable[[str, Sequence[Image]], None] = lambda job_id, images: None,
        meter: SilentMeter | None = None,
    ) -> None:
        self._sampler = checkpoint.facts.sampler
        self._ended: queue.SimpleQueue[Event | BaseException | None] = queue.SimpleQueue()
        self._numbers = itertools.count(1)
        self._engine: Engine[Any] = Engine(
            lambda: Denoiser(
                lambda report: wrap(checkpoint.load(device, report)),
                fixed_rows=max_rows if exact else None,
                compiling=compiling,
            ),
            JobQueue(1000),
            self._told,
            meter or SilentMeter(),
            model_id=checkpoint.facts.id,
            rows=RowLimit(max_rows),
            rows_under_way=rows_under_way or max_rows,
            keep_images=keep_images,
            on_ready=lambda: self._ended.put(None),
            on_stop=lambda reason: self._ended.put(reason) if reason else None,
        )

    def __enter__(self) -> Self:
        self._engine.start()
        self._next()
        return self

    def __exit__(self, *exception: object) -> None:
        self._engine.stop(STOP_S)

    def draw(self, jobs: Iterable[Job], *, at_once: int) -> None:
        """All of `jobs`, never more than `at_once` under way; returns when the last picture is encoded.

        A job is asked for when the one before it has ended.
        """
        waiting = iter(jobs)
        under_way = 0
        for job in itertools.islice(waiting, at_once):
            self._submit(job)
            under_way += 1
        while under_way:
            ending = self._next()
            if not isinstance(ending, Completed):
                raise NotMeasured(f"a job ended as {ending}")
            under_way -= 1
            if (following := next(waiting, None)) is not None:
                self._submit(following)
                under_way += 1

    def _submit(self, job: Job) -> None:
        self._engine.submit(Work(f"job {next(self._numbers)}", params_of(job, self._sampler)))

    def _told(self, events: Sequence[tuple[str, Event]]) -> None:
        for _, event in events:
            if isinstance(event, Ending):
                self._ended.put(event)

    def _next(self) -> Event | None:
        try:
            event = self._ended.get(timeout=PATIENCE_S)
        except queue.Empty:
            raise NotMeasured(f"the engine told nothing for {PATIENCE_S:.0f} s") from None
        if isinstance(event, BaseException):
            raise NotMeasured(f"the engine stopped: {event}")
        return event


def params_of(job: Job, sampler: str) -> JobParams:
    """What the front would make of a job's body."""
    return JobParams(
        task=Task.TEXT_TO_IMAGE,
        prompt=job.prompt,
        negative_prompt=None,
        width=job.width,
        height=job.height,
        steps=job.steps,
        guidance_scale=job.guidance_scale,
        seed=job.seed,
        num_images=1,
        sampler=sampler,
        preview=None,
        output=OutputParams(ImageFormat.PNG, quality=90, inline=False, metadata=True),
        priority=Priority.NORMAL,
        on_disconnect=OnDisconnect.CONTINUE,
        timeout_s=3600.0,
        labels={},
    )
