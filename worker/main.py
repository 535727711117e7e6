"""From settings to a serving process: settings, model, engine, app, server, in this order."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import os
import socket
import sys
import uuid
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from shared_worker.device import Backend, NoSuchDevice, find_device, memory, peak_bytes
from worker import __version__, logs, provide
from worker.allocator import keep_freed_memory
from worker.app import create_app
from worker.compiler import CompilerProcess
from worker.describe import describe_worker
from worker.engine.engine import Engine
from worker.engine.runner import Runner
from worker.errors import DeviceUnavailable, StartError, WorkerError
from worker.jobs.events import Event
from worker.jobs.facts import Limits
from worker.jobs.job import Job
from worker.jobs.queue import JobQueue
from worker.jobs.service import JobService
from worker.metrics import Metrics
from worker.provide import Provided
from worker.server import address_of, listen, make_server
from worker.settings import Settings, read_settings

if TYPE_CHECKING:
    from worker.models.base import Model

STOP_ENGINE_S = 1.0
STREAM_GRACE_S = 5.0
LAST_WORD_S = 1.0
LAST_SPANS_S = 2.0
LINGER_S = 1.0
"""How long the server still answers once the last job has ended, so that its pictures can be fetched."""
SWITCH_INTERVAL_S = 0.0005
"""Python's default of 5 ms lets an engine thread of many small calls delay the event loop by 12 ms (p99)."""


def cpu() -> int:
    """Entry point of `sd-worker-cpu`."""
    return run("cpu")


def cuda() -> int:
    """Entry point of `sd-worker-cuda`."""
    return run("cuda")


def mps() -> int:
    """Entry point of `sd-worker-mps`."""
    return run("mps")


def run(backend: Backend, arguments: Sequence[str] | None = None) -> int:
    """Serve until stopped; returns the exit status: 0 after a drain, 1 if the engine failed, 2 if it cannot start.

    With `inspect` as its first argument it says what a file is instead.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == ["inspect"]:
        from worker.models import inspect

        return inspect.main(given[1:], program=f"sd-worker-{backend} inspect")
    try:
        settings = read_settings(backend, given)
        return _serve(settings, backend)
    except StartError as error:
        print(f"sd-worker-{backend}: {error.detail}", file=sys.stderr)
        return 2


def _serve(settings: Settings, backend: Backend) -> int:
    logs.configure(settings.log_level, settings.log_format)
    # No download at serving time, whatever a configuration names.
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    if backend == "cpu":
        keep_freed_memory()

    try:
        device = find_device(backend, settings.device_index)
    except NoSuchDevice as missing:
        raise DeviceUnavailable(str(missing)) from None
    provided = provide.everything(settings, device)
    with contextlib.closing(provided.journal):
        listener = listen(settings.host, settings.port)
        return asyncio.run(_run(settings, provided, listener))


async def _run(settings: Settings, provided: Provided, listener: socket.socket) -> int:
    device, checkpoint, journal, tracing = provided.device, provided.checkpoint, provided.journal, provided.tracing
    loop = asyncio.get_running_loop()
    url = address_of(settings.host, listener)
    advertised = str(settings.advertise_url or url).rstrip("/")
    limits = Limits(
        queue_capacity=settings.queue_capacity,
        retained_s=settings.retain_s,
        retained_jobs=settings.retain_jobs,
        retained_bytes=settings.retain_bytes,
    )
    rows = provide.row_limit(settings, device, checkpoint)
    failures: list[Exception] = []

    judging = None
    if provided.safety is not None:
        from worker.engine.judging import Judging  # numpy comes in with this

        judging = Judging(functools.partial(provided.safety.load, device, checkpoint.placement), settings.on_unsafe)

    def load(report: Callable[[float], None]) -> Model:
        model = checkpoint.load(device, report)
        if judging is not None:
            judging.load()
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

    def on_engine_stop(reason: Exception | None) -> None:
        if reason is not None:
            failures.append(reason)
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(server.begin_shutdown)

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
        judging=judging,
        on_ready=on_engine_ready,
        on_stop=on_engine_stop,
    )
    service = JobService(engine, limits, on_recorded, journal, checkpoint.facts.guidance)

    async def drain() -> None:
        had_jobs = service.busy()
        loop.call_soon(heartbeat.changed)
        await service.drain(0.0 if failures else settings.drain_s)
        await asyncio.sleep(LINGER_S if had_jobs else 0.0)

    info = functools.partial(describe_worker, settings, device, checkpoint.facts, service, advertised, uuid.uuid4().hex)
    heartbeat = provide.heartbeat(settings, info)
    app = create_app(
        service,
        checkpoint.facts,
        metrics,
        info,
        provided.tokens,
        STREAM_GRACE_S,
        metrics_auth=settings.metrics_auth,
        cors_origins=settings.origins,
        sdapi=settings.sdapi,
        tracer_provider=None if tracing is None else tracing.provider,
    )
    server = make_server(app, drain, service.hurry)
    service.restore(checkpoint.facts.id)
    gc.disable()  # until the model is loaded: what imports make stays, and looking through it takes a fifth of the time
    engine.start()
    beside = [asyncio.create_task(heartbeat.run()), asyncio.create_task(service.keep_house())]
    told = f"loading; {checkpoint.source.told}" if checkpoint.source.told else "loading"
    told += f"; compiles: {checkpoint.facts.compile}" if checkpoint.facts.compile else ""
    print(
        f"sd-worker-{device.backend} {__version__}: {checkpoint.facts.id} on {device.name}, {url} ({told})",
        file=sys.stderr,
        flush=True,
    )
    await server.serve(sockets=[listener])
    stopped = await asyncio.to_thread(engine.stop, STOP_ENGINE_S)
    for task in beside:
        task.cancel()
    await heartbeat.tell_last(LAST_WORD_S)
    if tracing is not None:
        tracing.close(LAST_SPANS_S)
    for failure in failures:
        detail = failure.detail if isinstance(failure, WorkerError) else type(failure).__name__
        print(f"sd-worker-{device.backend}: the engine failed: {detail}", file=sys.stderr)
    status = 1 if failures else 0
    if not stopped:
        # The engine's thread is deep inside the device; Python would wait for it, or crash under it, at exit.
        sys.stderr.flush()
        os._exit(status)
    return status
