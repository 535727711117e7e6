"""What is logged of a job, in both forms, and what is not."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from typing import Literal

import pytest

from tests.fakes import make_params
from worker import logs, queued_stream
from worker.jobs.events import Cancelled, CancelReason, Completed, Event, Failed, Progress, Queued, Started, Timings
from worker.jobs.job import Job

TRACE = "0af7651916cd43dd8448eb211c80319c"
LIFE: tuple[Event, ...] = (
    Queued(0, None),
    Queued(0, 1.0),
    Started(1),
    Progress(1, 4, None),
    Completed((), Timings(total_s=1.5)),
)


@pytest.fixture(autouse=True)
def root(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The root logger and standard error as they were."""
    monkeypatch.setattr(sys, "stderr", sys.stderr)
    logger = logging.getLogger()
    handlers, level = logger.handlers[:], logger.level
    yield
    logger.handlers[:] = handlers
    logger.setLevel(level)


def live(*events: Event, prompts: bool = False) -> Job:
    job = Job(make_params(prompt="a secret\nwish"), trace_id=TRACE)
    for event in events:
        job.record(event)
        logs.log_event(job, event, prompts=prompts)
    return job


def said(capfd: pytest.CaptureFixture[str]) -> str:
    logs.write_out()
    return capfd.readouterr().err


def test_text_lines_tell_the_turns_of_a_life(capfd: pytest.CaptureFixture[str]) -> None:
    logs.configure("info", "text")
    job = live(*LIFE)
    lines = said(capfd).splitlines()
    assert [line.partition("worker.logs: ")[2] for line in lines] == [
        f"job {said} job_id={job.id} trace_id={TRACE}"
        for said in ("accepted", "started", "completed: 0 image(s) in 1.5 s")
    ]


def test_json_lines(capfd: pytest.CaptureFixture[str]) -> None:
    logs.configure("info", "json")
    job = live(Queued(0, None), Failed("nan_output", "", False))
    logging.getLogger("worker.x").error("it broke", exc_info=ValueError("why"))
    accepted, failed, broke = map(json.loads, said(capfd).splitlines())
    assert accepted.pop("time").endswith("Z")
    assert accepted == {
        "level": "info", "logger": "worker.logs", "message": "job accepted", "job_id": job.id, "trace_id": TRACE,
    }  # fmt: skip
    assert failed["message"] == "job failed: nan_output"
    assert (broke["level"], broke["message"]) == ("error", "it broke")
    assert "ValueError: why" in broke["exception"]
    assert "job_id" not in broke


def test_prompts_are_logged_only_when_asked_for(capfd: pytest.CaptureFixture[str]) -> None:
    logs.configure("debug", "json")
    live(*LIFE)
    assert "secret" not in said(capfd)
    live(Queued(0, None), prompts=True)
    (line,) = said(capfd).splitlines()
    assert json.loads(line)["message"] == r"job accepted: 'a secret\nwish'"


def test_second_attempts_and_reasons(capfd: pytest.CaptureFixture[str]) -> None:
    logs.configure("info", "text")
    live(Queued(0, None), Started(2), Cancelled(CancelReason.TIMEOUT))
    lines = said(capfd)
    assert "job started, attempt 2" in lines
    assert "job cancelled: timeout" in lines


def test_requests_of_its_own_are_not_told_with_their_addresses(capfd: pytest.CaptureFixture[str]) -> None:
    logs.configure("debug", "text")
    logging.getLogger("httpx").info("HTTP Request: POST https://orchestrator/")
    logging.getLogger("sse_starlette.sse").debug("chunk: a picture")
    logging.getLogger("PIL.PngImagePlugin").debug("STREAM a picture")
    assert said(capfd) == ""


@pytest.mark.parametrize("form", ["text", "json"])
def test_what_was_dropped_is_told_in_the_form_of_all_lines(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, form: Literal["text", "json"]
) -> None:
    logs.configure("info", form)
    monkeypatch.setattr(queued_stream, "HELD_BYTES", -1)
    logging.getLogger().warning("nobody has room for this")
    line = said(capfd)
    message = json.loads(line)["message"] if form == "json" else line.partition("WARNING worker.logs: ")[2].strip()
    assert message == "1 line(s) were dropped: standard error was not read"


def test_what_others_say_comes_between_the_lines_where_it_was_said(capfd: pytest.CaptureFixture[str]) -> None:
    logs.configure("info", "json")
    logging.getLogger().warning("before")
    print("said", file=sys.stderr)
    logging.getLogger().warning("after")
    before, between, after = said(capfd).splitlines()
    assert (json.loads(before)["message"], between, json.loads(after)["message"]) == ("before", "said", "after")
