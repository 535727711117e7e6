"""Euler's method on the probability flow; Karras et al., "Elucidating the Design Space", 2022, algorithm 2, no churn.

Latents live in Karras' coordinates here, x = x_0 + sigma noise, and are scaled for the model.
"""

from __future__ import annotations

import numpy as np

from worker.engine.sampling.plan import Plan, make_plan
from worker.engine.sampling.schedule import Array, NoiseSchedule


def plan(schedule: NoiseSchedule, steps: int) -> Plan:
    """Timesteps may be fractions; sigmas are interpolated between those of the training."""
    count = schedule.num_train_timesteps
    timesteps: Array
    spacing = schedule.spacing or "linspace"
    match spacing:
        case "linspace":
            timesteps = np.linspace(0, count - 1, steps)[::-1]
        case "leading":
            timesteps = np.arange(steps)[::-1] * float(count // steps) + schedule.steps_offset
        case _:
            timesteps = schedule.trailing(steps)
    sigma = np.interp(timesteps, np.arange(count), schedule.sigmas)
    sigma_next = np.append(sigma[1:], 0.0)
    input_scale = 1.0 / np.sqrt(sigma**2 + 1)
    # The model's own x is input_scale times ours: its signal is input_scale, its noise sigma * input_scale.
    x0_from_x, x0_from_output = schedule.x0_from(input_scale, sigma * input_scale)
    largest = float(sigma.max())
    return make_plan(
        timesteps,
        float(np.sqrt(largest**2 + 1)) if spacing == "leading" else largest,
        input_scale=input_scale,
        x0_from_x=x0_from_x * input_scale,
        x0_from_output=x0_from_output,
        from_x=sigma_next / sigma,
        from_x0=1 - sigma_next / sigma,
    )
