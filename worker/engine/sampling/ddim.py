"""DDIM without added noise; Song et al., "Denoising Diffusion Implicit Models", 2020, equation 12."""

from __future__ import annotations

import numpy as np

from worker.engine.sampling.plan import Plan, make_plan
from worker.engine.sampling.schedule import Array, NoiseSchedule


def plan(schedule: NoiseSchedule, steps: int, first: int = 0) -> Plan:
    """Latents are not clipped: that is for models that work on pixels."""
    count = schedule.num_train_timesteps
    timesteps: Array
    match schedule.spacing or "leading":
        case "linspace":
            timesteps = np.linspace(0, count - 1, steps).round()[::-1]
        case "leading":
            timesteps = np.arange(steps)[::-1] * float(count // steps) + schedule.steps_offset
        case _:
            timesteps = schedule.trailing(steps)
    before = timesteps.astype(np.int64)
    after = before - count // steps
    abar = schedule.alphas_cumprod[before]
    abar_next = np.where(after >= 0, schedule.alphas_cumprod[np.maximum(after, 0)], schedule.final_alpha)
    alpha, sigma = np.sqrt(abar), np.sqrt(1 - abar)
    alpha_next, sigma_next = np.sqrt(abar_next), np.sqrt(1 - abar_next)
    x0_from_x, x0_from_output = schedule.x0_from(alpha, sigma)
    return make_plan(
        timesteps,
        1.0,
        x0_from_x=x0_from_x,
        x0_from_output=x0_from_output,
        from_x=sigma_next / sigma,
        from_x0=alpha_next - alpha * sigma_next / sigma,
        signal=alpha,
        level=sigma,
    ).begun_at(first)
