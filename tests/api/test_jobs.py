"""Posting, showing, listing and cancelling jobs, as CONTRACT.md has it."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from datetime import datetime, timedelta

import httpx
import pytest

from tests.conftest import eventually
from tests.fakes import (
    FailsAtStep,
    FailsToDecode,
    FailsToOpen,
    LoadsWhenTold,
    NeverEnds,
    OutOfMemory,
    Paced,
    StepByStep,
    Warns,
    make_params,
)
from tests.serving import PROMPT, WAIT_S, ServedWorker, smaller
from worker import errors

Serve = Callable[..., ServedWorker]

JOB = {
    "job_id", "sse_url", "status", "position", "eta_s", "progress", "params", "images", "error", "timings",
    "warnings", "attempt",
    "created_at", "started_at", "finished_at", "labels",
}  # fmt: skip
PARAMS = {
    "task", "prompt", "negative_prompt", "width", "height", "steps", "guidance_scale", "seed", "num_images", "sampler",
    "preview", "output", "priority", "on_disconnect", "timeout_s", "image", "mask", "strength", "loras", "controls",
    "upscale",
}  # fmt: skip
NO_PICTURES = {"image": None, "mask": None, "strength": None, "loras": [], "controls": [], "upscale": None}
TIMINGS = {"queue_s", "encode_s", "denoise_s", "decode_s", "total_s"}


def test_a_posted_job_is_accepted(serve: Serve) -> None:
    worker = serve(NeverEnds())
    response = worker.try_post(labels={"order": "17"})
    job = response.json()
    assert response.status_code == 202
    assert response.headers["location"] == f"/v1/jobs/{job['job_id']}"
    assert response.headers["content-type"] == "application/json"
    assert set(job) == JOB
    assert job["status"] in ("queued", "running")
    assert job["sse_url"] == f"/v1/jobs/{job['job_id']}/stream"
    assert job["progress"] == {"step": 0, "steps": 4, "percent": 0.0}
    assert job["images"] == []
    assert job["error"] is None
    assert job["labels"] == {"order": "17"}
    assert set(job["timings"]) == TIMINGS
    assert job["finished_at"] is None


def test_defaults_are_the_models_and_the_contracts(instant: ServedWorker) -> None:
    params = instant.post()["params"]
    seed = params.pop("seed")
    assert 0 <= seed < 2**32
    assert params == {
        "task": "text-to-image",
        "prompt": PROMPT,
        "negative_prompt": None,
        "width": 64,
        "height": 64,
        "steps": 4,
        "guidance_scale": 5.0,
        "num_images": 1,
        "sampler": "euler",
        "preview": None,
        "output": {"format": "png", "quality": 90, "inline": False, "metadata": True},
        "priority": "normal",
        "on_disconnect": "continue",
        "timeout_s": 3600.0,
        **NO_PICTURES,
    }


def test_params_are_those_that_were_asked_for(instant: ServedWorker) -> None:
    asked = {
        "task": "text-to-image",
        "prompt": "ein Kreis ⭕ \u2028\r\n",
        "negative_prompt": "",
        "width": 128,
        "height": 72,
        "steps": 2,
        "guidance_scale": 0.0,
        "seed": 0,
        "num_images": 2,
        "sampler": "ddim",
        "preview": {"every": 2, "size": 64, "format": "webp"},
        "output": {"format": "webp", "quality": 1, "inline": True, "metadata": False},
        "priority": "high",
        "on_disconnect": "cancel",
        "timeout_s": 30.5,
    }
    job = instant.post(**asked, model="fake")
    assert set(job["params"]) == PARAMS
    assert job["params"] == asked | NO_PICTURES


def test_random_seeds_differ(instant: ServedWorker) -> None:
    assert len({instant.post()["params"]["seed"] for _ in range(5)}) == 5


def test_a_completed_job_tells_everything(instant: ServedWorker) -> None:
    job = instant.finish(seed=7, num_images=3)
    assert set(job) == JOB
    assert set(job["params"]) == PARAMS
    assert job["status"] == "completed"
    assert job["position"] is None
    assert job["attempt"] == 1
    assert job["progress"] == {"step": 4, "steps": 4, "percent": 100.0}
    assert [set(image) for image in job["images"]] == [
        {"index", "url", "seed", "width", "height", "format", "bytes"}
    ] * 3
    assert [image["index"] for image in job["images"]] == [0, 1, 2]
    assert [image["seed"] for image in job["images"]] == [7, 8, 9]
    assert job["images"][2]["url"] == f"/v1/jobs/{job['job_id']}/images/2"
    assert set(job["timings"]) == TIMINGS
    assert all(value >= 0 for value in job["timings"].values())
    moments = [job["created_at"], job["started_at"], job["finished_at"]]
    assert moments == sorted(moments)
    for moment in moments:
        assert datetime.fromisoformat(moment).utcoffset() == timedelta(0)


def test_what_was_not_done_as_asked_is_told(serve: Serve) -> None:
    worker = serve(Warns("prompt: cut"))
    job = worker.post(num_images=2)
    *_, last = worker.stream(job["job_id"])
    assert last.data["warnings"] == ["prompt: cut"]
    assert worker.job(job["job_id"])["warnings"] == ["prompt: cut"]


def test_a_seed_that_leaves_room_for_every_image_is_accepted(instant: ServedWorker) -> None:
    job = instant.finish(seed=2**63 - 2, num_images=2)
    assert [image["seed"] for image in job["images"]] == [2**63 - 2, 2**63 - 1]


def test_an_unknown_job_is_not_found(instant: ServedWorker) -> None:
    for method, path in [("GET", ""), ("DELETE", ""), ("GET", "/stream"), ("GET", "/images/0")]:
        response = instant.client.request(method, f"/v1/jobs/job_0{path}")
        assert (response.status_code, response.json()["code"]) == (404, "job_not_found")


# Waiting and running.


def test_position_counts_the_waiting_jobs_ahead(serve: Serve) -> None:
    worker = serve(StepByStep(), max_rows=2)
    running = worker.post()["job_id"]
    worker.runner.wait_for_calls(1)
    first, second, third = (worker.post()["job_id"] for _ in range(3))
    eventually(lambda: worker.job(running)["status"] == "running")
    assert worker.job(running)["position"] is None
    assert [worker.job(job_id)["position"] for job_id in (first, second, third)] == [0, 1, 2]
    urgent = worker.post(priority="high")
    assert urgent["position"] == 0
    assert [worker.job(job_id)["position"] for job_id in (first, second, third)] == [1, 2, 3]
    worker.client.delete(f"/v1/jobs/{first}")
    assert [worker.job(job_id)["position"] for job_id in (first, second, third)] == [None, 1, 2]


def test_eta_is_unknown_until_something_was_measured_and_grows_along_the_queue(serve: Serve) -> None:
    worker = serve(Paced(0.02), max_rows=2)
    first = worker.post(steps=150)
    assert first["eta_s"] is None
    eventually(lambda: worker.job(first["job_id"])["progress"]["step"])
    assert all(worker.post()["eta_s"] > 0 for _ in range(3))
    # One look at all of them, since each estimate gets smaller while time passes.
    waiting = worker.client.get("/v1/jobs", params={"status": "queued"}).json()["jobs"]
    estimates = [job["eta_s"] for job in reversed(waiting)]
    assert len(estimates) == 3
    assert estimates == sorted(set(estimates))


def test_jobs_posted_while_loading_wait_and_are_drawn(serve: Serve) -> None:
    worker = serve(LoadsWhenTold(), wait_ready=False)
    jobs = [worker.post()["job_id"] for _ in range(3)]
    assert [worker.job(job_id)["status"] for job_id in jobs] == ["queued"] * 3
    worker.runner.finish_loading()
    assert [worker.stream(job_id)[-1].name for job_id in jobs] == ["completed"] * 3


def test_a_job_can_be_watched_by_polling(serve: Serve) -> None:
    worker = serve(StepByStep())
    job_id = worker.post(steps=4)["job_id"]
    worker.runner.allow(1)
    eventually(lambda: worker.job(job_id)["progress"] == {"step": 1, "steps": 4, "percent": 25.0})
    assert worker.job(job_id)["status"] == "running"
    worker.runner.allow(3)
    eventually(lambda: worker.job(job_id)["status"] == "completed")


# The queue's bound.


def test_a_full_queue_refuses_with_a_time_to_come_back(serve: Serve) -> None:
    worker = serve(NeverEnds(), limits=smaller(queue_capacity=2), max_rows=2)
    worker.post()
    worker.runner.wait_for_calls(1)
    waiting = [worker.post()["job_id"] for _ in range(2)]
    response = worker.try_post()
    assert (response.status_code, response.json()["code"]) == (429, "queue_full")
    assert int(response.headers["retry-after"]) >= 1
    worker.client.delete(f"/v1/jobs/{waiting[0]}")
    assert worker.try_post().status_code == 202


# Cancelling.


def test_a_waiting_job_is_cancelled_at_once(serve: Serve) -> None:
    worker = serve(NeverEnds(), max_rows=2)
    worker.post()
    worker.runner.wait_for_calls(1)
    job_id = worker.post()["job_id"]
    response = worker.client.delete(f"/v1/jobs/{job_id}")
    assert response.status_code == 202
    assert (response.json()["status"], response.json()["position"]) == ("cancelled", None)
    assert [event.name for event in worker.stream(job_id)] == ["queued", "cancelled"]
    assert worker.stream(job_id)[-1].data["reason"] == "requested"
    again = worker.client.delete(f"/v1/jobs/{job_id}")
    assert (again.status_code, again.json()) == (200, response.json())


def test_a_running_job_is_cancelled_within_a_step_and_its_neighbour_is_not_touched(serve: Serve) -> None:
    worker = serve(StepByStep())
    job_id, neighbour = worker.post(steps=9, seed=1)["job_id"], worker.post(steps=4, seed=2)["job_id"]
    worker.runner.allow(2)
    worker.runner.wait_for_calls(3)
    for _ in range(3):
        response = worker.client.delete(f"/v1/jobs/{job_id}")
        assert (response.status_code, response.json()["status"]) == (202, "running")
    worker.runner.allow(1)
    events = worker.stream(job_id)
    assert (events[-1].name, events[-1].data["reason"]) == ("cancelled", "requested")
    assert sum(event.name == "progress" for event in events) <= 3
    worker.runner.allow_all()
    assert worker.stream(neighbour)[-1].name == "completed"
    assert max(step for call in worker.runner.calls for seed, step in call if seed == 1) == 3
    job = worker.job(job_id)
    assert (job["status"], job["error"], job["images"]) == ("cancelled", None, [])
    assert worker.client.delete(f"/v1/jobs/{job_id}").status_code == 200


def test_the_next_job_is_not_hit_by_a_cancel_that_came_late(serve: Serve) -> None:
    worker = serve(StepByStep(), max_rows=2)
    first, second = worker.post(steps=1)["job_id"], worker.post(steps=1)["job_id"]
    worker.runner.wait_for_calls(1)
    worker.client.delete(f"/v1/jobs/{first}")
    worker.runner.allow_all()
    assert worker.stream(first)[-1].name in ("cancelled", "completed")
    assert worker.stream(second)[-1].name == "completed"


def test_cancelling_a_job_that_has_ended_changes_nothing(instant: ServedWorker) -> None:
    job = instant.finish()
    response = instant.client.delete(f"/v1/jobs/{job['job_id']}")
    assert (response.status_code, response.json()) == (200, job)


# Failing.


@pytest.mark.parametrize(
    ("runner", "code", "retriable"),
    [
        (FailsToOpen(), "engine_failed", True),
        (FailsToOpen(errors.InvalidInput("too many words")), "invalid_input", False),
        (FailsAtStep(2), "engine_failed", True),
        (OutOfMemory(1), "out_of_memory", False),
        (FailsToDecode(), "nan_output", False),
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.filterwarnings("default")
def test_a_failed_job_says_why_and_nothing_more(serve: Serve, runner: FailsToOpen, code: str, retriable: bool) -> None:
    worker = serve(runner)
    job = worker.finish()
    assert job["status"] == "failed"
    assert set(job["error"]) == {"code", "message", "retriable"}
    assert (job["error"]["code"], job["error"]["retriable"]) == (code, retriable)
    text = worker.client.get(f"/v1/jobs/{job['job_id']}/stream").text + str(job["error"])
    assert not [leak for leak in ("Traceback", "/srv", "site-packages", "0x") if leak in text]


def test_a_job_that_fails_does_not_take_its_neighbours_along(serve: Serve) -> None:
    worker = serve(FailsAtStep(2, seed=13))
    good, bad, other = (worker.post(seed=seed)["job_id"] for seed in (1, 13, 2))
    assert [worker.stream(job_id)[-1].name for job_id in (good, bad, other)] == ["completed", "failed", "completed"]


# Time limits.


def test_a_waiting_job_is_cancelled_when_its_time_is_over(serve: Serve) -> None:
    worker = serve(NeverEnds(), max_rows=2)
    worker.post()
    worker.runner.wait_for_calls(1)
    job_id = worker.post(timeout_s=0.05)["job_id"]
    events = worker.stream(job_id)
    assert (events[-1].name, events[-1].data["reason"]) == ("cancelled", "timeout")
    job = worker.client.get(f"/v1/jobs/{job_id}").json()
    assert (job["status"], job["error"]["code"], job["error"]["retriable"]) == ("cancelled", "timeout", False)


def test_a_running_job_is_cancelled_when_its_time_is_over(serve: Serve) -> None:
    worker = serve(StepByStep())
    job_id = worker.post(timeout_s=0.5, steps=100)["job_id"]
    worker.runner.wait_for_calls(1)
    eventually(lambda: worker.known(job_id).cancel_reason is not None)
    worker.runner.allow(1)
    events = worker.stream(job_id)
    assert (events[-1].name, events[-1].data["reason"]) == ("cancelled", "timeout")
    assert len(worker.runner.calls) == 1


# The list.


def ids(response: httpx.Response) -> list[str]:
    assert set(response.json()) == {"jobs", "next"}
    return [job["job_id"] for job in response.json()["jobs"]]


def test_the_list_is_paged_newest_first(serve: Serve) -> None:
    worker = serve()
    jobs = [worker.finish()["job_id"] for _ in range(5)][::-1]
    whole = worker.client.get("/v1/jobs")
    assert (ids(whole), whole.json()["next"]) == (jobs, None)
    assert set(whole.json()["jobs"][0]) == JOB
    pages, after = [], None
    while True:
        page = worker.client.get("/v1/jobs", params={"limit": 2} | ({"after": after} if after else {}))
        pages.append(ids(page))
        after = page.json()["next"]
        if after is None:
            break
    assert pages == [jobs[:2], jobs[2:4], jobs[4:]]


def test_the_last_page_that_is_full_has_no_next(serve: Serve) -> None:
    worker = serve()
    assert worker.client.get("/v1/jobs").json() == {"jobs": [], "next": None}
    for _ in range(2):
        worker.finish()
    assert worker.client.get("/v1/jobs?limit=2").json()["next"] is None


def test_the_list_is_filtered_by_status_and_paged_then(serve: Serve) -> None:
    worker = serve(StepByStep(), max_rows=2)
    running = worker.post()["job_id"]
    worker.runner.wait_for_calls(1)
    first, gone, last = (worker.post()["job_id"] for _ in range(3))
    worker.client.delete(f"/v1/jobs/{gone}")
    eventually(lambda: worker.job(running)["status"] == "running")
    assert ids(worker.client.get("/v1/jobs?status=queued")) == [last, first]
    assert ids(worker.client.get("/v1/jobs?status=running")) == [running]
    assert ids(worker.client.get("/v1/jobs?status=cancelled")) == [gone]
    assert ids(worker.client.get("/v1/jobs?status=failed")) == []
    page = worker.client.get("/v1/jobs?status=queued&limit=1")
    assert (ids(page), page.json()["next"]) == ([last], last)
    rest = worker.client.get(f"/v1/jobs?status=queued&limit=1&after={last}")
    assert (ids(rest), rest.json()["next"]) == ([first], None)


@pytest.mark.parametrize(
    "query",
    ["limit=0", "limit=-1", "limit=x", "limit=", "limit=999999", "limit=٣", "status=done", "page=2", "limit=1.0"],
)
def test_a_wrong_query_of_the_list_is_refused(instant: ServedWorker, query: str) -> None:
    assert instant.client.get(f"/v1/jobs?{query}").status_code == 422


def test_a_page_after_an_unknown_job_is_not_found(instant: ServedWorker) -> None:
    assert instant.client.get("/v1/jobs?after=job_0").status_code == 404


# Expiry.


def test_an_expired_job_is_gone_and_an_unknown_one_never_was(serve: Serve) -> None:
    worker = serve(limits=smaller(retained_jobs=1))
    old, new = worker.finish()["job_id"], worker.finish()["job_id"]
    for path in ("", "/stream", "/images/0"):
        response = worker.client.get(f"/v1/jobs/{old}{path}")
        assert (response.status_code, response.json()["code"]) == (410, "job_expired")
    assert worker.client.delete(f"/v1/jobs/{old}").status_code == 410
    assert worker.client.get(f"/v1/jobs/{new}").status_code == 200
    assert worker.client.get("/v1/jobs/job_0").status_code == 404
    assert ids(worker.client.get("/v1/jobs")) == [new]


# Idempotency keys.


def test_the_same_key_and_body_give_the_same_job(serve: Serve) -> None:
    worker = serve()
    key = {"Idempotency-Key": "a-1"}
    first, second = worker.try_post(headers=key), worker.try_post(headers=key)
    assert (first.status_code, second.status_code) == (202, 200)
    assert first.json()["job_id"] == second.json()["job_id"]
    assert first.json()["params"]["seed"] == second.json()["params"]["seed"]
    assert first.headers["location"] == second.headers["location"]
    assert worker.try_post(headers={"Idempotency-Key": "a-2"}).json()["job_id"] != first.json()["job_id"]
    assert worker.try_post().json()["job_id"] != first.json()["job_id"]


def test_the_same_key_with_another_body_is_refused(instant: ServedWorker) -> None:
    key = {"Idempotency-Key": "another body"}
    assert instant.try_post(headers=key).status_code == 202
    response = instant.try_post(headers=key, steps=3)
    assert (response.status_code, response.json()["code"]) == (422, "idempotency_key_reused")


def test_a_repeat_is_not_judged_again(serve: Serve) -> None:
    """A worker that came back may have another model, and the other body need not be one at all."""
    worker = serve()
    key = {"Idempotency-Key": "k", "Content-Type": "application/json"}
    body = b'{"prompt": "x", "model": "of an earlier start"}'
    known, _ = worker.on_loop(lambda: worker.service.submit(make_params(), "k", hashlib.sha256(body).digest()))
    again = worker.client.post("/v1/jobs", content=body, headers=key)
    assert (again.status_code, again.json()["job_id"]) == (200, known.id)
    for other in (b'{"prompt": "x", "model": "another"}', b"no JSON"):
        response = worker.client.post("/v1/jobs", content=other, headers=key)
        assert (response.status_code, response.json()["code"]) == (422, "idempotency_key_reused")


def test_a_known_key_is_answered_when_the_queue_is_full(serve: Serve) -> None:
    worker = serve(NeverEnds(), limits=smaller(queue_capacity=1), max_rows=2)
    worker.post()
    worker.runner.wait_for_calls(1)
    key = {"Idempotency-Key": "k"}
    waiting = worker.try_post(headers=key)
    assert worker.try_post().status_code == 429
    again = worker.try_post(headers=key)
    assert (again.status_code, again.json()["job_id"]) == (200, waiting.json()["job_id"])
    assert worker.try_post(headers=key, steps=3).status_code == 422


def test_a_refused_post_does_not_use_up_its_key(serve: Serve) -> None:
    worker = serve(NeverEnds(), limits=smaller(queue_capacity=1), max_rows=2)
    worker.post()
    worker.runner.wait_for_calls(1)
    waiting = worker.post()["job_id"]
    key = {"Idempotency-Key": "k"}
    assert worker.try_post(headers=key).status_code == 429
    assert worker.try_post(headers=key, steps=0).status_code == 422
    worker.client.delete(f"/v1/jobs/{waiting}")
    assert worker.try_post(headers=key).status_code == 202


@pytest.mark.parametrize("key", ["", "x" * 256])
def test_a_key_of_no_or_too_many_characters_is_refused(instant: ServedWorker, key: str) -> None:
    assert instant.try_post(headers={"Idempotency-Key": key}).status_code == 422


async def test_a_hundred_equal_posts_at_once_make_one_job(serve: Serve) -> None:
    worker = serve(limits=smaller(queue_capacity=200))
    async with httpx.AsyncClient(base_url=worker.url, timeout=WAIT_S, trust_env=False) as client:
        posts = [
            client.post("/v1/jobs", json={"prompt": PROMPT}, headers={"Idempotency-Key": "once"}) for _ in range(100)
        ]
        responses = await asyncio.gather(*posts)
    assert len({response.json()["job_id"] for response in responses}) == 1
    assert sorted(response.status_code for response in responses) == [200] * 99 + [202]
    assert len(ids(worker.client.get("/v1/jobs"))) == 1
