"""Clients of the arms: the worker over its contract, the reference servers over their one route."""

from __future__ import annotations

import base64
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import asdict
from typing import Any, Protocol, Self

import httpx

from benches.speed.job import Job
from benches.speed.serving.sse import Arrived, SseParser

PNG = b"\x89PNG\r\n\x1a\n"
TIMEOUT_S = 300.0
ENDINGS = ("completed", "failed", "cancelled")


class Client(Protocol):
    """Anything that draws."""

    async def draw(self, job: Job) -> bytes:
        """The PNG of a job. Raises httpx.HTTPError, or ArmFault."""


class ArmFault(Exception):
    """An arm answered, and not with a picture."""


class _Http:
    def __init__(self, url: str) -> None:
        # Loopback: no proxy; as many connections as there are clients, kept open as clients do.
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
        self._http = httpx.AsyncClient(base_url=url, timeout=TIMEOUT_S, trust_env=False, limits=limits)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._http.aclose()


class ReferenceClient(_Http):
    """One POST that lasts until the picture is there, as base64 in JSON."""

    async def draw(self, job: Job) -> bytes:
        """As `Client` has it."""
        response = (await self._http.post("/draw", json=asdict(job))).raise_for_status()
        return _picture(base64.b64decode(response.json()["image"]))


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
        response = (await self._http.post("/v1/jobs", json=asdict(job) | more)).raise_for_status()
        accepted: dict[str, Any] = response.json()
        return accepted

    async def events(self, posted: dict[str, Any]) -> AsyncGenerator[Arrived, None]:
        """The job's stream, to be closed by whoever leaves it early."""
        parser = SseParser()
        async with self._http.stream("GET", posted["sse_url"]) as response:
            response.raise_for_status()
            async for chunk in response.aiter_raw():
                for event in parser.feed(chunk, time.monotonic()):
                    yield event

    async def fetch(self, completed: Arrived) -> bytes:
        """The first picture of a job that is completed."""
        return _picture((await self._http.get(completed.data["images"][0]["url"])).raise_for_status().content)

    async def running(self) -> list[str]:
        """The stream addresses of all jobs that run."""
        response = (await self._http.get("/v1/jobs", params={"status": "running"})).raise_for_status()
        return [job["sse_url"] for job in response.json()["jobs"]]

    async def cancel(self, posted: dict[str, Any]) -> dict[str, Any]:
        """The job as it stood when the worker took the cancel."""
        response = (await self._http.delete(f"/v1/jobs/{posted['job_id']}")).raise_for_status()
        job: dict[str, Any] = response.json()
        return job


def _picture(data: bytes) -> bytes:
    if not data.startswith(PNG):
        raise ArmFault("what came is no PNG")
    return data
