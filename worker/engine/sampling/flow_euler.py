"""Euler's method on the straight lines of flow matching: the model's output is noise less the clean latent."""

from __future__ import annotations

import numpy as np

from worker.engine.sampling.flow import FlowSchedule
from worker.engine.sampling.plan import Plan, make_plan


def plan(schedule: FlowSchedule, steps: int, first: int = 0) -> Plan:
    """One call a step, to sigma 0."""
    sigma = schedule.sigmas(steps)
    left = np.append(sigma[1:], 0.0) / sigma
    return make_plan(
        sigma * schedule.num_train_timesteps,
        1.0,
        x0_from_x=np.ones(steps),
        x0_from_output=-sigma,
        from_x=left,
        from_x0=1.0 - left,
        signal=1.0 - sigma,
        level=sigma,
    ).begun_at(first)
