"""The client for programs on asyncio: what `Client` does, awaited."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any, Self, Unpack

import httpx
from PIL import Image

from worker.client import protocol, request
from worker.client.client import PATIENCE_S, Watcher
from worker.client.connection import GOODBYE_S, STREAM_S, settings
from worker.client.errors import ClientError
from worker.client.events import Completed, Ending, Event
from worker.client.job import ImageLink, Job, Result
from worker.client.request import JobFields, SingleJobFields


class AsyncClient:
    """As `Client`. Lives on one event loop; pictures are encoded and decoded beside it."""

    def __init__(
        self,
        url: str | None = None,
        *,
        token: str | None = None,
        patience_s: float = PATIENCE_S,
        busy_s: float = PATIENCE_S,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._http = httpx.AsyncClient(**settings(url, token))
        self._patience_s = patience_s
        self._busy_s = busy_s
        self._sleep = sleep
        self._goodbyes: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Let go of the connections, once every cancel that is under way has been told."""
        await asyncio.gather(*self._goodbyes)
        await self._http.aclose()

    @property
    def url(self) -> str:
        """The worker's address."""
        return str(self._http.base_url).rstrip("/")

    async def generate(
        self,
        prompt: str,
        *,
        cancel_on_exit: bool = False,
        on_event: Watcher | None = None,
        **fields: Unpack[SingleJobFields],
    ) -> Image.Image:
        """One finished picture. Raises ClientError.

        `on_event` is shown every event on the way. With `cancel_on_exit`, leaving by an exception, the task's own
        cancellation included, cancels the job.
        """
        if "num_images" in fields:
            raise TypeError("generate draws one picture; generate_all draws num_images of them")
        result = await self.generate_all(prompt, cancel_on_exit=cancel_on_exit, on_event=on_event, **fields)
        return result.image

    async def generate_all(
        self,
        prompt: str,
        *,
        cancel_on_exit: bool = False,
        on_event: Watcher | None = None,
        **fields: Unpack[JobFields],
    ) -> Result:
        """All pictures of one job, with their seeds, timings and warnings. Otherwise as `generate`."""
        done = await self.run(prompt, cancel_on_exit=cancel_on_exit, on_event=on_event, **fields)
        return await self.result(done)

    async def run(
        self,
        prompt: str,
        *,
        cancel_on_exit: bool = False,
        on_event: Watcher | None = None,
        **fields: Unpack[JobFields],
    ) -> Completed:
        """Draw, and leave the pictures with the worker: `fetch` and `fetch_bytes` get them. Otherwise as `generate`."""
        ending: Ending | None = None
        async with contextlib.aclosing(self.stream(prompt, cancel_on_exit=cancel_on_exit, **fields)) as events:
            async for event in events:
                if on_event is not None:
                    on_event(event)
                if isinstance(event, Ending):
                    ending = event
        return protocol.completed(ending)

    async def stream(
        self, prompt: str, *, cancel_on_exit: bool = False, **fields: Unpack[JobFields]
    ) -> AsyncGenerator[Event]:
        """Post a job when the first event is asked for, and yield what happens to it; the last event is its ending.

        As `Client.stream`. A loop that may be left early belongs into `contextlib.aclosing`, as with any asynchronous
        generator; without it the job is cancelled when the garbage collector finds the generator.
        """
        content, key = await asyncio.to_thread(request.body, prompt, fields), str(uuid.uuid4())
        try:
            job_id = (await self._post(content, key)).job_id
        except Exception:
            raise  # it was refused, or nobody was there
        except BaseException:  # the post may have arrived: posting it again tells which job it became
            if cancel_on_exit:
                await self._say_goodbye(self._cancel_at_exit(content, key))
            raise
        async with contextlib.aclosing(self.follow(job_id, cancel_on_exit=cancel_on_exit)) as events:
            async for event in events:
                yield event

    async def follow(self, job_id: str, *, after: int = 0, cancel_on_exit: bool = False) -> AsyncGenerator[Event]:
        """The events of a job that was posted before, behind the event `after`. Otherwise as `stream`."""
        following = protocol.Following(self._http.base_url, after, self._patience_s)
        path = protocol.path_of(job_id, "/stream")
        try:
            while not following.done():
                try:
                    headers = following.headers()
                    async with self._http.stream("GET", path, headers=headers, timeout=STREAM_S) as response:
                        if response.status_code != 200:
                            await response.aread()
                        if following.opened(response):
                            async for chunk in response.aiter_bytes():
                                for event in following.feed(chunk):
                                    yield event
                                if following.done():
                                    return
                except httpx.HTTPError as error:
                    following.broken(error)
                if not following.done():
                    await self._sleep(following.wait_s())
        finally:
            if cancel_on_exit and not following.done():
                await self._say_goodbye(self._cancel_quietly(job_id))

    async def submit(self, prompt: str, *, idempotency_key: str | None = None, **fields: Unpack[JobFields]) -> Job:
        """Post a job and return without waiting for it, as `Client.submit`. Raises ClientError."""
        content = await asyncio.to_thread(request.body, prompt, fields)
        return await self._post(content, idempotency_key or str(uuid.uuid4()))

    async def job(self, job_id: str) -> Job:
        """The job as it stands now. Raises ClientError."""
        return protocol.job_of(await self._ask("GET", protocol.path_of(job_id)))

    async def jobs(self, *, status: str | None = None) -> AsyncIterator[Job]:
        """The jobs that the worker knows, newest first. Raises ClientError."""
        query: dict[str, str | int] = {"limit": protocol.PAGE} | ({"status": status} if status else {})
        while True:
            page, after = protocol.page_of(await self._ask("GET", protocol.JOBS, params=query))
            for job in page:
                yield job
            if after is None:
                return
            query["after"] = after

    async def cancel(self, job_id: str) -> Job:
        """Cancel; a running job ends within a step, one that has ended stays as it is. Raises ClientError."""
        return protocol.job_of(await self._ask("DELETE", protocol.path_of(job_id)))

    async def info(self) -> dict[str, Any]:
        """What the worker is and offers, as `GET /v1/info` has it. Raises ClientError."""
        return await self._ask("GET", protocol.INFO)

    async def result(self, completed: Completed) -> Result:
        """The pictures of a completed job. Raises ClientError."""
        images = tuple([await self.fetch(link) for link in completed.images])
        return Result(completed.job_id, images, completed.images, completed.timings, completed.warnings)

    async def fetch(self, link: ImageLink) -> Image.Image:
        """A finished picture. Raises ClientError."""
        return await asyncio.to_thread(protocol.picture_of, await self.fetch_bytes(link))

    async def fetch_bytes(self, link: ImageLink) -> bytes:
        """A finished picture as the file that the worker made of it. Raises ClientError."""
        repeats = protocol.Repeats(self._http.base_url, self._patience_s, self._busy_s)
        return (await self._insist(repeats, "GET", protocol.own_path(link.url))).content

    async def _post(self, content: bytes, key: str) -> Job:
        repeats = protocol.Repeats(self._http.base_url, self._patience_s, self._busy_s)
        headers = {"Content-Type": "application/json", "Idempotency-Key": key}
        response = await self._insist(repeats, "POST", protocol.JOBS, content=content, headers=headers)
        return protocol.job_of(protocol.json_of(response))

    async def _insist(self, repeats: protocol.Repeats, method: str, path: str, **details: Any) -> httpx.Response:
        """A successful response, on as many tries as it takes. Raises ClientError."""
        while True:
            try:
                response = await self._http.request(method, path, **details)
            except httpx.HTTPError as error:
                wait_s: float | None = repeats.broken(error)
            else:
                wait_s = repeats.answered(response)
                if wait_s is None:
                    return protocol.successful(response)
            await self._sleep(wait_s or 0.0)

    async def _ask(self, method: str, path: str, **details: Any) -> dict[str, Any]:
        """One try, for what is asked by somebody who waits. Raises ClientError."""
        try:
            response = await self._http.request(method, path, **details)
        except httpx.HTTPError as error:
            raise protocol.unreachable(self._http.base_url, error) from None
        return protocol.json_of(response)

    async def _say_goodbye(self, cancelling: Coroutine[Any, Any, None]) -> None:
        """In a task of its own, since the one that leaves may be cancelled again at its next await."""
        task = asyncio.create_task(cancelling)
        self._goodbyes.add(task)
        task.add_done_callback(self._goodbyes.discard)
        await asyncio.shield(task)

    async def _cancel_quietly(self, job_id: str) -> None:
        with contextlib.suppress(ClientError):
            await self._ask("DELETE", protocol.path_of(job_id), timeout=GOODBYE_S)

    async def _cancel_at_exit(self, content: bytes, key: str) -> None:
        headers = {"Content-Type": "application/json", "Idempotency-Key": key}
        with contextlib.suppress(ClientError):
            answer = await self._ask("POST", protocol.JOBS, content=content, headers=headers, timeout=GOODBYE_S)
            await self._cancel_quietly(protocol.job_of(answer).job_id)
