"""Headers that protect browsers, other origins, traces, and metrics behind the token."""

from __future__ import annotations

from collections.abc import Callable

import httpx
import pytest

from shared_worker.auth import Tokens
from shared_worker.contract import WorkerInfo
from tests.fakes import FACTS, LIMITS, SECRET
from tests.jobs.test_service import Scripted
from tests.serving import ServedWorker
from worker.api.headers import EVERYWHERE, NOTHING
from worker.app import create_app
from worker.jobs.service import JobService
from worker.metrics import Metrics

TRACE = "0af7651916cd43dd8448eb211c80319c"
SPAN = "b7ad6b7169203331"
ORIGIN = "https://studio.example"
Serve = Callable[..., ServedWorker]


@pytest.mark.parametrize("path", ["/health", "/v1/info", "/v1/jobs", "/nowhere", "/metrics", "/openapi.json"])
def test_every_answer_says_how_it_may_be_used(instant: ServedWorker, path: str) -> None:
    headers = instant.client.get(path).headers
    assert {name: headers[name] for name in EVERYWHERE} == EVERYWHERE
    assert headers["content-security-policy"] == NOTHING
    assert headers["cache-control"] == "no-store"


def test_what_a_route_says_itself_stays(instant: ServedWorker) -> None:
    job = instant.finish()
    response = instant.client.get(job["images"][0]["url"])
    assert "immutable" in response.headers["cache-control"]
    with instant.client.stream("GET", job["sse_url"]) as stream:
        assert stream.headers["cache-control"] == "no-store"
        assert stream.headers["x-accel-buffering"] == "no"


def test_pages_may_load_what_they_need(instant: ServedWorker) -> None:
    assert "content-security-policy" not in instant.client.get("/docs").headers


def preflight(worker: ServedWorker, origin: str) -> httpx.Response:
    asked = {"Origin": origin, "Access-Control-Request-Method": "POST"}
    asked["Access-Control-Request-Headers"] = "authorization, content-type, idempotency-key"
    return worker.client.options("/v1/jobs", headers=asked)


def test_other_origins_are_kept_out_by_default(instant: ServedWorker) -> None:
    assert preflight(instant, ORIGIN).status_code == 405
    assert "access-control-allow-origin" not in instant.client.get("/health", headers={"Origin": ORIGIN}).headers


def test_an_origin_that_is_named_may_come_in_and_no_other(serve: Serve) -> None:
    worker = serve(cors_origins=[ORIGIN], tokens=["secret"])
    let_in = preflight(worker, ORIGIN)
    assert let_in.status_code == 200
    assert let_in.headers["access-control-allow-origin"] == ORIGIN
    evil = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    refused = httpx.options(f"{worker.url}/v1/jobs", headers=evil, trust_env=False)  # what it says, no page may read
    assert refused.status_code == 400
    assert "access-control-allow-origin" not in refused.headers
    without_token = worker.client.get("/v1/info", headers={"Origin": ORIGIN})
    assert without_token.status_code == 401
    assert without_token.headers["access-control-allow-origin"] == ORIGIN
    assert "cross-origin-resource-policy" not in without_token.headers


def test_a_page_of_an_origin_that_is_named_reads_every_header_and_asks_by_every_method(serve: Serve) -> None:
    worker = serve(cors_origins=[ORIGIN])
    for method in ("GET", "HEAD", "POST", "DELETE"):
        asked = {"Origin": ORIGIN, "Access-Control-Request-Method": method}
        asked["Access-Control-Request-Headers"] = "authorization"
        assert worker.client.options("/v1/jobs/x/images/0", headers=asked).status_code == 200
    job = worker.finish()
    part = {"Origin": ORIGIN, "Range": "bytes=0-9"}
    answers = [
        worker.client.get(job["images"][0]["url"], headers=part),
        worker.client.post("/v1/images/generations", json={"prompt": "x"}, headers={"Origin": ORIGIN}),
        worker.try_post(headers={"Origin": ORIGIN}),
    ]
    readable = {"cache-control", "content-language", "content-length", "content-type", "expires", "last-modified"}
    of_transport = {"date", "vary", "access-control-allow-origin", "access-control-expose-headers"}
    for answer in answers:
        exposed = set(answer.headers["access-control-expose-headers"].lower().split(", "))
        others = {name.lower() for name in EVERYWHERE} | {"content-security-policy"} | readable | of_transport
        assert set(answer.headers) - others <= exposed
        assert {"x-should-retry", "retry-after"} <= exposed


async def test_the_unforeseen_has_the_headers_of_every_answer() -> None:
    def fail() -> WorkerInfo:
        raise RuntimeError(SECRET)

    service = JobService(Scripted(), LIMITS)
    app = create_app(service, FACTS, Metrics(), fail, Tokens(()), 5.0, cors_origins=[ORIGIN])
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://worker") as client:
        answer = await client.get("/v1/info", headers={"Origin": ORIGIN})
    assert (answer.status_code, answer.json()["code"]) == (500, "internal_error")
    assert answer.headers["access-control-allow-origin"] == ORIGIN
    assert (answer.headers["cache-control"], answer.headers["x-content-type-options"]) == ("no-store", "nosniff")
    assert SECRET not in answer.text


def test_a_trace_goes_on_from_the_post(instant: ServedWorker) -> None:
    response = instant.try_post(headers={"traceparent": f"00-{TRACE}-{SPAN}-01"})
    version, trace_id, span, flags = response.headers["traceparent"].split("-")
    assert (version, trace_id, flags) == ("00", TRACE, "01")
    assert len(span) == 16
    assert span != SPAN
    assert instant.known(response.json()["job_id"]).trace_id == TRACE


@pytest.mark.parametrize(
    "value",
    [
        "",
        "nonsense",
        f"00-{TRACE}-{SPAN}",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"ff-{TRACE}-{SPAN}-01",
    ],
)
def test_a_trace_that_is_none_is_passed_over(instant: ServedWorker, value: str) -> None:
    response = instant.try_post(headers={"traceparent": value})
    assert response.status_code == 202
    assert "traceparent" not in response.headers
    assert instant.known(response.json()["job_id"]).trace_id is None


def test_metrics_can_be_guarded_too(serve: Serve) -> None:
    worker = serve(tokens=["secret"], metrics_auth=True)
    assert worker.client.get("/metrics").status_code == 401
    assert worker.client.get("/metrics", headers={"Authorization": "Bearer secret"}).status_code == 200
    assert worker.client.get("/health").status_code == 200
