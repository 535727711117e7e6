"""B2: B0 with a static micro-batcher. A batch waits 50 ms for company, takes up to eight equal jobs and runs to its
end, while others wait.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI

from benches.speed.arms.batcher import MicroBatcher
from benches.speed.arms.pipeline import as_base64_png, draw, load
from benches.speed.job import Job


def make_app(pipeline: Any) -> FastAPI:
    """The batcher lives as long as the application does."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.batcher = MicroBatcher(partial(draw, pipeline))
        task = asyncio.create_task(app.state.batcher.run())
        yield
        task.cancel()

    app = FastAPI(lifespan=lifespan)

    @app.post("/draw")
    async def draw_one(job: Job) -> dict[str, str]:
        image = await app.state.batcher.image(job)
        return {"image": await asyncio.to_thread(as_base64_png, image)}

    @app.get("/ready")
    def ready() -> dict[str, bool]:
        return {"ready": True}

    return app


def main() -> None:
    """Serve until stopped."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("--port", type=int, required=True)
    args = parser.parse_args()
    uvicorn.run(make_app(load(args.model)), host="127.0.0.1", port=args.port, log_level="warning")


if __name__ == "__main__":
    main()
