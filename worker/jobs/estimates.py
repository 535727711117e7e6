"""How long things will take, from what the engine was seen to need so far. Pure functions of a snapshot.

The engine's policy is played through: calls of so many rows; of the jobs under way those that have least left go
first, then the waiting ones in their order. Whoever may still come is not foreseen.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterable, Sequence

from worker.jobs.engine import Load, Pace, Snapshot
from worker.jobs.facts import Guidance
from worker.jobs.params import JobParams

Place = tuple[int, float | None]
"""A waiting job's position (0: it is next) and its estimate in seconds, None while the pace is unknown."""
UNKNOWN_RETRY_S = 5
LONGEST_RETRY_S = 600


def places(
    snapshot: Snapshot, params: Callable[[str], JobParams | None], guidance: Guidance = Guidance.ROWS
) -> dict[str, Place]:
    """Of every waiting job by its id; `params` gives what a job asks for, `guidance` is the model's."""
    if snapshot.pace is None:
        return {job_id: (position, None) for position, job_id in enumerate(snapshot.waiting)}
    loads = [*_least_first(snapshot.loads), *(load_of(params(job_id), guidance) for job_id in snapshot.waiting)]
    ends = ends_s(loads, snapshot.pace)[len(snapshot.loads) :]
    return {job_id: (place, round(ends[place], 3)) for place, job_id in enumerate(snapshot.waiting)}


def all_done_s(
    snapshot: Snapshot, params: Callable[[str], JobParams | None], guidance: Guidance = Guidance.ROWS
) -> float | None:
    """Seconds until everything that was accepted is done; None while the pace is unknown."""
    if snapshot.pace is None:
        return None
    waiting = [load_of(params(job_id), guidance) for job_id in snapshot.waiting]
    return round(max(ends_s([*_least_first(snapshot.loads), *waiting], snapshot.pace), default=0.0), 3)


def retry_after_s(snapshot: Snapshot) -> int:
    """Whole seconds until a place in the queue should be free: when the next running job ends."""
    if snapshot.pace is None or not snapshot.loads:
        return UNKNOWN_RETRY_S
    return max(1, min(LONGEST_RETRY_S, math.ceil(min(ends_s(_least_first(snapshot.loads), snapshot.pace)))))


def ends_s(loads: Sequence[Load], pace: Pace) -> list[float]:
    """Seconds from now until each is done, if rows are given to them in this order."""
    step_s = pace.step_s(sum(load.rows for load in loads))
    free_at = [0.0] * pace.call_rows
    ends = []
    for load in loads:
        rows = min(load.rows, pace.call_rows)
        begins = max((heapq.heappop(free_at) for _ in range(rows)), default=0.0)
        calls = load.steps * math.ceil(load.rows / pace.call_rows)  # what does not fit into one call takes several
        ends.append(begins + calls * (step_s if load.step_s is None else load.step_s))
        for _ in range(rows):
            heapq.heappush(free_at, ends[-1])
    # A decoding holds up everyone who is still there.
    decoded = 0
    for place in sorted(range(len(loads)), key=ends.__getitem__):
        decoded += loads[place].images
        ends[place] += decoded * pace.decode_s
    return ends


def load_of(params: JobParams | None, guidance: Guidance = Guidance.ROWS) -> Load:
    """What a job that waits will be; nothing for one that is not known any more."""
    if params is None:
        return Load(0, 0, 0)
    drawings = params.num_images * (params.upscale.tiles if params.upscale else 1)
    return Load(guidance.rows(params.guidance_scale) * drawings, params.steps_drawn, drawings)


def _least_first(loads: Iterable[Load]) -> list[Load]:
    return sorted(loads, key=lambda load: load.steps * load.images)
