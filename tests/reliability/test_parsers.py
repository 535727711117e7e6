"""Whatever is sent, a parser takes it, and it can be written down and read back, or refuses it in its own words."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fakes import FACTS, LIMITS
from tests.reliability.conftest import Report
from tests.serving import ServedWorker
from worker.api.body import JobRequest, parse_job
from worker.errors import RequestError
from worker.state.codec import read_params, write_params

MARK = "a red circle, whispered"
"""What no answer repeats."""
texts = st.text(max_size=30) | st.sampled_from(
    ["", "\x00", "\r\n\r\n", MARK, "euler", "png", "high", "1e400", "x" * 5000]
)
numbers = st.integers() | st.floats() | st.sampled_from([0, 1, 64, 2**63 - 1, 2**63, -0.0, 10**400])
values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)
names = st.sampled_from([*JobRequest.model_fields, "image", "mask", "strength", "loras", "every", "quality"]) | texts
bodies = st.dictionaries(names, values, max_size=8)
likely = st.fixed_dictionaries(
    {"prompt": st.just(MARK)},
    optional={
        "steps": st.integers(0, 151),
        "width": st.sampled_from([64, 96, 100, 4096]),
        "guidance_scale": st.floats(-1, 31),
        "seed": st.integers(-1, 2**63),
        "num_images": st.integers(0, 9),
        "labels": st.dictionaries(texts, texts, max_size=9),
        "preview": st.none() | st.fixed_dictionaries({}, optional={"every": st.integers(0, 5), "size": values}),
        "negative_prompt": st.none() | texts,
        "timeout_s": st.floats(),
    },
)
headers = st.text(st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f"), max_size=60)


@pytest.mark.guard(1200)
def test_bodies(report: Report) -> None:
    seen: Counter[str] = Counter()

    def take(body: bytes) -> None:
        try:
            params = parse_job(body, FACTS, LIMITS)
        except RequestError as refused:
            seen[refused.code] += 1
            told = json.dumps([refused.detail, *((fault.field, fault.message) for fault in refused.errors)])
            assert MARK not in told
            assert len(told) < 20_000
        else:
            seen["taken"] += 1
            assert read_params(write_params(params)) == params

    @given(bodies)
    def any_object(body: dict[str, Any]) -> None:
        take(json.dumps(body).encode())

    @given(likely)
    def nearly_right(body: dict[str, Any]) -> None:
        take(json.dumps(body).encode())

    @given(likely, st.data())
    def broken_off(body: dict[str, Any], data: st.DataObject) -> None:
        whole = json.dumps(body).encode()
        start = data.draw(st.integers(0, len(whole)))
        take(whole[:start] + data.draw(st.binary(max_size=8)) + whole[data.draw(st.integers(start, len(whole))) :])

    @given(values.map(json.dumps).map(str.encode) | st.binary(max_size=200))
    def anything(body: bytes) -> None:
        take(body)

    for trial in (any_object, nearly_right, broken_off, anything):
        trial()
    told = ", ".join(f"{count} {name}" for name, count in sorted(seen.items()))
    report.add("Hostile input", "bodies are taken or refused in words of our own", f"{seen.total()} bodies", told)
    assert seen["taken"]
    assert seen["invalid_request"]
    assert seen["malformed"]


@pytest.mark.guard(1200)
def test_headers(report: Report, instant: ServedWorker) -> None:
    job_id = instant.post(steps=1)["job_id"]
    instant.stream(job_id)
    asked = (
        ("GET", f"/v1/jobs/{job_id}/stream", "Last-Event-ID"),
        ("GET", f"/v1/jobs/{job_id}/images/0", "Range"),
        ("GET", f"/v1/jobs/{job_id}/images/0", "If-None-Match"),
        ("POST", "/v1/jobs", "traceparent"),
        ("POST", "/v1/jobs", "Idempotency-Key"),
        ("POST", "/v1/jobs", "Content-Type"),
        ("GET", "/v1/info", "Authorization"),
        ("GET", "/v1/info", "Host"),
    )
    forms = st.from_regex(r"(bytes=)?[0-9]{0,20}-?[0-9]{0,20}") | st.from_regex(r"[0-9a-f]{2}-[0-9a-f]{32}-.{0,20}")
    seen: Counter[int] = Counter()

    @given(st.sampled_from(asked), headers | forms.filter(lambda text: text.isascii() and text.isprintable()))
    def ask(what: tuple[str, str, str], value: str) -> None:
        method, path, name = what
        sent = {b"content-type": b"application/json", name.lower().encode(): value.strip().encode("latin-1")}
        response = instant.client.request(method, path, headers=sent, content=b'{"prompt": "x", "steps": 1}')
        seen[response.status_code] += 1
        assert response.status_code < 500

    ask()
    told = ", ".join(f"{count} x {status}" for status, count in sorted(seen.items()))
    report.add("Hostile input", "headers are understood or refused", f"{seen.total()} values of {len(asked)}", told)
