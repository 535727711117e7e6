"""Tokens: what is open without one, and that nothing else is."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Iterator

import httpx
import pytest

from tests.serving import PROMPT, WAIT_S, ServedWorker

TOKENS = ["secret-one", "secret-two-ü"]
CLOSED = ["/v1/jobs", "/v1/jobs/x", "/v1/jobs/x/stream", "/v1/jobs/x/images/0", "/v1/info", "/docs", "/redoc"]
CLOSED += [
    "/openapi.json",
    "/health/",
    "/ready/x",
    "/metrics/../v1/info",
    "/HEALTH",
    "/nowhere",
    "/%2Fhealth",
    "/index.html",
    "/assets",
    "/assets/",
    "/assets/x.js",
    "/assets/../v1/info",
    "/assets/..%2Fv1%2Finfo",
]


@pytest.fixture(scope="module")
def guarded(leaving: list[ServedWorker]) -> Iterator[ServedWorker]:
    worker = ServedWorker(tokens=TOKENS)
    yield worker
    worker.leave()
    leaving.append(worker)


def raw(worker: ServedWorker, request: str) -> int:
    """The status of a request that is sent exactly so."""
    with socket.create_connection(("127.0.0.1", worker.port), timeout=10) as connection:
        connection.sendall(request.replace("\n", "\r\n").encode())
        return int(connection.makefile("rb").readline().split()[1])


@pytest.mark.parametrize("path", ["/health", "/ready", "/metrics"])
def test_probes_and_metrics_are_open(guarded: ServedWorker, path: str) -> None:
    assert guarded.client.get(path).status_code == 200


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE", "X"])
def test_everything_else_is_closed_for_every_method(guarded: ServedWorker, method: str) -> None:
    for path in CLOSED:
        response = guarded.client.request(method, path)
        assert response.status_code == 401, path
        assert response.headers["www-authenticate"] == "Bearer"
        if method != "HEAD":
            assert response.json()["code"] == "unauthorized"


def test_the_studios_page_is_open_since_it_cannot_bring_a_token_before_it_is_loaded(guarded: ServedWorker) -> None:
    page = guarded.client.get("/")
    assert page.status_code == 200
    loaded = re.findall(r'(?:src|href)="(/[^"]+)"', page.text)
    assert len(loaded) >= 3
    for path in loaded:
        assert guarded.client.get(path).status_code == 200, path
        assert guarded.client.get(f"{path}/").status_code == 401
        assert guarded.client.get(path.upper()).status_code == 401


def test_a_refused_post_starts_nothing(guarded: ServedWorker) -> None:
    assert guarded.try_post().status_code == 401
    listed = guarded.client.get("/v1/jobs", headers={"Authorization": f"Bearer {TOKENS[0]}"})
    assert listed.json()["jobs"] == []


@pytest.mark.parametrize("token", TOKENS)
def test_each_token_opens(guarded: ServedWorker, token: str) -> None:
    for value in (f"Bearer {token}", f"bearer {token}"):
        assert guarded.client.get("/v1/info", headers={"Authorization": value.encode()}).status_code == 200


@pytest.mark.parametrize(
    "value",
    [
        "",
        "Bearer",
        "Bearer wrong",
        "Basic secret-one",
        "secret-one",
        "Bearer secret-one,secret-two",
        "Bearer secret-on",
    ],
)
def test_nothing_else_opens(guarded: ServedWorker, value: str) -> None:
    assert guarded.client.get("/v1/info", headers={"Authorization": value}).status_code == 401


def test_the_token_goes_by_header_alone(guarded: ServedWorker) -> None:
    assert guarded.client.get(f"/v1/info?token={TOKENS[0]}&access_token={TOKENS[0]}").status_code == 401


@pytest.mark.parametrize("host", ["x/health?", "127.0.0.1/health", "health", "[::1", "/metrics#", ""])
def test_a_host_header_opens_nothing(guarded: ServedWorker, host: str) -> None:
    assert raw(guarded, f"GET /v1/info HTTP/1.1\nHost: {host}\n\n") in (400, 401)


@pytest.mark.parametrize(
    "target",
    [
        *("http://x/health/../v1/info", "/v1/info?/health", "/v1/info#/health", "/health%2F..%2Fv1%2Finfo", "*"),
        *("http://x/v1/info", "http://health/v1/info", "http://x/health/", "http://x//health", "http:///health"),
        *("http://x/v1/info?http://x/health", "http://health:1@x/v1/info", "http://x/%2Fhealth"),
        *("//", "//health", "/./v1/info", "/assets/../v1/info", "//v1/info"),
    ],
)
def test_a_crooked_target_opens_nothing(guarded: ServedWorker, target: str) -> None:
    assert raw(guarded, f"GET {target} HTTP/1.1\nHost: x\n\n") in (400, 401)


def test_a_target_that_names_the_host_is_judged_by_its_path(guarded: ServedWorker, instant: ServedWorker) -> None:
    assert raw(guarded, "GET http://x/health HTTP/1.1\nHost: x\n\n") == 200
    assert raw(guarded, f"GET http://x/v1/info HTTP/1.1\nHost: x\nAuthorization: Bearer {TOKENS[0]}\n\n") == 200
    post = "POST http://127.0.0.1/v1/jobs HTTP/1.1\nHost: x\nSec-Fetch-Site: cross-site\nContent-Length: 0\n\n"
    assert raw(instant, post) == 403


def test_with_the_token_everything_works(guarded: ServedWorker) -> None:
    headers = {"Authorization": f"Bearer {TOKENS[0]}"}
    with httpx.Client(base_url=guarded.url, headers=headers, timeout=WAIT_S, trust_env=False) as client:
        job = client.post("/v1/jobs", json={"prompt": PROMPT}).json()
        assert "event: completed" in client.get(job["sse_url"]).text
        assert client.get(f"/v1/jobs/{job['job_id']}/images/0").status_code == 200


def test_without_tokens_everything_is_open(instant: ServedWorker) -> None:
    assert instant.client.get("/v1/info").status_code == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 202),
        ({"Sec-Fetch-Site": "same-origin", "Origin": "http://127.0.0.1"}, 202),
        ({"Sec-Fetch-Site": "none"}, 202),
        ({"Sec-Fetch-Site": "cross-site", "Origin": "http://evil.example"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site", "Origin": "http://127.0.0.1:3000"}, 403),
    ],
)
def test_pages_from_elsewhere_change_nothing_where_there_is_no_token(
    instant: ServedWorker, headers: dict[str, str], status: int
) -> None:
    response = instant.client.post("/v1/jobs", json={"prompt": "x"}, headers=headers)
    assert response.status_code == status
    assert instant.client.get("/v1/jobs", headers=headers).status_code == 200
    if status == 403:
        assert response.json()["code"] == "cross_site"


def test_but_for_those_that_are_named_or_bring_a_token(serve: Callable[..., ServedWorker]) -> None:
    headers = {"Sec-Fetch-Site": "cross-site", "Origin": "https://studio.example"}
    named = serve(cors_origins=("https://studio.example",))
    for site in ("cross-site", "same-site"):
        posted = named.client.post("/v1/jobs", json={"prompt": "x"}, headers=headers | {"Sec-Fetch-Site": site})
        assert posted.status_code == 202
    other = headers | {"Origin": "https://evil.example"}
    assert named.client.post("/v1/jobs", json={"prompt": "x"}, headers=other).status_code == 403
    guarded = serve(tokens=("secret",))
    token = {"Authorization": "Bearer secret"}
    assert guarded.client.post("/v1/jobs", json={"prompt": "x"}, headers=headers | token).status_code == 202
