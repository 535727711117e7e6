"""The asynchronous client: what the synchronous one does, and cancellation."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from tests.client.between import CutsWhenTold, LosesFirstAnswer, standing
from tests.conftest import eventually
from tests.fakes import FACTS, FailsAtStep, StepByStep
from tests.serving import ServedWorker, smaller
from worker.client import AsyncClient, Completed, Event, JobFailed, Progress, Refused, Started, Unreachable
from worker.jobs.params import Task

Serve = Callable[..., ServedWorker]
PROMPT = "a red circle"


async def test_many_at_once(instant: ServedWorker) -> None:
    async with AsyncClient(instant.url) as client:
        results = await asyncio.gather(*(client.generate_all(PROMPT, seed=seed) for seed in range(8)))
        job = await client.job(results[0].job_id)
        info = await client.info()
    assert [result.seed for result in results] == list(range(8))
    assert {result.image.size for result in results} == {(64, 64)}
    assert job.status == "completed"
    assert info["tasks"] == ["text-to-image"]


async def test_pictures_go_along(serve: Serve) -> None:
    worker = serve(facts=replace(FACTS, tasks=tuple(Task)))
    async with AsyncClient(worker.url) as client:
        job = await client.submit(PROMPT, image=Image.new("RGB", (64, 64)))
        listed = [one.job_id async for one in client.jobs()]
    assert job.params["task"] == "image-to-image"
    assert listed == [job.job_id]


async def test_every_event_comes_once_however_often_the_line_breaks(serve: Serve) -> None:
    worker = serve(StepByStep())
    with standing(CutsWhenTold(worker.port)) as line:
        async with AsyncClient(line.url) as client:
            seen: list[Event] = []
            async for happened in client.stream(PROMPT, steps=6):
                seen.append(happened)
                if isinstance(happened, Started | Progress):
                    line.cut()
                    worker.runner.allow()
    assert [one.id for one in seen] == list(range(1, len(seen) + 1))
    assert isinstance(seen[-1], Completed)


async def test_a_post_whose_answer_was_lost_is_one_job(serve: Serve) -> None:
    worker = serve()
    with standing(LosesFirstAnswer(worker.port)) as line:
        async with AsyncClient(line.url) as client:
            drawn = await client.generate_all(PROMPT)
            assert line.lost
            assert [job.job_id async for job in client.jobs()] == [drawn.job_id]


async def test_cancelling_the_task_cancels_the_job_where_asked(serve: Serve) -> None:
    worker = serve(StepByStep(1))
    begun: asyncio.Queue[Event] = asyncio.Queue()
    async with AsyncClient(worker.url) as client:
        task = asyncio.create_task(client.generate(PROMPT, on_event=begun.put_nowait, cancel_on_exit=True))
        while not isinstance(event := await begun.get(), Progress):
            pass
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert worker.known(event.job_id).cancel_reason == "requested"


async def test_a_timeout_that_cancels_again_and_again_still_lets_the_worker_know(serve: Serve) -> None:
    worker = serve(StepByStep(1))
    begun: asyncio.Queue[Event] = asyncio.Queue()
    async with AsyncClient(worker.url) as client:
        task = asyncio.create_task(client.generate(PROMPT, on_event=begun.put_nowait, cancel_on_exit=True))
        while not isinstance(event := await begun.get(), Progress):
            pass
        while not task.done():
            task.cancel()
            await asyncio.sleep(0)
    assert task.cancelled()
    assert worker.known(event.job_id).cancel_reason == "requested"


async def test_leaving_the_loop_cancels_where_asked(serve: Serve) -> None:
    worker = serve(StepByStep(1))
    async with AsyncClient(worker.url) as client:
        async with contextlib.aclosing(client.stream(PROMPT, cancel_on_exit=True)) as events:
            async for event in events:
                if isinstance(event, Progress):
                    break
        async with contextlib.aclosing(client.stream(PROMPT)) as events:
            kept = (await anext(events)).job_id
    assert worker.known(event.job_id).cancel_reason == "requested"
    worker.runner.allow_all()
    eventually(lambda: worker.job(kept)["status"] == "completed")


async def test_an_interrupted_post_leaves_no_job_behind(serve: Serve) -> None:
    worker = serve(StepByStep(), limits=smaller(queue_capacity=1))
    worker.post()
    worker.runner.wait_for_calls(1)
    waiting = worker.post()["job_id"]
    asleep = asyncio.Event()

    async def sleep(seconds: float) -> None:
        asleep.set()
        await asyncio.Event().wait()

    async with AsyncClient(worker.url, sleep=sleep) as client:
        task = asyncio.create_task(client.generate(PROMPT, cancel_on_exit=True))
        await asleep.wait()
        await client.cancel(waiting)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        newest = await anext(client.jobs())
    assert (newest.status, newest.job_id != waiting) == ("cancelled", True)


async def test_errors_are_the_same(serve: Serve, tmp_path: Path) -> None:
    worker = serve(FailsAtStep(1))
    async with AsyncClient(worker.url) as client:
        with pytest.raises(JobFailed):
            await client.generate(PROMPT)
        with pytest.raises(Refused):
            await client.generate("")
        with pytest.raises(TypeError, match="generate_all"):
            await client.generate(PROMPT, num_images=2)  # type: ignore[call-arg]
        with pytest.raises(FileNotFoundError):
            await client.submit(PROMPT, image=tmp_path / "nothing.png")
    async with AsyncClient("http://127.0.0.1:1", patience_s=0) as client:
        with pytest.raises(Unreachable):
            await client.generate(PROMPT)
        with pytest.raises(Unreachable):
            await client.info()
