"""The door: probes are answered as the application will, all else is held until it is there, and nothing is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from tests.fakes import LoadsWhenTold
from tests.serving import WAIT_S, ServedWorker
from worker.door import Door
from worker.server import listen, make_server

Serve = Callable[..., ServedWorker]


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    request = Request(scope, receive)
    body = (await request.body()).decode()
    await PlainTextResponse(f"{request.method} {request.url.path} {body}")(scope, receive, send)


def client_of(door: Door) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(door), base_url="http://worker")


async def held(*requests: asyncio.Task[httpx.Response]) -> bool:
    """Whether all of them still wait after everything that could go on has gone on."""
    for _ in range(100):
        await asyncio.sleep(0)
    return not any(request.done() for request in requests)


@pytest.mark.parametrize("cors", [(), ("https://studio.example",)])
@pytest.mark.parametrize("path", ["/health", "/ready"])
async def test_probes_are_answered_as_by_a_worker_that_loads(serve: Serve, path: str, cors: tuple[str, ...]) -> None:
    worker = serve(LoadsWhenTold(), wait_ready=False, cors_origins=cors)
    expected = worker.client.get(path)
    async with client_of(Door(other_origins=bool(cors))) as client:
        found = await client.get(path)
    at_first = expected.content.replace(b'"progress":0.25', b'"progress":0.0')  # what that worker has loaded
    assert (found.status_code, found.content) == (expected.status_code, at_first)
    ours, theirs = dict(found.headers), dict(expected.headers)
    for headers in (ours, theirs):
        del headers["content-length"]
    assert {name: theirs[name] for name in ours} == ours
    # The server adds the one; the other is for caches, and nothing here may be stored.
    assert theirs.keys() - ours.keys() == {"date", *(["vary"] if cors else [])}


async def test_what_is_held_goes_on_with_all_that_it_brought() -> None:
    door = Door(other_origins=False)
    async with client_of(door) as client:
        posts = [asyncio.create_task(client.post("/v1/jobs", content=f"job {n}")) for n in range(3)]
        info = asyncio.create_task(client.get("/v1/info"))
        assert await held(*posts, info)
        assert (await client.get("/health")).json() == {"status": "healthy"}
        door.open(echo)
        assert [(await post).text for post in posts] == [f"POST /v1/jobs job {n}" for n in range(3)]
        assert (await info).text == "GET /v1/info "
        assert (await client.get("/health")).text == "GET /health ", "probes too are the application's now"


@pytest.mark.parametrize(
    ("method", "headers"), [("HEAD", {}), ("POST", {}), ("OPTIONS", {}), ("GET", {"Origin": "https://studio.example"})]
)
async def test_a_probe_that_the_application_must_answer_is_held(method: str, headers: dict[str, str]) -> None:
    door = Door(other_origins=False)
    async with client_of(door) as client:
        asked = asyncio.create_task(client.request(method, "/ready", headers=headers))
        assert await held(asked)
        door.open(echo)
        assert (await asked).status_code == 200


async def test_whoever_left_while_held_keeps_nobody_waiting() -> None:
    door, held_now, gone = Door(other_origins=False), asyncio.Event(), asyncio.Event()

    async def watched(scope: Scope, receive: Receive, send: Send) -> None:
        held_now.set()
        await door(scope, receive, send)
        gone.set()

    async def wait_for_the_end(scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    server = make_server(watched, lambda: asyncio.sleep(0), lambda: None)
    listener = listen("127.0.0.1", 0)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    _, writer = await asyncio.open_connection(*listener.getsockname())
    writer.write(b"GET /v1/info HTTP/1.1\r\nHost: test\r\n\r\n")
    await held_now.wait()
    writer.close()
    await writer.wait_closed()
    door.open(wait_for_the_end)
    await asyncio.wait_for(gone.wait(), WAIT_S)
    server.should_exit = True
    await serving


@pytest.mark.parametrize(
    ("failed", "code", "reason"), [(False, "draining", "draining"), (True, "worker_failed", "failed")]
)
async def test_once_it_is_closed_every_call_is_refused_and_probes_say_why(failed: bool, code: str, reason: str) -> None:
    door = Door(other_origins=False)
    async with client_of(door) as client:
        post = asyncio.create_task(client.post("/v1/jobs", content="{}"))
        assert await held(post)
        door.close(failed=failed)
        for refused in (await post, await client.get("/v1/info")):
            assert (refused.status_code, refused.json()["code"]) == (503, code)
            assert refused.headers["content-type"] == "application/problem+json"
            assert refused.headers["x-content-type-options"] == "nosniff"
        health, ready = await client.get("/health"), await client.get("/ready")
        assert (health.status_code, health.json()["status"]) == ((503, "unhealthy") if failed else (200, "healthy"))
        assert (ready.status_code, ready.json()) == (503, {"ready": False, "reason": reason})
