"""What the two probes answer, in every state of a worker; without a web framework, so that it can be said early."""

from __future__ import annotations

from starlette.responses import JSONResponse

from worker.jobs.engine import EngineState

HEALTH, READY, METRICS = "/health", "/ready", "/metrics"
REASONS = {
    EngineState.LOADING: "loading",
    EngineState.DRAINING: "draining",
    EngineState.STOPPED: "draining",
    EngineState.FAILED: "failed",
}


def health_answer(healthy: bool) -> JSONResponse:
    """What `/health` answers."""
    return JSONResponse({"status": "healthy" if healthy else "unhealthy"}, 200 if healthy else 503)


def ready_answer(state: EngineState, load_progress: float) -> JSONResponse:
    """What `/ready` answers; with the load's progress while loading."""
    if state is EngineState.READY:
        return JSONResponse({"ready": True})
    answer: dict[str, bool | str | float] = {"ready": False, "reason": REASONS[state]}
    if state is EngineState.LOADING:
        answer["progress"] = round(load_progress, 3)
    return JSONResponse(answer, 503)
