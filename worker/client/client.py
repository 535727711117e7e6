"""The client for ordinary, synchronous programs and notebooks."""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Callable, Generator, Iterator
from typing import Any, Self, Unpack

import httpx
from PIL import Image

from worker.client import protocol, request
from worker.client.connection import GOODBYE_S, STREAM_S, settings
from worker.client.errors import ClientError
from worker.client.events import Completed, Ending, Event
from worker.client.job import ImageLink, Job, Result
from worker.client.request import JobFields, SingleJobFields

Watcher = Callable[[Event], object]
PATIENCE_S = 60.0


class Client:
    """A worker at `url` (else `SDW_URL`, else this machine's usual port), with `token` (else `SDW_TOKEN`).

    `patience_s` is how long a worker may be away, restarting or cut off, before Unreachable is raised; `busy_s` how
    long a post waits for room in a full queue. Safe to use from several threads. Raises ValueError for a wrong address.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        token: str | None = None,
        patience_s: float = PATIENCE_S,
        busy_s: float = PATIENCE_S,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._http = httpx.Client(**settings(url, token))
        self._patience_s = patience_s
        self._busy_s = busy_s
        self._sleep = sleep

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the connections."""
        self._http.close()

    @property
    def url(self) -> str:
        """The worker's address."""
        return str(self._http.base_url).rstrip("/")

    def generate(
        self,
        prompt: str,
        *,
        cancel_on_exit: bool = False,
        on_event: Watcher | None = None,
        **fields: Unpack[SingleJobFields],
    ) -> Image.Image:
        """One finished picture. Raises ClientError.

        `on_event` is shown every event on the way. With `cancel_on_exit`, leaving by an exception, Ctrl+C included,
        cancels the job.
        """
        if "num_images" in fields:
            raise TypeError("generate draws one picture; generate_all draws num_images of them")
        return self.generate_all(prompt, cancel_on_exit=cancel_on_exit, on_event=on_event, **fields).image

    def generate_all(
        self,
        prompt: str,
        *,
        cancel_on_exit: bool = False,
        on_event: Watcher | None = None,
        **fields: Unpack[JobFields],
    ) -> Result:
        """All pictures of one job, with their seeds, timings and warnings. Otherwise as `generate`."""
        done = self.run(prompt, cancel_on_exit=cancel_on_exit, on_event=on_event, **fields)
        return self.result(done)

    def run(
        self,
        prompt: str,
        *,
        cancel_on_exit: bool = False,
        on_event: Watcher | None = None,
        **fields: Unpack[JobFields],
    ) -> Completed:
        """Draw, and leave the pictures with the worker: `fetch` and `fetch_bytes` get them. Otherwise as `generate`."""
        ending: Ending | None = None
        with contextlib.closing(self.stream(prompt, cancel_on_exit=cancel_on_exit, **fields)) as events:
            for event in events:
                if on_event is not None:
                    on_event(event)
                if isinstance(event, Ending):
                    ending = event
        return protocol.completed(ending)

    def stream(
        self, prompt: str, *, cancel_on_exit: bool = False, **fields: Unpack[JobFields]
    ) -> Generator[Event, None, None]:
        """Post a job when the first event is asked for, and yield what happens to it; the last event is its ending.

        Lost connections are made again and continue where they broke off. With `cancel_on_exit`, a loop that is left
        early, however, cancels the job. Raises ClientError.
        """
        job_id: str | None = None
        content, key = request.body(prompt, fields), str(uuid.uuid4())
        try:
            job_id = self._post(content, key).job_id
        except Exception:
            raise  # it was refused, or nobody was there
        except BaseException:  # the post may have arrived: posting it again tells which job it became
            if cancel_on_exit:
                self._cancel_at_exit(content, key)
            raise
        yield from self.follow(job_id, cancel_on_exit=cancel_on_exit)

    def follow(self, job_id: str, *, after: int = 0, cancel_on_exit: bool = False) -> Generator[Event, None, None]:
        """The events of a job that was posted before, behind the event `after`. Otherwise as `stream`."""
        following = protocol.Following(self._http.base_url, after, self._patience_s)
        path = protocol.path_of(job_id, "/stream")
        try:
            while not following.done():
                try:
                    with self._http.stream("GET", path, headers=following.headers(), timeout=STREAM_S) as response:
                        if response.status_code != 200:
                            response.read()
                        if following.opened(response):
                            for chunk in response.iter_bytes():
                                yield from following.feed(chunk)
                                if following.done():
                                    return
                except httpx.HTTPError as error:
                    following.broken(error)
                if not following.done():
                    self._sleep(following.wait_s())
        finally:
            if cancel_on_exit and not following.done():
                self._cancel_quietly(job_id)

    def submit(self, prompt: str, *, idempotency_key: str | None = None, **fields: Unpack[JobFields]) -> Job:
        """Post a job and return without waiting for it. Raises ClientError.

        A post that may or may not have arrived is sent again under the same key, so it is one job in any case. With a
        key of your own that also holds for a program that is started again.
        """
        return self._post(request.body(prompt, fields), idempotency_key or str(uuid.uuid4()))

    def job(self, job_id: str) -> Job:
        """The job as it stands now. Raises ClientError."""
        return protocol.job_of(self._ask("GET", protocol.path_of(job_id)))

    def jobs(self, *, status: str | None = None) -> Iterator[Job]:
        """The jobs that the worker knows, newest first. Raises ClientError."""
        query: dict[str, str | int] = {"limit": protocol.PAGE} | ({"status": status} if status else {})
        while True:
            page, after = protocol.page_of(self._ask("GET", protocol.JOBS, params=query))
            yield from page
            if after is None:
                return
            query["after"] = after

    def cancel(self, job_id: str) -> Job:
        """Cancel; a running job ends within a step, one that has ended stays as it is. Raises ClientError."""
        return protocol.job_of(self._ask("DELETE", protocol.path_of(job_id)))

    def info(self) -> dict[str, Any]:
        """What the worker is and offers, as `GET /v1/info` has it. Raises ClientError."""
        return self._ask("GET", protocol.INFO)

    def result(self, completed: Completed) -> Result:
        """The pictures of a completed job. Raises ClientError."""
        images = tuple(self.fetch(link) for link in completed.images)
        return Result(completed.job_id, images, completed.images, completed.timings, completed.warnings)

    def fetch(self, link: ImageLink) -> Image.Image:
        """A finished picture. Raises ClientError."""
        return protocol.picture_of(self.fetch_bytes(link))

    def fetch_bytes(self, link: ImageLink) -> bytes:
        """A finished picture as the file that the worker made of it. Raises ClientError."""
        repeats = protocol.Repeats(self._http.base_url, self._patience_s, self._busy_s)
        return self._insist(repeats, "GET", protocol.own_path(link.url)).content

    def _post(self, content: bytes, key: str) -> Job:
        repeats = protocol.Repeats(self._http.base_url, self._patience_s, self._busy_s)
        headers = {"Content-Type": "application/json", "Idempotency-Key": key}
        response = self._insist(repeats, "POST", protocol.JOBS, content=content, headers=headers)
        return protocol.job_of(protocol.json_of(response))

    def _insist(self, repeats: protocol.Repeats, method: str, path: str, **details: Any) -> httpx.Response:
        """A successful response, on as many tries as it takes. Raises ClientError."""
        while True:
            try:
                response = self._http.request(method, path, **details)
            except httpx.HTTPError as error:
                wait_s: float | None = repeats.broken(error)
            else:
                wait_s = repeats.answered(response)
                if wait_s is None:
                    return protocol.successful(response)
            self._sleep(wait_s or 0.0)

    def _ask(self, method: str, path: str, **details: Any) -> dict[str, Any]:
        """One try, for what is asked by somebody who waits. Raises ClientError."""
        try:
            response = self._http.request(method, path, **details)
        except httpx.HTTPError as error:
            raise protocol.unreachable(self._http.base_url, error) from None
        return protocol.json_of(response)

    def _cancel_quietly(self, job_id: str) -> None:
        with contextlib.suppress(ClientError):
            self._ask("DELETE", protocol.path_of(job_id), timeout=GOODBYE_S)

    def _cancel_at_exit(self, content: bytes, key: str) -> None:
        headers = {"Content-Type": "application/json", "Idempotency-Key": key}
        with contextlib.suppress(ClientError):
            answer = self._ask("POST", protocol.JOBS, content=content, headers=headers, timeout=GOODBYE_S)
            self._cancel_quietly(protocol.job_of(answer).job_id)
