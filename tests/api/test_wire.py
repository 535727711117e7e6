"""Every JSON name that clients see."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, get_args

import pytest

from tests.fakes import PREVIEW, make_params
from worker.api import wire
from worker.api.ending import without_pictures
from worker.jobs.events import (
    Cancelled,
    CancelReason,
    Completed,
    Event,
    Failed,
    Image,
    Preview,
    Progress,
    Queued,
    Started,
    Timings,
)
from worker.jobs.job import Job
from worker.jobs.log import Entry
from worker.jobs.params import ImageFormat

EVIL = "a\nb\r\nc\rd\0e\u0085f\u2028g\u2029h\v\f\x1c\U0001f984\n\ndata: {}\n\nevent: completed\n"
IMAGE = Image(1, 8, 64, 32, ImageFormat.WEBP, b"\xff\x00pixels")
TIMINGS = Timings(queue_s=0.25, total_s=1.5)
IMAGE_KEYS = {"index", "url", "seed", "width", "height", "format", "bytes"}
TIMING_KEYS = {"queue_s", "encode_s", "denoise_s", "decode_s", "total_s"}
JOB_KEYS = {
    *("job_id", "sse_url", "status", "position", "eta_s", "progress", "params", "images", "error", "timings"),
    *("warnings", "attempt", "created_at", "started_at", "finished_at", "labels"),
}
PREVIEW_KEYS = {"step", "steps", "image", "format", "width", "height"}
FORMS: dict[str, tuple[Event, set[str]]] = {
    "queued": (Queued(2, None), {"position", "eta_s"}),
    "started": (Started(1), {"attempt"}),
    "progress": (Progress(1, 3, 2.5), {"step", "steps", "percent", "eta_s"}),
    "preview": (Preview(1, 3, 16, 8, ImageFormat.JPEG, b"\xff\x00preview"), PREVIEW_KEYS),
    "completed": (Completed((IMAGE,), TIMINGS, ("prompt: cut",)), {"images", "timings", "warnings"}),
    "failed": (Failed("nan_output", EVIL, False, TIMINGS), {"code", "message", "retriable"}),
    "cancelled": (Cancelled(CancelReason.TIMEOUT, TIMINGS), {"reason"}),
}


def make_job(*events: Event, **changes: Any) -> Job:
    job = Job(make_params(**changes))
    for event in events:
        job.record(event)
    return job


def test_every_event_is_in_the_table() -> None:
    assert {type(event) for event, _ in FORMS.values()} == set(get_args(Event))


@pytest.mark.parametrize("name", FORMS)
def test_the_form_of_an_event(name: str) -> None:
    event, keys = FORMS[name]
    job = make_job()
    data = wire.event_data(job.id, event, inline=job.params.output.inline)
    assert wire.event_name(event) == data["type"] == name
    assert data["job_id"] == job.id
    assert set(data) == {"type", "job_id"} | keys


@pytest.mark.parametrize("name", FORMS)
def test_a_frame_is_three_lines_of_ascii(name: str) -> None:
    event, job = FORMS[name][0], make_job()
    entry = Entry(7, event)
    frame = wire.entry_frame(job, entry)
    assert frame.isascii()
    first, second, third, *end = frame.decode().splitlines()
    assert (first, second, end) == ("id: 7", f"event: {name}", [""])
    assert third.isprintable()
    assert json.loads(third.removeprefix("data: ")) == json.loads(
        json.dumps(wire.event_data(job.id, event, inline=job.params.output.inline))
    )
    assert wire.entry_frame(job, entry) == frame
    assert (entry.wire is None) == (name in ("preview", "completed")), "pictures are not kept twice"


def test_text_comes_out_as_it_went_in() -> None:
    frame = wire.entry_frame(make_job(), Entry(1, Failed("invalid_input", EVIL, True)))
    assert json.loads(frame.decode().splitlines()[2].removeprefix("data: "))["message"] == EVIL


def test_pictures_in_events() -> None:
    preview = wire.event_data("job_1", FORMS["preview"][0])
    assert base64.b64decode(preview["image"], validate=True) == b"\xff\x00preview"
    assert (preview["width"], preview["height"], preview["format"]) == (16, 8, "jpeg")

    (picture,) = wire.event_data("job_1", Completed((IMAGE,), TIMINGS))["images"]
    assert set(picture) == IMAGE_KEYS
    assert picture["url"] == "/v1/jobs/job_1/images/1"
    assert (picture["bytes"], picture["format"], picture["seed"]) == (8, "webp", 8)
    (picture,) = wire.event_data("job_1", Completed((IMAGE,), TIMINGS), inline=True)["images"]
    assert set(picture) == IMAGE_KEYS | {"image"}
    assert base64.b64decode(picture["image"], validate=True) == IMAGE.data


def test_warnings_are_in_the_last_event_and_in_the_job() -> None:
    completed = Completed((IMAGE,), TIMINGS, ("prompt: something", "negative_prompt: something"))
    assert wire.event_data("job_1", completed)["warnings"] == list(completed.warnings)
    assert wire.job_json(make_job(Started(1), completed))["warnings"] == list(completed.warnings)
    assert wire.job_json(make_job(Started(1)))["warnings"] == []


def test_progress_and_timings() -> None:
    assert wire.event_data("job_1", Progress(1, 3, None))["percent"] == 33.3
    assert wire.event_data("job_1", Progress(3, 3, None))["percent"] == 100.0
    timings = wire.event_data("job_1", Completed((), TIMINGS))["timings"]
    assert set(timings) == TIMING_KEYS
    assert (timings["queue_s"], timings["encode_s"]) == (0.25, None)


@pytest.mark.parametrize(
    "events",
    [
        [],
        [Queued(1, 2.0)],
        [Started(1), Progress(1, 4, 2.0)],
        [Started(1), Completed((IMAGE,), TIMINGS)],
        [Failed("engine_failed", EVIL, True)],
        [Cancelled(CancelReason.REQUESTED)],
    ],
    ids=lambda events: type(events[-1]).__name__ if events else "nothing",
)
def test_the_form_of_a_job_is_the_same_all_its_life(events: list[Event]) -> None:
    job = make_job(*events, labels={"a": "b"})
    data = wire.job_json(job)
    assert set(data) == JOB_KEYS
    assert set(data["progress"]) == {"step", "steps", "percent"}
    assert set(data["timings"]) == TIMING_KEYS
    assert all(set(image) == IMAGE_KEYS for image in data["images"])
    assert data["sse_url"] == f"/v1/jobs/{job.id}/stream"
    assert data["status"] == job.status
    assert data["labels"] == {"a": "b"}
    assert json.loads(json.dumps(data)) == data, "nothing but JSON in it"


def test_a_failed_job_says_why() -> None:
    data = wire.job_json(make_job(Failed("engine_failed", "gone", True)))
    assert data["error"] == {"code": "engine_failed", "message": "gone", "retriable": True}
    assert wire.job_json(make_job())["error"] is None


@pytest.mark.parametrize(("reason", "retriable"), [(CancelReason.TIMEOUT, False), (CancelReason.SHUTDOWN, True)])
def test_a_job_that_the_worker_cancelled_says_why(reason: CancelReason, retriable: bool) -> None:
    data = wire.job_json(make_job(Started(1), Cancelled(reason)))
    message = data["error"].pop("message")
    assert (data["status"], data["error"]) == ("cancelled", {"code": reason.value, "retriable": retriable})
    assert message == without_pictures(Cancelled(reason)).detail


@pytest.mark.parametrize("reason", [CancelReason.REQUESTED, CancelReason.DISCONNECTED])
def test_a_job_that_somebody_cancelled_has_no_error(reason: CancelReason) -> None:
    assert wire.job_json(make_job(Cancelled(reason)))["error"] is None


def test_a_job_that_is_done_before_its_cancelling_takes_effect_has_no_error() -> None:
    job = make_job(Started(1))
    job.cancel_reason = CancelReason.TIMEOUT
    assert wire.job_json(job)["error"] is None
    job.record(Completed((IMAGE,), TIMINGS))
    assert wire.job_json(job)["error"] is None


def test_a_place_is_the_one_of_this_moment() -> None:
    job = make_job(Queued(3, None))
    assert wire.job_json(job, (1, 2.5))["position"] == 1
    assert wire.job_json(job, (1, 2.5))["eta_s"] == 2.5
    assert wire.job_json(job)["position"] == 3


def test_parameters() -> None:
    plain = wire.params_json(make_params(negative_prompt=""))
    assert set(plain) == {
        *("task", "prompt", "negative_prompt", "width", "height", "steps", "guidance_scale", "seed", "num_images"),
        *("sampler", "preview", "output", "priority", "on_disconnect", "timeout_s"),
        *("image", "mask", "strength", "loras", "controls", "upscale"),
    }
    assert plain["preview"] is None
    assert plain["negative_prompt"] == "", "empty is not the same as none"
    assert plain["output"] == {"format": "png", "quality": 90, "inline": False, "metadata": True}
    previewed = wire.params_json(make_params(preview=PREVIEW))
    assert previewed["preview"] == {"every": 1, "size": 32, "format": "jpeg"}


def test_timestamps_are_utc_to_the_millisecond() -> None:
    assert wire.timestamp(None) is None
    moment = datetime(2026, 1, 2, 3, 4, 5, 678_901, UTC)
    assert wire.timestamp(moment) == "2026-01-02T03:04:05.678Z"
    assert wire.timestamp(moment.astimezone(timezone(timedelta(hours=-7)))) == "2026-01-02T03:04:05.678Z"
    assert wire.timestamp(moment.replace(microsecond=0)) == "2026-01-02T03:04:05.000Z"
