"""B0, and with `--compile` B1: one file, one lock, one pipeline call a request. What most would write first."""

from __future__ import annotations

import argparse
import threading
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI

from benches.speed.arms.pipeline import as_base64_png, compiled, draw, load
from benches.speed.job import Job


def make_app(pipeline: Any) -> FastAPI:
    """FastAPI calls `draw_one` in its thread pool; the lock lets one after the other have the device."""
    app = FastAPI()
    lock = threading.Lock()

    @app.post("/draw")
    def draw_one(job: Job) -> dict[str, str]:
        with lock:
            image = draw(pipeline, [job])[0]
        return {"image": as_base64_png(image)}

    @app.get("/ready")
    def ready() -> dict[str, bool]:
        return {"ready": True}

    return app


def main() -> None:
    """Serve until stopped."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--port", type=int, required=True)
    args = parser.parse_args()
    pipeline = load(args.model)
    app = make_app(compiled(pipeline) if args.compile else pipeline)
    uvicorn.run(app, host="127.0.0.1", port=args.port, log_level="warning")


if __name__ == "__main__":
    main()
