"""How long things will take, from what the engine was seen to need so far. Pure functions of a snapshot."""

from __future__ import annotations

import math
from collections.abc import Callable

from worker.jobs.engine import Snapshot
from worker.jobs.params import JobParams

Place = tuple[int, float | None]
"""A waiting job's position (0: it is next) and its estimate in seconds, None while the pace is unknown."""
UNKNOWN_RETRY_S = 5
LONGEST_RETRY_S = 600


def places(snapshot: Snapshot, params: Callable[[str], JobParams | None]) -> dict[str, Place]:
    """Of every waiting job by its id; `params` gives what a job asks for."""
    found: dict[str, Place] = {}
    ahead, image_step_s = snapshot.running_image_steps, snapshot.image_step_s
    for position, job_id in enumerate(snapshot.waiting):
        ahead += _image_steps(params(job_id))
        found[job_id] = position, None if image_step_s is None else round(ahead * image_step_s, 3)
    return found


def all_done_s(snapshot: Snapshot, params: Callable[[str], JobParams | None]) -> float | None:
    """Seconds until everything that was accepted is done."""
    if snapshot.image_step_s is None:
        return None
    waiting = sum(_image_steps(params(job_id)) for job_id in snapshot.waiting)
    return round((snapshot.running_image_steps + waiting) * snapshot.image_step_s, 3)


def retry_after_s(snapshot: Snapshot) -> int:
    """Whole seconds until a place in the queue should be free: when the first waiting job is taken up."""
    if snapshot.image_step_s is None or snapshot.running == 0:
        return UNKNOWN_RETRY_S
    per_job = snapshot.running_image_steps / snapshot.running
    return max(1, min(LONGEST_RETRY_S, math.ceil(per_job * snapshot.image_step_s)))


def _image_steps(params: JobParams | None) -> int:
    return 0 if params is None else params.steps * params.num_images
