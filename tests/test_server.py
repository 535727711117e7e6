"""Shutdown: every open stream gets its ending, probes tell the truth, and the process goes in time."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from shared_worker.auth import Tokens
from shared_worker.contract import WorkerInfo
from tests.conftest import eventually
from tests.fakes import FACTS, LIMITS, LoadsWhenTold, NeverEnds, StepByStep
from tests.jobs.test_service import Scripted
from tests.serving import PROMPT, WAIT_S, ServedWorker, SseEvent, events_of
from worker.app import create_app
from worker.door import Door
from worker.jobs.service import JobService
from worker.metrics import Metrics
from worker.server import KEEP_ALIVE_S, listen, make_server

Serve = Callable[..., ServedWorker]


@contextlib.contextmanager
def reading(worker: ServedWorker, job_id: str) -> Iterator[Iterator[SseEvent]]:
    with worker.new_client() as client, client.stream("GET", f"/v1/jobs/{job_id}/stream") as response:
        yield events_of(response)


def test_what_runs_may_finish_and_what_waits_is_cancelled_at_once(serve: Serve) -> None:
    worker = serve(StepByStep(), max_rows=2, drain_s=30.0)
    running = worker.post()["job_id"]
    worker.runner.wait_for_calls(1)
    waiting = worker.try_post(headers={"Idempotency-Key": "w"}).json()["job_id"]
    with reading(worker, running) as of_running, reading(worker, waiting) as of_waiting:
        assert next(of_running).name == next(of_waiting).name == "queued"
        worker.begin_shutdown()
        ending = list(of_waiting)[-1]
        assert (ending.name, ending.data["reason"]) == ("cancelled", "shutdown")

        # The running job goes on meanwhile, and the server answers.
        ready = worker.client.get("/ready")
        assert (ready.status_code, ready.json()) == (503, {"ready": False, "reason": "draining"})
        assert worker.client.get("/health").status_code == 200
        refused = worker.try_post()
        assert (refused.status_code, refused.json()["code"]) == (503, "draining")
        assert int(refused.headers["retry-after"]) > 0
        assert worker.job(running)["status"] == "running"
        assert worker.job(waiting)["status"] == "cancelled"
        assert worker.try_post(headers={"Idempotency-Key": "w"}).status_code == 200
        assert worker.stream(waiting)[-1].name == "cancelled"

        worker.runner.allow_all()
        assert list(of_running)[-1].name == "completed"
    assert worker.wait_stopped() == 0


def test_what_does_not_finish_in_time_is_cancelled(serve: Serve) -> None:
    worker = serve(StepByStep(), drain_s=0.1)
    job_id = worker.post(steps=100)["job_id"]
    with reading(worker, job_id) as events:
        worker.runner.wait_for_calls(1)
        worker.begin_shutdown()
        eventually(lambda: worker.known(job_id).cancel_reason is not None)
        worker.runner.allow(1)
        ending = list(events)[-1]
    assert (ending.name, ending.data["reason"]) == ("cancelled", "shutdown")
    assert worker.wait_stopped() == 0
    assert len(worker.runner.calls) == 1


def test_a_model_call_that_never_returns_holds_up_no_stream_and_no_exit(serve: Serve) -> None:
    worker = serve(NeverEnds(), drain_s=0.1)
    with reading(worker, worker.post()["job_id"]) as events:
        worker.runner.wait_for_calls(1)
        worker.begin_shutdown()
        ending = list(events)[-1]
    assert (ending.name, ending.data["reason"]) == ("cancelled", "shutdown")
    assert worker.wait_stopped() == 0


def test_a_second_signal_cuts_the_drain_short_and_streams_still_get_their_ending(serve: Serve) -> None:
    worker = serve(StepByStep(), drain_s=600.0)
    job_id = worker.post(steps=100)["job_id"]
    with reading(worker, job_id) as events:
        worker.runner.wait_for_calls(1)
        worker.begin_shutdown()
        worker.begin_shutdown()
        eventually(lambda: worker.known(job_id).cancel_reason is not None)
        worker.runner.allow(1)
        ending = list(events)[-1]
    assert (ending.name, ending.data["reason"]) == ("cancelled", "shutdown")
    assert worker.wait_stopped() == 0


def test_shutdown_while_loading(serve: Serve) -> None:
    worker = serve(LoadsWhenTold(), wait_ready=False, drain_s=600.0)
    assert worker.runner.loading.wait(WAIT_S)
    with reading(worker, worker.post()["job_id"]) as events:
        next(events)
        worker.begin_shutdown()
        ending = list(events)[-1]
    assert (ending.name, ending.data["reason"]) == ("cancelled", "shutdown")
    assert worker.wait_stopped() == 0


def test_an_idle_worker_stops_at_once_whatever_its_budget(serve: Serve) -> None:
    worker = serve(drain_s=600.0)
    worker.finish()
    worker.begin_shutdown()
    assert worker.wait_stopped() == 0


def test_what_was_drawn_can_still_be_fetched_for_a_moment(serve: Serve) -> None:
    worker = serve(StepByStep(), drain_s=30.0, linger_s=5.0)
    job_id = worker.post()["job_id"]
    with reading(worker, job_id) as events:
        worker.runner.wait_for_calls(1)
        worker.begin_shutdown()
        worker.runner.allow_all()
        image = list(events)[-1].data["images"][0]
        assert len(worker.client.get(image["url"]).content) == image["bytes"]
        assert worker.stream(job_id)[-1].name == "completed"


# A process of its own, with real signals.

PROCESS = """
import asyncio, sys, threading
from tests.fakes import NeverEnds, StepByStep
from tests.serving import listen, serve, smaller

runner = {"steps": StepByStep, "hangs": NeverEnds}[sys.argv[1]]()
threading.Thread(target=lambda: [runner.allow() for line in sys.stdin], daemon=True).start()
listener = listen()
print(listener.getsockname()[1], flush=True)
sys.exit(asyncio.run(serve(runner, listener, drain_s=float(sys.argv[2]), max_rows=2)))
"""


@contextlib.contextmanager
def process(runner: str, drain_s: float) -> Iterator[tuple[subprocess.Popen[str], httpx.Client]]:
    child = subprocess.Popen(
        [sys.executable, "-c", PROCESS, runner, str(drain_s)],
        cwd=Path(__file__).parent.parent,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with child:
        try:
            assert child.stdout is not None
            url = f"http://127.0.0.1:{int(child.stdout.readline())}"
            with httpx.Client(base_url=url, timeout=WAIT_S, trust_env=False) as client:
                yield child, client
        finally:
            child.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_an_open_stream_end_with_completed(number: signal.Signals) -> None:
    with process("steps", drain_s=20.0) as (child, client):
        running = client.post("/v1/jobs", json={"prompt": PROMPT}).json()
        with client.stream("GET", running["sse_url"]) as response:
            events = events_of(response)
            assert [next(events).name for _ in range(2)] == ["queued", "started"]
            waiting = client.post("/v1/jobs", json={"prompt": PROMPT}).json()
            child.send_signal(number)
            assert "event: cancelled" in client.get(waiting["sse_url"]).text
            assert client.get("/ready").json() == {"ready": False, "reason": "draining"}
            assert child.stdin is not None
            child.stdin.write("\n" * 4)
            child.stdin.flush()
            assert list(events)[-1].name == "completed"
        assert child.wait(WAIT_S) == 0
        assert child.stderr is not None
        assert child.stderr.read() == ""


def test_sigterm_ends_a_process_whose_engine_hangs_within_its_budget() -> None:
    with process("hangs", drain_s=0.2) as (child, client):
        job = client.post("/v1/jobs", json={"prompt": PROMPT}).json()
        with client.stream("GET", job["sse_url"]) as response:
            events = events_of(response)
            assert [next(events).name for _ in range(2)] == ["queued", "started"]
            asked_at = time.monotonic()
            child.send_signal(signal.SIGTERM)
            ending = list(events)[-1]
            assert (ending.name, ending.data["reason"]) == ("cancelled", "shutdown")
        assert child.wait(WAIT_S) == 0
        # The budget, 2 s for the engine to react, 1 s for its thread to end, 2 s to close what is open.
        assert time.monotonic() - asked_at < 0.2 + 2 + 1 + 2 + 8  # the last for a busy machine


BODY = b"POST /v1/jobs HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\nContent-Length: 40\r\n\r\n"


HALVES = [b"", b"GET /health HTT", BODY[:-2], BODY, BODY + b'{"prompt": "a']
BEFORE = b"GET /health HTTP/1.1\r\nHost: test\r\n\r\n"


@pytest.mark.parametrize("sent", [*HALVES, BEFORE + BODY, BEFORE + BODY[:-2]])
def test_half_a_request_does_not_stay_open_and_a_stream_does(serve: Serve, sent: bytes) -> None:
    worker = serve(runner := StepByStep(), receive_s=1.0)
    with reading(worker, worker.post()["job_id"]) as events:
        assert next(events).name == "queued"
        with socket.create_connection(("127.0.0.1", worker.port), timeout=WAIT_S) as client:
            client.sendall(sent)
            with contextlib.suppress(ConnectionResetError):
                while client.recv(10_000):
                    pass
        runner.allow_all()
        assert list(events)[-1].name == "completed"


async def test_a_body_that_nobody_takes_yet_is_not_its_senders_delay() -> None:
    door, limit_s = Door(other_origins=False), 0.2
    sizes: list[int] = []

    async def measure(scope: Scope, receive: Receive, send: Send) -> None:
        sizes.append(len(await Request(scope, receive).body()))
        await Response()(scope, receive, send)

    async def drain() -> None: ...

    listener = listen("127.0.0.1", 0)
    server = make_server(door, drain, lambda: None, limit_s)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    reader, writer = await asyncio.open_connection(*listener.getsockname())
    writer.write(b"POST /v1/jobs HTTP/1.1\r\nHost: test\r\nContent-Length: 3000000\r\n\r\n" + bytes(3_000_000))
    await asyncio.sleep(10 * limit_s)
    door.open(measure)
    assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")
    assert sizes == [3_000_000]
    writer.close()
    server.should_exit = True
    await serving


class PutForward(asyncio.SelectorEventLoop):
    """Its clock can be put forward."""

    ahead_s = 0.0

    def time(self) -> float:
        return super().time() + self.ahead_s


class Uploading:
    """A client that sends pieces of requests, and lets time pass between them."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def send(self, data: bytes) -> None:
        """Until the server has it and has done what it can."""
        self._writer.write(data)
        for _ in range(100):
            await asyncio.sleep(0)

    def wait(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, PutForward)
        loop.ahead_s += seconds

    async def answer(self) -> tuple[int, bytes]:
        """Status and body of the next one."""
        head = (await self._reader.readuntil(b"\r\n\r\n")).lower()
        size = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
        return int(head.split()[1]), await self._reader.readexactly(size)

    async def is_closed(self) -> bool:
        return await self._reader.read(1) == b""


def over_a_slow_network(use: Callable[[Uploading], Awaitable[None]]) -> None:
    """Serve the application to one client, all on one loop."""

    async def main() -> None:
        app = create_app(JobService(Scripted(), LIMITS), FACTS, Metrics(), no_info, Tokens(()), 5.0)
        listener = listen("127.0.0.1", 0)
        server = make_server(app, drain, lambda: None)
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        reader, writer = await asyncio.open_connection(*listener.getsockname())
        await use(Uploading(reader, writer))
        writer.close()
        server.should_exit = True
        await serving

    async def drain() -> None: ...

    def no_info() -> WorkerInfo:
        raise NotImplementedError

    with asyncio.Runner(loop_factory=PutForward) as runner:
        runner.run(main())


LARGE = b"POST /v1/jobs HTTP/1.1\r\nHost: test\r\nContent-Type: %b\r\nContent-Length: 1000\r\n\r\n"


def test_a_body_that_comes_steadily_and_for_too_long_is_refused_in_words() -> None:
    async def upload(client: Uploading) -> None:
        await client.send(LARGE % b"application/json")
        for _ in range(12):
            await client.send(b" ")
            client.wait(5.0)
        await client.send(b" ")
        status, body = await client.answer()
        assert (status, json.loads(body)["code"]) == (408, "body_too_slow")
        client.wait(10.0)
        assert await client.is_closed()

    over_a_slow_network(upload)


def test_what_is_refused_before_its_body_has_come_leaves_a_connection_for_the_next_request() -> None:
    async def upload(client: Uploading) -> None:
        await client.send(LARGE % b"text/plain")
        assert (await client.answer())[0] == 415
        for _ in range(4):
            client.wait(5.0)
            await client.send(bytes(250))
        client.wait(60.0)
        await client.send(b"GET /health HTTP/1.1\r\nHost: test\r\n\r\n")
        assert (await client.answer())[0] == 200
        await client.send(LARGE % b"text/plain" + bytes(999))
        assert (await client.answer())[0] == 415
        await client.send(b"\0GET /hea")  # what follows has as long as any head
        client.wait(9.0)
        await client.send(b"lth HTTP/1.1\r\nHost: test\r\n\r\n")
        assert (await client.answer())[0] == 200
        await client.send(LARGE % b"text/plain")
        assert (await client.answer())[0] == 415
        await client.send(bytes(1000))
        client.wait(KEEP_ALIVE_S)
        assert await client.is_closed()

    over_a_slow_network(upload)


def test_a_body_that_begins_with_the_end_of_another_has_a_minute_of_its_own() -> None:
    async def upload(client: Uploading) -> None:
        await client.send(LARGE % b"text/plain")
        assert (await client.answer())[0] == 415
        for _ in range(8):
            client.wait(5.0)
            await client.send(bytes(100))
        await client.send(bytes(200) + LARGE % b"application/json" + b" ")
        for _ in range(8):
            client.wait(5.0)
            await client.send(b" ")
        await client.send(b" " * 991)
        assert (await client.answer())[0] == 400

    over_a_slow_network(upload)


async def test_a_proxy_on_another_machine_says_by_what_scheme_links_begin() -> None:
    async def tell_base_url(scope: Scope, receive: Receive, send: Send) -> None:
        await Response(str(Request(scope).base_url))(scope, receive, send)

    async def drain() -> None: ...

    config = make_server(tell_base_url, drain, lambda: None).config
    config.load()
    transport = httpx.ASGITransport(config.loaded_app, client=("192.0.2.7", 40000))
    async with httpx.AsyncClient(transport=transport, base_url="http://studio.example") as client:
        assert (await client.get("/", headers={"X-Forwarded-Proto": "https"})).text == "https://studio.example/"
        assert (await client.get("/")).text == "http://studio.example/"


def test_small_answers_are_not_held_back(serve: Serve) -> None:
    worker = serve(StepByStep())
    worker.client.get("/health")

    def delays() -> list[bool]:
        sockets = [
            connection.transport.get_extra_info("socket")
            for connection in worker._parts.server.server_state.connections
        ]
        return [not sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) for sock in sockets]

    assert worker.on_loop(delays) == [False]
