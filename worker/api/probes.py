"""What supervisors, orchestrators and Prometheus ask: health, readiness, metrics, info."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from fastapi import APIRouter
from starlette.responses import Response

from shared_worker.contract import WorkerInfo
from worker.api.readiness import HEALTH, METRICS, READY, health_answer, ready_answer
from worker.jobs.facts import ModelFacts
from worker.jobs.service import JobService
from worker.metrics import Metrics


def router(
    service: JobService, facts: ModelFacts, metrics: Metrics, worker_info: Callable[[], WorkerInfo]
) -> APIRouter:
    """Routes that answer whatever the engine is doing."""
    routes = APIRouter(tags=["worker"])

    @routes.head(HEALTH, include_in_schema=False)
    @routes.get(HEALTH, summary="Is the worker alive?", responses={503: {"description": "it is not"}})
    async def health() -> Response:
        """503 when the engine's thread is dead or makes no progress."""
        return health_answer(service.engine.snapshot().healthy)

    @routes.head(READY, include_in_schema=False)
    @routes.get(READY, summary="Does the worker take jobs to draw now?", responses={503: {"description": "not now"}})
    async def ready() -> Response:
        """503 with the reason, and with the load's progress while loading."""
        snapshot = service.engine.snapshot()
        return ready_answer(snapshot.state, snapshot.load_progress)

    @routes.head(METRICS, include_in_schema=False)
    @routes.get(METRICS, summary="Figures for Prometheus", response_class=Response)
    async def prometheus() -> Response:
        """Text exposition format."""
        snapshot = service.engine.snapshot()
        text = metrics.exposition(len(snapshot.waiting), snapshot.running)
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    @routes.head("/v1/info", include_in_schema=False)
    @routes.get("/v1/info", summary="What this worker is and offers")
    async def info() -> dict[str, Any]:
        """The worker, its model and defaults, tasks, samplers and limits."""
        model = asdict(facts)
        del model["enlargers"]  # which clients know by their names
        offered = {name: list(model.pop(name)) for name in ("tasks", "samplers", "loras", "controls", "embeddings")}
        return {
            "worker": worker_info().model_dump(mode="json"),
            "model": model,
            **offered,
            "upscalers": list(facts.upscalers),
            "limits": asdict(service.limits) | {"max_steps_by_sampler": model.pop("most_steps")},
        }

    return routes
