"""From what was provided to what serves: engine, service, heartbeat, application, in this order."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import sys
import threading
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from starlette.types import ASGIApp

from shared_worker.auth import Tokens
from shared_worker.contract import WorkerStatus
from shared_worker.device import memory, peak_bytes
from worker import __version__, logs, provide
from worker.app import create_app
from worker.compiler import CompilerProcess
from worker.describe import describe_worker
from worker.engine.engine import Engine
from worker.engine.runner import Runner
from worker.errors import StartError, WorkerError
from worker.jobs.events import Event
from worker.jobs.facts import Limits
from worker.jobs.job import Job
from worker.jobs.queue import JobQueue
from worker.jobs.service import JobService
from worker.metrics import Metrics
from worker.provide import Provided
from worker.settings import Settings

if TYPE_CHECKING:
    from worker.models.base import Model

STOP_ENGINE_S = 1.0
STREAM_GRACE_S = 5.0
LAST_WORD_S = 1.0
LAST_SPANS_S = 2.0
TICK_S = 1.0
STANDSTILL_S = 5.0
"""A tick that comes so late tells that the process was stopped, or that the machine slept."""
LINGER_S = 1.0
"""How long the server still answers once the last job has ended, so that its pictures can be fetched."""


@dataclass(frozen=True)
class Serving:
    """What a server needs of a worker that serves."""

    app: ASGIApp
    drain: Callable[[], Awaitable[None]]
    hurry: Callable[[], None]
    end: Callable[[], Awaitable[int]]
    """Once the server has closed: the exit status. Threads may be left that do not end."""


def begin(settings: Settings, tokens: Tokens, provided: Provided, url: str, stop: Callable[[], None]) -> Serving:
    """Start the engine, and say what is served; on the event loop. `stop` is called there when the engine fails."""
    device, checkpoint, journal, tracing = provided.device, provided.checkpoint, provided.journal, provided.tracing
    loop = asyncio.get_running_loop()
    advertised = str(settings.advertise_url or url).rstrip("/")
    limits = Limits(
        queue_capacity=settings.queue_capacity,
        retained_s=settings.retain_s,
        retained_jobs=settings.retain_jobs,
        retained_bytes=settings.retain_bytes,
    )
    rows = provide.row_limit(settings, device, checkpoint)
    failures: list[BaseException] = []

    def load(report: Callable[[float], None]) -> Model:
        model = checkpoint.load(device, report)
        if provided.judging is not None:
            provided.judging.load()
        return model

    def make_runner() -> Runner[Any]:
        from worker.engine.compiling import Compiling
        from worker.engine.denoiser import Denoiser  # torch comes in with this, when the port is open

        fixed_rows = rows.usual if settings.numerics == "exact" else None
        compiling = None
        if checkpoint.facts.compile is not None:
            compiling = Compiling(
                CompilerProcess(checkpoint, device, checkpoint.facts.compile),
                on_compiled=metrics.call_compiled,
                on_failed=metrics.call_not_compiled,
                on_call=metrics.called,
                on_padding=metrics.padded,
            )
        denoiser = Denoiser(
            load,
            fixed_rows=fixed_rows,
            compiling=compiling,
            on_prompt=metrics.prompt_looked_up,
            on_padding=metrics.padded,
            on_adapters=metrics.adapters_held,
            on_prompts_kept=metrics.prompts_kept,
            before_timing=functools.partial(checkpoint.placement.bring, checkpoint.family.denoiser),
        )
        if not checkpoint.facts.enlargers:
            return denoiser
        from worker.engine.enlarging import Enlarger, WithUpscalers

        return WithUpscalers(denoiser, Enlarger(lambda name: checkpoint.load_upscaler(name, device)))

    def on_engine_events(events: Sequence[tuple[str, Event]]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is left to tell
            loop.call_soon_threadsafe(service.receive, events)

    def on_recorded(job: Job, event: Event) -> None:
        metrics.recorded(job, event)
        logs.log_event(job, event, prompts=settings.log_prompts)
        if tracing is not None:
            tracing.recorded(job, event)
        heartbeat.changed()

    def on_engine_ready() -> None:
        gc.freeze()  # of all that is there now nothing goes: a full collection would hold up everyone for its sake
        gc.enable()
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(heartbeat.changed)
        print(f"sd-worker-{device.backend}: ready", file=sys.stderr, flush=True)

    def on_engine_stop(reason: BaseException | None) -> None:
        if reason is not None:
            failures.append(reason)
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(stop)

    metrics = Metrics()
    metrics.watch(
        lambda: rows.usual,
        functools.partial(memory, device),
        functools.partial(peak_bytes, device),
        lambda: checkpoint.device_bytes if engine.snapshot().load_progress == 1.0 else 0,
    )
    engine: Engine[Any] = Engine(
        make_runner,
        JobQueue(settings.queue_capacity),
        on_engine_events,
        metrics,
        model_id=checkpoint.facts.id,
        rows=rows,
        keep_images=journal.keep_images,
        sign=provided.sign,
        judging=provided.judging,
        on_ready=on_engine_ready,
        on_stop=on_engine_stop,
    )
    service = JobService(engine, limits, on_recorded, journal, checkpoint.facts.guidance)

    async def drain() -> None:
        had_jobs = service.busy()
        loop.call_soon(heartbeat.changed)
        await service.drain(0.0 if failures else settings.drain_s)
        await asyncio.sleep(LINGER_S if had_jobs else LINGER_S - (time.monotonic() - service.last_ending_at))

    info = functools.partial(describe_worker, settings, device, checkpoint.facts, service, advertised, uuid.uuid4().hex)
    heartbeat = provide.heartbeat(settings, info)
    app = create_app(
        service,
        checkpoint.facts,
        metrics,
        info,
        tokens,
        STREAM_GRACE_S,
        metrics_auth=settings.metrics_auth,
        cors_origins=settings.origins,
        sdapi=settings.sdapi,
        tracer_provider=None if tracing is None else tracing.provider,
    )
    service.restore(provided.restored, checkpoint.facts.id)
    engine.start()
    beside = [asyncio.create_task(heartbeat.run()), asyncio.create_task(service.keep_house())]
    told = f"loading; {checkpoint.source.told}" if checkpoint.source.told else "loading"
    told += f"; compiles: {checkpoint.facts.compile}" if checkpoint.facts.compile else ""
    print(
        f"sd-worker-{device.backend} {__version__}: {checkpoint.facts.id} on {device.name}, {url} ({told})",
        file=sys.stderr,
        flush=True,
    )

    watch_for_standstills(loop, engine.stood_still)
    # In a thread of its own: all of the loop's may hang in a resolver, and what is written at last in a disk. It is
    # there from the beginning, since at the end there may be no memory for one.
    ending = threading.Event()

    def stop_engine() -> None:
        ending.wait()
        engine.stop(STOP_ENGINE_S)

    stopping = threading.Thread(target=stop_engine, name="stopping", daemon=True)
    stopping.start()

    async def end() -> int:
        ending.set()
        stopping.join(STOP_ENGINE_S)
        for task in beside:
            task.cancel()
        await heartbeat.tell_last(WorkerStatus.STOPPED, LAST_WORD_S)
        if tracing is not None:
            tracing.close(LAST_SPANS_S)
        status = 0
        for failure in failures:
            told = failure.detail if isinstance(failure, WorkerError) else type(failure).__name__
            if isinstance(failure, StartError):  # the model cannot be served: another start would say the same
                status = 2
            else:
                status, told = 1, f"the engine failed: {told}"
            print(f"sd-worker-{device.backend}: {told}", file=sys.stderr)
        return status

    return Serving(app, drain, service.hurry, end)


def watch_for_standstills(loop: asyncio.AbstractEventLoop, tell: Callable[[float], None]) -> None:
    """Tell for how many seconds the process did not run, whenever it goes on."""

    def tick(due_at: float) -> None:
        # A callback, no task: it comes before the answer to a request that has waited just as long.
        late_s = loop.time() - due_at
        if late_s > STANDSTILL_S:
            tell(late_s)
        loop.call_later(TICK_S, tick, loop.time() + TICK_S)

    tick(loop.time())
