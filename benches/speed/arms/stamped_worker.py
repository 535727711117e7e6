"""The worker, whose runner also writes down when each step ended: `stamped_worker FILE [the worker's flags]`."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from worker import main as worker_main
from worker.engine import denoiser
from worker.engine.denoiser import Denoiser
from worker.engine.latent_drawing import LatentDrawing
from worker.engine.runner import Pixels


def stamping(target: Path) -> type[Denoiser]:
    """A runner that appends `[seed, step, moment]` lines to `target` when a picture is finished.

    Moments are on the monotonic clock, in seconds.
    """
    target.touch()
    stamps: list[tuple[int, int, float]] = []

    class Stamping(Denoiser):
        def step(self, batch: Sequence[LatentDrawing]) -> None:
            super().step(batch)
            at = time.monotonic()
            stamps.extend((drawing.seed, drawing.step, at) for drawing in batch)

        def finish(self, drawing: LatentDrawing) -> Pixels:
            with target.open("a", encoding="utf-8") as file:
                file.writelines(json.dumps(stamp) + "\n" for stamp in stamps)
            stamps.clear()
            return super().finish(drawing)

    return Stamping


def main() -> int:
    """Serve as `sd-worker-cpu` does. The worker takes its runner out of the module when it starts."""
    denoiser.Denoiser = stamping(Path(sys.argv[1]))  # type: ignore[misc]
    return worker_main.run("cpu", sys.argv[2:])


if __name__ == "__main__":
    sys.exit(main())
