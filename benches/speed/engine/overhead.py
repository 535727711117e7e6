"""Row 3: what the engine costs a job in each step beyond the model call: sampler, guidance, choosing, telling.

Taken between the end of one model call and the beginning of the next, where no job comes or goes.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import Any, cast

import torch

from benches.speed.bench import Bench
from benches.speed.engine.rig import EngineRig
from benches.speed.job import stream_of_jobs
from benches.speed.outcome import Group, Outcome
from benches.speed.spread import Spread, quartiles
from shared_worker.device import find_device
from worker.models.base import Model
from worker.models.registry import identify

JOBS = 8
ROWS_EACH = 2


@dataclass(frozen=True)
class Call:
    """One model call, on the performance counter, in seconds."""

    began: float
    ended: float
    rows: int


class TimedModel:
    """Keeps the times of `predict`; is the model in all else."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self.calls: list[Call] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def predict(
        self, latents: torch.Tensor, timesteps: torch.Tensor, conditioning: Mapping[str, torch.Tensor]
    ) -> torch.Tensor:
        """As the model does."""
        began = time.perf_counter()
        output = self._model.predict(latents, timesteps, conditioning)
        self.calls.append(Call(began, time.perf_counter(), len(latents)))
        return output


def measure(bench: Bench) -> Outcome:
    """Eight guided jobs, and one alone, in turns."""
    torch.set_num_threads(bench.threads)
    checkpoint = identify("builtin", dtype="float32", samplers=("dpmpp_2m",))
    models: list[TimedModel] = []

    def timed(model: Model) -> Model:
        models.append(TimedModel(model))
        return cast(Model, models[-1])

    steps, rounds = bench.pick((40, 5), (10, 1))
    jobs = stream_of_jobs(steps)
    costs: dict[int, list[float]] = {JOBS: [], 1: []}
    call_s: dict[int, list[float]] = {JOBS: [], 1: []}
    with EngineRig(checkpoint, find_device("cpu"), max_rows=ROWS_EACH * JOBS, wrap=timed) as rig:
        rig.draw(list(islice(jobs, JOBS)), at_once=JOBS)  # warm
        for _ in range(rounds):
            for count in costs:
                models[0].calls.clear()
                rig.draw(list(islice(jobs, count)), at_once=count)
                costs[count] += gaps_s(models[0].calls, ROWS_EACH * count)
                call_s[count] += [call.ended - call.began for call in models[0].calls if call.rows == ROWS_EACH * count]
    shown = {f"{count} jobs at once" if count > 1 else "one job": count for count in costs}
    per_job = {name: _per_job_us(costs[count], count) for name, count in shown.items()}
    groups = (
        Group("cost of a job-step beyond the model call", "µs", per_job),
        Group("the model call", "ms", {name: quartiles([1e3 * s for s in call_s[n]]) for name, n in shown.items()}),
    )
    return Outcome(3, {"3.cost": _per_job_us(costs[JOBS], JOBS)}, groups)


def gaps_s(calls: list[Call], rows: int) -> list[float]:
    """Seconds between neighbouring calls that both had all the rows: nobody joined or left in between."""
    return [after.began - before.ended for before, after in pairwise(calls) if before.rows == after.rows == rows]


def _per_job_us(gaps: list[float], jobs: int) -> Spread:
    return quartiles([1e6 * gap / jobs for gap in gaps])
