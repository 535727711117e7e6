"""The synchronous client against whole workers on real ports."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from tests.conftest import eventually
from tests.fakes import FACTS, FailsAtStep, StepByStep, paint
from tests.serving import WAIT_S, ServedWorker, smaller
from worker.client import (
    Cancelled,
    Client,
    Completed,
    Event,
    FieldFault,
    JobCancelled,
    JobFailed,
    Preview,
    Progress,
    Queued,
    Refused,
    Started,
    Unreachable,
)
from worker.jobs.job import Status
from worker.jobs.params import Task

Serve = Callable[..., ServedWorker]
PROMPT = "a red circle"


def test_a_prompt_becomes_a_picture(instant: ServedWorker) -> None:
    with Client(instant.url) as client:
        picture = client.generate(PROMPT, seed=7, width=96)
    assert np.array_equal(np.asarray(picture), paint(7, 96, 64))


def test_all_pictures_of_a_job_with_what_belongs_to_them(instant: ServedWorker) -> None:
    seen: list[Event] = []
    with Client(instant.url) as client:
        result = client.generate_all(PROMPT, seed=7, num_images=3, output={"format": "webp"}, on_event=seen.append)
        job = client.job(result.job_id)
    assert [link.seed for link in result.links] == [7, 8, 9]
    assert (result.seed, result.image) == (7, result.images[0])
    assert {picture.size for picture in result.images} == {(64, 64)}
    assert isinstance(seen[-1], Completed)
    assert result.timings == seen[-1].timings == job.timings
    assert result.timings.total_s
    assert (job.status, job.ended, job.params["num_images"], len(job.images)) == ("completed", True, 3, 3)


def test_generate_draws_one_picture_and_says_so(instant: ServedWorker) -> None:
    with Client(instant.url) as client, pytest.raises(TypeError, match="generate_all"):
        client.generate(PROMPT, num_images=2)  # type: ignore[call-arg]


def test_a_stream_is_typed_and_ends_once(instant: ServedWorker) -> None:
    with Client(instant.url) as client:
        events = list(client.stream(PROMPT, steps=2, preview={"every": 1, "size": 32}))
    kinds = [type(event) for event in events]
    assert kinds[:2] == [Queued, Started]
    assert kinds[-1] is Completed
    assert [event.step for event in events if isinstance(event, Progress)] == [1, 2]
    previews = [event for event in events if isinstance(event, Preview)]
    assert [(one.step, one.image.size) for one in previews] == [(1, (32, 32))], "none of the last"
    assert [event.id for event in events] == list(range(1, len(events) + 1))


def test_an_earlier_job_is_followed_from_any_event(instant: ServedWorker) -> None:
    with Client(instant.url) as client:
        whole = list(client.stream(PROMPT))
        assert list(client.follow(whole[0].job_id, after=3)) == whole[3:]
        assert list(client.follow(whole[0].job_id, after=whole[-1].id)) == []


def test_what_is_wrong_with_a_job_is_told_by_field(instant: ServedWorker) -> None:
    with Client(instant.url) as client, pytest.raises(Refused) as refused:
        client.generate("", steps=0)
    error = refused.value
    assert (error.status, error.code, error.retriable) == (422, "invalid_request", False)
    assert {fault.field for fault in error.errors} == {"prompt", "steps"}
    assert all(isinstance(fault, FieldFault) for fault in error.errors)
    assert "\n" not in str(error)


def test_a_failed_job_raises_with_the_workers_words(serve: Serve) -> None:
    worker = serve(FailsAtStep(2))
    with Client(worker.url) as client, pytest.raises(JobFailed) as failed:
        client.generate(PROMPT)
    assert (failed.value.code, failed.value.retriable) == ("engine_failed", True)
    assert worker.job(failed.value.job_id)["status"] == "failed"


def test_a_job_that_somebody_cancels_raises(serve: Serve) -> None:
    worker = serve(StepByStep(1))

    def cancel(event: Event) -> None:
        client.cancel(event.job_id)
        worker.runner.allow_all()

    with Client(worker.url) as client, pytest.raises(JobCancelled) as cancelled:
        client.generate(PROMPT, on_event=cancel)
    assert cancelled.value.reason == "requested"


def test_a_token_by_argument_or_environment(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = serve(tokens=["secret"])
    with Client(worker.url) as client, pytest.raises(Refused) as refused:
        client.info()
    assert (refused.value.status, refused.value.code) == (401, "unauthorized")
    with Client(worker.url, token="secret") as client:
        assert client.generate(PROMPT).size == (64, 64)
    monkeypatch.setenv("SDW_TOKEN", "secret")
    monkeypatch.setenv("SDW_URL", worker.url + "/")
    with Client() as client:
        assert client.url == worker.url
        assert client.info()["tasks"] == ["text-to-image"]


@pytest.mark.parametrize("url", ["127.0.0.1:8600", "ftp://worker", "http://", "http://worker/?a=1", "http://worker:x"])
def test_an_address_that_is_none(url: str) -> None:
    with pytest.raises(ValueError, match="is not the address of a worker"):
        Client(url)


def test_a_token_that_no_header_can_carry() -> None:
    with pytest.raises(ValueError, match="no header can carry"):
        Client(token="two\nlines")


def test_jobs_are_listed_over_all_pages(serve: Serve) -> None:
    worker = serve(limits=smaller(queue_capacity=200))
    posted = [worker.post()["job_id"] for _ in range(105)]
    with Client(worker.url) as client:
        assert [job.job_id for job in client.jobs()] == posted[::-1]
        assert list(client.jobs(status="failed")) == []


def test_pictures_go_along_and_choose_the_task(serve: Serve, tmp_path: Path) -> None:
    worker = serve(facts=replace(FACTS, tasks=tuple(Task)))
    picture, mask = Image.new("RGB", (96, 64), "red"), tmp_path / "mask.png"
    Image.new("L", (96, 64), 255).save(mask)
    with Client(worker.url) as client:
        drawn = client.generate_all(PROMPT, image=picture, strength=0.5)
        inpainted = client.generate_all(PROMPT, image=picture, mask=str(mask))
        tasks = [client.job(one.job_id).params for one in (drawn, inpainted)]
    assert [one["task"] for one in tasks] == ["image-to-image", "inpainting"]
    assert tasks[0]["strength"] == 0.5
    assert (tasks[1]["mask"]["width"], tasks[1]["mask"]["height"]) == (96, 64)


def test_a_key_of_ones_own_makes_one_job(instant: ServedWorker) -> None:
    with Client(instant.url) as client:
        first, second = (client.submit(PROMPT, idempotency_key="order 17") for _ in range(2))
        assert first.job_id == second.job_id
        with pytest.raises(Refused, match="idempotency_key_reused"):
            client.submit("another", idempotency_key="order 17")


def test_a_loop_that_is_left_early_cancels_where_asked(serve: Serve) -> None:
    worker = serve(StepByStep(1))
    with Client(worker.url) as client:
        for event in client.stream(PROMPT, cancel_on_exit=True):
            if isinstance(event, Progress):
                break
        left = event.job_id
        kept = next(client.stream(PROMPT)).job_id
    worker.runner.allow_all()
    assert [type(event) for event in Client(worker.url).follow(left)][-1] is Cancelled
    eventually(lambda: worker.job(kept)["status"] == "completed")


def test_ctrl_c_cancels_where_asked(serve: Serve) -> None:
    worker = serve(StepByStep(1))
    seen: list[Event] = []

    def interrupted(event: Event) -> None:
        seen.append(event)
        if isinstance(event, Progress):
            raise KeyboardInterrupt

    with Client(worker.url) as client, pytest.raises(KeyboardInterrupt):
        client.generate(PROMPT, on_event=interrupted, cancel_on_exit=True)
    assert worker.known(seen[0].job_id).cancel_reason == "requested"


def test_an_interrupted_post_leaves_no_job_behind(serve: Serve) -> None:
    worker = serve(StepByStep(), limits=smaller(queue_capacity=1))
    running, waiting = worker.post()["job_id"], ""
    worker.runner.wait_for_calls(1)
    waiting = worker.post()["job_id"]

    def interrupted(seconds: float) -> None:
        worker.client.delete(f"/v1/jobs/{waiting}")  # now there is room for what was refused
        raise KeyboardInterrupt

    with Client(worker.url, sleep=interrupted) as client:
        with pytest.raises(KeyboardInterrupt):
            client.generate(PROMPT, cancel_on_exit=True)
        newest, *others = client.jobs()
    assert newest.status == "cancelled"
    assert [job.job_id for job in others] == [waiting, running]
    assert worker.known(running).status is Status.RUNNING


def test_nobody_there_is_told_at_once_where_nothing_is_waited_for(instant: ServedWorker) -> None:
    with Client("http://127.0.0.1:1", patience_s=0) as client:
        for call in (client.info, lambda: client.generate(PROMPT), lambda: client.job("a")):
            with pytest.raises(
                Unreachable, match=r"^no worker answers at http://127.0.0.1:1 \(ConnectError\)$"
            ) as away:
                call()
            assert away.value.retriable


def test_a_picture_is_fetched_from_nowhere_else(instant: ServedWorker) -> None:
    with Client(instant.url, token="secret") as client:
        link = client.generate_all(PROMPT).links[0]
        for url in ("http://elsewhere.example/a.png", "//elsewhere.example/a.png"):
            with pytest.raises(Exception, match="not the worker's own"):
                client.fetch(replace(link, url=url))


def test_whatever_an_id_holds_it_stays_one_segment(instant: ServedWorker) -> None:
    with Client(instant.url) as client:
        for name in ("../info", "a/b", "a?b#c", "é"):
            with pytest.raises(Refused) as refused:
                client.job(name)
            assert refused.value.code in ("job_not_found", "not_found")
    assert httpx.get(f"{instant.url}/health", timeout=WAIT_S).is_success


def test_as_many_jobs_are_followed_as_there_are(serve: Serve) -> None:
    """Each has a connection of its own, and none waits for another's."""
    worker = serve(StepByStep(), limits=smaller(queue_capacity=200))
    with Client(worker.url) as client, ThreadPoolExecutor(130) as threads:
        jobs = [client.submit(PROMPT) for _ in range(120)]
        endings = [threads.submit(lambda job: list(client.follow(job.job_id))[-1], job) for job in jobs]
        eventually(lambda: worker.connections() > 110)  # more than httpx opens by itself
        worker.runner.allow_all()
        assert all(isinstance(ending.result(60), Completed) for ending in endings)


def test_a_password_in_the_address_is_not_told(instant: ServedWorker) -> None:
    with Client("http://me:secret@127.0.0.1:1") as client, pytest.raises(Unreachable) as told:
        client.info()
    assert "secret" not in str(told.value)
    with pytest.raises(ValueError, match="room for one") as refused:
        Client("http://me:secret@127.0.0.1:1", token="t")
    assert "secret" not in str(refused.value)
