"""A whole worker on a real port of 127.0.0.1, with a fake runner in place of the model.

`serve` is the wiring of `worker.serving` with everything passed in; `ServedWorker` runs it in a thread and has
an httpx client and the few verbs that tests need.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import json
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx

from shared_worker.auth import Tokens
from shared_worker.contract import MemoryInfo, QueueInfo, WorkerInfo, WorkerStatus
from tests.fakes import FACTS, LIMITS, Instant
from worker.app import create_app
from worker.engine.engine import Engine
from worker.engine.rows import RowLimit
from worker.jobs.events import Event
from worker.jobs.facts import Limits, ModelFacts
from worker.jobs.job import Job
from worker.jobs.journal import Journal, NoJournal
from worker.jobs.queue import JobQueue
from worker.jobs.service import JobService
from worker.metrics import Metrics
from worker.server import Server, make_server
from worker.tracing import Tracing

PROMPT = "a red circle, whispered"
LEAKS = ("Traceback", "/srv", str(Path(__file__).parents[1]), "site-packages", "0x", "red circle")
"""What no refusal may hold: traces, paths, addresses, the prompt."""
ENDINGS = ("completed", "failed", "cancelled")
WAIT_S = 15.0
"""For anything that should come at once; long, because the machine may be busy."""


@dataclass(frozen=True)
class SseEvent:
    """One event of a stream as it came over the wire."""

    id: int
    name: str
    data: dict[str, Any]


@dataclass
class Parts:
    """What a running worker is made of."""

    engine: Engine[Any]
    service: JobService
    server: Server
    failures: list[BaseException] = field(default_factory=list)


async def serve(
    runner: Instant,
    listener: socket.socket,
    *,
    limits: Limits = LIMITS,
    max_rows: int = 16,
    facts: ModelFacts = FACTS,
    tokens: Iterable[str] = (),
    drain_s: float = 0.0,
    linger_s: float = 0.0,
    stop_s: float = 1.0,
    ping_s: float = 15.0,
    stall_s: float = 10.0,
    receive_s: float = 10.0,
    journal: Journal | None = None,
    metrics_auth: bool = False,
    cors_origins: Sequence[str] = (),
    tracing: Tracing | None = None,
    sdapi: bool = False,
    on_built: Callable[[Parts], None] = lambda parts: None,
    on_ready: Callable[[], None] = lambda: None,
) -> int:
    """Serve until shut down; the exit status, as `worker.serving` has it."""
    loop = asyncio.get_running_loop()
    journal = journal or NoJournal()
    metrics = Metrics()
    metrics.watch(lambda: max_rows, lambda: (1000, None))
    failures: list[BaseException] = []

    def on_events(events: Sequence[tuple[str, Event]]) -> None:
        with contextlib.suppress(RuntimeError):  # an engine that hung may come back when the loop is closed
            loop.call_soon_threadsafe(service.receive, events)

    def on_stop(reason: BaseException | None) -> None:
        if reason is not None:
            failures.append(reason)

    engine: Engine[Any] = Engine(
        lambda: runner,
        JobQueue(limits.queue_capacity),
        on_events,
        metrics,
        model_id=facts.id,
        rows=RowLimit(max_rows),
        rows_under_way=0,
        welcome_share=0.0,
        keep_images=journal.keep_images,
        on_ready=on_ready,
        on_stop=on_stop,
    )

    def on_recorded(job: Job, event: Event) -> None:
        metrics.recorded(job, event)
        if tracing is not None:
            tracing.recorded(job, event)

    service = JobService(engine, limits, on_recorded, journal)

    async def drain() -> None:
        await service.drain(drain_s)
        await asyncio.sleep(linger_s)

    def worker_info() -> WorkerInfo:
        snapshot = engine.snapshot()
        return WorkerInfo(
            id="test",
            instance_id="0",
            url="http://test",
            model_id=facts.id,
            backend="cpu",
            device="fake",
            status=WorkerStatus.READY,
            implementation="sd-worker",
            version="0",
            tasks=[task.value for task in facts.tasks],
            queue=QueueInfo(
                waiting=len(snapshot.waiting), running=snapshot.running, capacity=limits.queue_capacity, eta_s=None
            ),
            memory=MemoryInfo(total_bytes=None, used_bytes=None),
        )

    app = create_app(
        service,
        facts,
        metrics,
        worker_info,
        Tokens(tokens),
        5.0,
        ping_s,
        metrics_auth=metrics_auth,
        cors_origins=cors_origins,
        tracer_provider=None if tracing is None else tracing.provider,
        sdapi=sdapi,
    )
    server = make_server(app, drain, service.hurry, receive_s, stall_s)
    service.restore(journal.restore(), facts.id)
    engine.start()
    on_built(Parts(engine, service, server, failures))
    keeping_house = asyncio.create_task(service.keep_house())
    await server.serve(sockets=[listener])
    keeping_house.cancel()
    await service.drain(0.0)
    await asyncio.to_thread(engine.stop, stop_s)
    return 1 if failures else 0


def listen() -> socket.socket:
    """A listening socket on a free port; clients may connect before anybody accepts."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=512)
    listener.setblocking(False)
    return listener


class ServedWorker:
    """A worker in a thread. `leave` lets go of everything the runner holds back."""

    def __init__(self, runner: Instant | None = None, *, wait_ready: bool = True, **settings: Any) -> None:
        self.runner = runner or Instant()
        listener = listen()
        self.port: int = listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.client = self.new_client()
        self.status: int | None = None
        self._error: BaseException | None = None
        self._built, self._ready = threading.Event(), threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

        def built(parts: Parts) -> None:
            self._loop, self._parts = asyncio.get_running_loop(), parts
            self._built.set()

        def run() -> None:
            try:
                self.status = asyncio.run(
                    serve(self.runner, listener, on_built=built, on_ready=self._ready.set, **settings)
                )
            except BaseException as error:
                self._error = error

        self._thread = threading.Thread(target=run, name="served worker", daemon=True)
        self._thread.start()
        assert self._built.wait(WAIT_S), self._error
        if wait_ready:
            assert self._ready.wait(WAIT_S), "the runner was not loaded"

    @property
    def engine(self) -> Engine[Any]:
        return self._parts.engine

    @property
    def service(self) -> JobService:
        """Lives on the server's loop: read it through `on_loop`."""
        return self._parts.service

    def connections(self) -> int:
        """How many connections are open."""
        return len(self._parts.server.server_state.connections)

    def on_loop(self, function: Callable[[], Any]) -> Any:
        """The result of `function`, called on the server's event loop."""
        assert self._loop is not None
        done: concurrent.futures.Future[Any] = concurrent.futures.Future()

        def call() -> None:
            try:
                done.set_result(function())
            except BaseException as error:
                done.set_exception(error)

        self._loop.call_soon_threadsafe(call)
        return done.result(WAIT_S)

    def begin_shutdown(self) -> None:
        """What a SIGTERM does."""
        self.on_loop(self._parts.server.begin_shutdown)

    def wait_stopped(self) -> int:
        """The exit status, once the worker has stopped by itself."""
        self._thread.join(WAIT_S)
        assert not self._thread.is_alive(), "the worker did not stop"
        if self._error is not None:
            raise self._error
        assert self.status is not None
        return self.status

    def leave(self) -> None:
        """Begin to stop, whatever is going on; `wait_stopped` tells whether it went well."""
        self.client.close()
        self.runner.allow_all()
        assert self._loop is not None
        with contextlib.suppress(RuntimeError):  # it has stopped by itself
            self._loop.call_soon_threadsafe(self._parts.server.begin_shutdown)

    # What clients do.

    def new_client(self) -> httpx.Client:
        """A client that looks at every refusal it gets."""
        return httpx.Client(
            base_url=self.url, timeout=WAIT_S, trust_env=False, event_hooks={"response": [check_refusal]}
        )

    def try_post(self, body: Any = None, headers: dict[str, str] | None = None, **fields: Any) -> httpx.Response:
        """Post a usual job with `fields` changed, or `body` instead."""
        return self.client.post("/v1/jobs", json={"prompt": PROMPT} | fields if body is None else body, headers=headers)

    def post(self, **fields: Any) -> dict[str, Any]:
        """Post a job that must be accepted."""
        response = self.try_post(**fields)
        assert response.status_code == 202, response.text
        job: dict[str, Any] = response.json()
        return job

    def job(self, job_id: str) -> dict[str, Any]:
        """The job as it stands now."""
        response = self.client.get(f"/v1/jobs/{job_id}")
        assert response.status_code == 200, response.text
        job: dict[str, Any] = response.json()
        return job

    def known(self, job_id: str) -> Job:
        """The server's own job."""
        job: Job = self.on_loop(lambda: self.service.store.get(job_id))
        return job

    def stream(self, job_id: str, after: int | None = None) -> list[SseEvent]:
        """The events of a job until the stream ends."""
        headers = {} if after is None else {"Last-Event-ID": str(after)}
        with self.client.stream("GET", f"/v1/jobs/{job_id}/stream", headers=headers) as response:
            assert response.status_code == 200, response.read()
            return list(events_of(response))

    def finish(self, **fields: Any) -> dict[str, Any]:
        """Post a job and return it once it has ended."""
        job_id = self.post(**fields)["job_id"]
        self.stream(job_id)
        return self.job(job_id)


def check_refusal(response: httpx.Response) -> None:
    """Every refusal is a problem with its exact fields and without a word too many."""
    probe = response.request.url.path in ("/health", "/ready")
    if response.status_code < 400 or response.request.method == "HEAD" or probe:
        return
    text = response.read().decode()
    assert response.headers["content-type"] == "application/problem+json", text
    problem = response.json()
    assert set(problem) == {"type", "title", "status", "detail", "code", "errors"}
    assert problem["status"] == response.status_code < 500 or problem["status"] == 503, text
    assert all(set(error) == {"field", "message"} for error in problem["errors"])
    assert not [leak for leak in LEAKS if leak in text], text


def events_of(response: httpx.Response) -> Iterator[SseEvent]:
    """Parse a stream strictly: every event has exactly one id, one event and one data line, in this order."""
    lines: list[str] = []
    for line in response.iter_lines():
        if line.startswith((":", "retry: ")):
            continue
        if line:
            lines.append(line)
        elif lines:
            yield parse_event(lines)
            lines = []
    assert not lines, f"the stream broke off inside an event: {lines}"


def parse_event(lines: list[str]) -> SseEvent:
    """One event of exactly three fields."""
    names = [line.partition(": ")[0] for line in lines]
    assert names == ["id", "event", "data"], lines
    number, name, data = (line.partition(": ")[2] for line in lines)
    return SseEvent(int(number), name, json.loads(data))


def smaller(**changes: Any) -> Limits:
    """The tests' limits, some of them changed."""
    return replace(LIMITS, **changes)
