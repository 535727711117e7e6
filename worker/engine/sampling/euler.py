"""Euler's method on the probability flow; Karras et al., "Elucidating the Design Space", 2022, algorithm 2, no churn.

Also its ancestral form, which steps beyond the next noise level and adds noise up to it (k-diffusion's
`sample_euler_ancestral`). Latents live in Karras' coordinates here, x = x_0 + sigma noise, and are
scaled for the model.
"""

from __future__ import annotations

import numpy as np

from worker.engine.sampling.plan import Plan, make_plan
from worker.engine.sampling.schedule import Array, NoiseSchedule


def plan(schedule: NoiseSchedule, steps: int, first: int = 0) -> Plan:
    """Without added noise."""
    return solve(schedule, steps, ancestral=False).begun_at(first)


def plan_ancestral(schedule: NoiseSchedule, steps: int, first: int = 0) -> Plan:
    """With fresh noise at each step."""
    return solve(schedule, steps, ancestral=True).begun_at(first)


def spaced(schedule: NoiseSchedule, steps: int) -> tuple[Array, Array, float]:
    """Timesteps, which may be fractions, the sigmas there  # each [steps], and the initial latents' scale."""
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
    largest = float(sigma.max())
    return timesteps, sigma, float(np.sqrt(largest**2 + 1)) if spacing == "leading" else largest


def prediction(schedule: NoiseSchedule, sigma: Array) -> tuple[Array, Array, Array]:
    """What x is multiplied by for the model; coefficients of x and of the output in x_0.  # each [steps]"""
    input_scale = 1.0 / np.sqrt(sigma**2 + 1)
    # The model's own x is input_scale times ours: its signal is input_scale, its noise sigma * input_scale.
    x0_from_x, x0_from_output = schedule.x0_from(input_scale, sigma * input_scale)
    return input_scale, x0_from_x * input_scale, x0_from_output


def solve(schedule: NoiseSchedule, steps: int, *, ancestral: bool) -> Plan:
    """One call a step, to sigma 0."""
    timesteps, sigma, initial_scale = spaced(schedule, steps)
    input_scale, x0_from_x, x0_from_output = prediction(schedule, sigma)
    sigma_next = np.append(sigma[1:], 0.0)
    sigma_up = np.sqrt(sigma_next**2 * (sigma**2 - sigma_next**2)) / sigma if ancestral else np.zeros(steps)
    sigma_down = np.sqrt(sigma_next**2 - sigma_up**2)
    return make_plan(
        timesteps,
        initial_scale,
        input_scale=input_scale,
        x0_from_x=x0_from_x,
        x0_from_output=x0_from_output,
        from_x=sigma_down / sigma,
        from_x0=1 - sigma_down / sigma,
        from_noise=sigma_up if ancestral else None,
        level=sigma,
    )
