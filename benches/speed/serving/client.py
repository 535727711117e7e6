"""Clients of the arms: the worker over its contract, the reference servers over their one route.

They share the machine with the servers, and would be elsewhere: so they are as light as clients in Python can be.
"""

from __future__ import annotations

import base64
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import asdict
from typing import Any, Protocol, Self

import aiohttp

from benches.speed.job import Job
from benches.speed.serving.sse import Arrived, SseParser

PNG = b"\x89PNG\r\n\x1a\n"
TIMEOUT_S = 300.0
ENDINGS = ("completed", "failed", "cancelled")


class Client(Protocol):
    """Anything that draws."""

    async def draw(self, job: Job) -> bytes:
        """The PNG of a job. Raises aiohttp.ClientError, or ArmFault."""


class ArmFault(Exception):
    """An arm answered, and not with a picture."""


class _Http:
    def __init__(self, url: str) -> None:
        self._url = url

    async def __aenter__(self) -> Self:
        # As many connections as there are clients, kept open as clients do.
        self._http = aiohttp.ClientSession(
            self._url,
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=TIMEOUT_S),
            raise_for_status=True,
        )
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._http.close()


class ReferenceClient(_Http):
    """One POST that lasts until the picture is there, as base64 in JSON."""

    async def draw(self, job: Job) -> bytes:
        """As `Client` has it."""
        async with self._http.post("/draw", json=asdict(job)) as response:
            return _picture(base64.b64decode((await response.json())["image"]))


class WorkerClient(_Http):
    """Post, follow, fetch."""

    async def draw(self, job: Job) -> bytes:
        """As `Client` has it."""
        posted = await self.post(job)
        async with aclosing(self.events(posted)) as events:
            async for event in events:
                if event.name == "completed":
                    return await self.fetch(event)
                if event.name in ENDINGS:
                    raise ArmFault(f"a job ended as {event.name}: {event.data}")
        raise ArmFault("a stream ended before its job")

    async def post(self, job: Job, **more: Any) -> dict[str, Any]:
        """The accepted job."""
        async with self._http.post("/v1/jobs", json=asdict(job) | more) as response:
            accepted: dict[str, Any] = await response.json()
        return accepted

    async def events(self, posted: dict[str, Any]) -> AsyncGenerator[Arrived, None]:
        """The job's stream, to be closed by whoever leaves it early."""
        parser = SseParser()
        async with self._http.get(posted["sse_url"]) as response:
            async for chunk in response.content.iter_any():
                for event in parser.feed(chunk, time.monotonic()):
                    yield event

    async def fetch(self, completed: Arrived) -> bytes:
        """The first picture of a job that is completed."""
        async with self._http.get(completed.data["images"][0]["url"]) as response:
            return _picture(await response.read())

    async def running(self) -> list[str]:
        """The stream addresses of all jobs that run."""
        async with self._http.get("/v1/jobs", params={"status": "running"}) as response:
            return [job["sse_url"] for job in (await response.json())["jobs"]]

    async def cancel(self, posted: dict[str, Any]) -> dict[str, Any]:
        """The job as it stood when the worker took the cancel."""
        async with self._http.delete(f"/v1/jobs/{posted['job_id']}") as response:
            job: dict[str, Any] = await response.json()
        return job


def _picture(data: bytes) -> bytes:
    if not data.startswith(PNG):
        raise ArmFault("what came is no PNG")
    return data
