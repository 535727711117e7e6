"""The one place where HTTP meets the engine: an application over a `JobService`."""

from __future__ import annotations

from collections.abc import Callable, MutableMapping, Sequence
from typing import Any

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware
from fastapi.telemetry import TelemetryConfig
from opentelemetry.trace import TracerProvider

from shared_worker.auth import Tokens
from shared_worker.contract import WorkerInfo
from worker import __version__
from worker.api import images, jobs, probes, problems, stream, studio
from worker.api.access import RequireToken
from worker.api.document import event_schemas
from worker.api.headers import SecurityHeaders
from worker.api.openai import router as openai
from worker.api.openai.edits import EditRequest
from worker.api.request import JobRequest, parts_of
from worker.api.sdapi import router as front_ends
from worker.api.stream import StreamTimes
from worker.jobs.facts import ModelFacts
from worker.jobs.service import JobService
from worker.metrics import Metrics

PREFLIGHT_S = 600
EXPOSED = (
    *("Location", "Retry-After", "x-should-retry", "X-Request-Id", "traceparent"),
    *("ETag", "Accept-Ranges", "Content-Range", "Content-Disposition"),
)
"""What pages of other origins may read of an answer, beside what any may."""


def create_app(
    service: JobService,
    facts: ModelFacts,
    metrics: Metrics,
    worker_info: Callable[[], WorkerInfo],
    tokens: Tokens,
    stream_grace_s: float,
    ping_s: float = stream.PING_S,
    metrics_auth: bool = False,
    cors_origins: Sequence[str] = (),
    sdapi: bool = False,
    tracer_provider: TracerProvider | None = None,
) -> FastAPI:
    """Everything is passed in; nothing is global, so tests build as many as they like.

    With `tracer_provider`, requests that may bring a job are traced: that one's spans go below theirs.
    """
    app = _Application(
        telemetry=_telemetry(tracer_provider),
        title="sd-worker",
        version=__version__,
        description="Serves one Stable Diffusion model; jobs are watched over Server-Sent Events.",
        redirect_slashes=False,
    )
    problems.install(app)
    app.include_router(jobs.router(service, facts))
    times = StreamTimes(stream_grace_s, ping_s)
    app.include_router(stream.router(service, metrics, times))
    app.include_router(images.router(service))
    app.include_router(openai.router(service, facts, metrics, times))
    if sdapi:
        app.include_router(front_ends.router(service, facts))
    app.include_router(probes.router(service, facts, metrics, worker_info))
    page = studio.load()
    app.include_router(studio.router(page))
    app.add_middleware(RequireToken, tokens=tokens, metrics_too=metrics_auth, page=page, origins=cors_origins)
    if cors_origins:  # outside of the token: a browser's preflight cannot carry one
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(cors_origins),
            allow_methods=["GET", "HEAD", "POST", "DELETE"],
            allow_headers=["*"],  # clients bring headers of their own
            expose_headers=EXPOSED,
            max_age=PREFLIGHT_S,
        )
    app.add_middleware(SecurityHeaders, other_origins=bool(cors_origins))
    return app


class _Application(FastAPI):
    """Its OpenAPI document holds by name what bodies have in common, and the events, which no response can show."""

    def openapi(self) -> dict[str, Any]:
        document = super().openapi()
        if "components" not in document:
            document["components"] = {"schemas": parts_of(JobRequest, EditRequest) | event_schemas()}
        return document


def _telemetry(tracer_provider: TracerProvider | None) -> TelemetryConfig:
    """The framework's own support, for traces alone: figures go to Prometheus, and its records hold request bodies."""
    return {
        "tracing": tracer_provider is not None,
        "tracer_provider": tracer_provider,
        "operation_spans": False,
        "metrics": False,
        "logs": False,
        "auto_configure": False,
        "exclude": _brings_no_job,
    }


def _brings_no_job(scope: MutableMapping[str, Any]) -> bool:
    """Probes and readers of streams would be most of all spans, and say nothing that a job's do not."""
    return bool(scope["method"] != "POST")
