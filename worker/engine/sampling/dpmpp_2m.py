"""DPM-Solver++(2M); Lu et al., "DPM-Solver++", 2022, algorithm 2, with a first-order step at both ends.

Also on Karras' noise levels, and as the solver of the stochastic equation (the paper's SDE-DPM-Solver++(2M)).
"""

from __future__ import annotations

import numpy as np

from worker.engine.sampling.plan import Plan, make_plan
from worker.engine.sampling.schedule import Array, NoiseSchedule


def plan(schedule: NoiseSchedule, steps: int, first: int = 0) -> Plan:
    """On the checkpoint's own timesteps."""
    return solve(schedule, *spaced(schedule, steps), first, stochastic=False)


def plan_karras(schedule: NoiseSchedule, steps: int, first: int = 0) -> Plan:
    """On Karras' noise levels."""
    return solve(schedule, *schedule.karras(steps), first, stochastic=False)


def plan_sde(schedule: NoiseSchedule, steps: int, first: int = 0) -> Plan:
    """On the checkpoint's own timesteps, with fresh noise at each step."""
    return solve(schedule, *spaced(schedule, steps), first, stochastic=True)


def spaced(schedule: NoiseSchedule, steps: int) -> tuple[Array, Array]:
    """Timesteps as diffusers' DPMSolverMultistepScheduler spaces them, and noise over signal there.  # each [steps]"""
    count = schedule.num_train_timesteps
    timesteps: Array
    match schedule.spacing or "linspace":
        case "linspace":
            timesteps = np.linspace(0, count - 1, steps + 1).round()[::-1][:-1]
        case "leading":
            timesteps = np.arange(steps + 1)[::-1][:-1] * float(count // (steps + 1)) + schedule.steps_offset
        case _:
            timesteps = schedule.trailing(steps)
    return timesteps, np.interp(timesteps, np.arange(count), schedule.sigmas)


def solve(schedule: NoiseSchedule, timesteps: Array, ratio: Array, first: int, *, stochastic: bool) -> Plan:
    """The multistep solver through given points from step `first` on, then to noise 0.

    `ratio` is noise over signal at each point  # [steps].
    """
    steps = len(timesteps)
    alpha = 1.0 / np.sqrt(ratio**2 + 1)
    sigma = ratio * alpha
    alpha_next, sigma_next = np.append(alpha[1:], 1.0), np.append(sigma[1:], 0.0)
    lambda_ = np.log(alpha / sigma)
    h = np.diff(lambda_)  # [steps - 1]; infinite for the last step, where exp(-h) is 0
    # The stochastic equation forgets twice as fast, and noise makes up for it.
    forget = np.append(np.exp(-2.0 * h if stochastic else -h), 0.0)
    from_x0 = alpha_next * (1.0 - forget)
    from_x0_before = np.zeros(steps)
    for k in range(first + 1, steps - 1):
        half = 0.5 * from_x0[k] * h[k] / h[k - 1]  # 1 / (2 r_0) of the paper
        from_x0_before[k] = -half
        from_x0[k] += half
    x0_from_x, x0_from_output = schedule.x0_from(alpha, sigma)
    return make_plan(
        timesteps,
        1.0,
        x0_from_x=x0_from_x,
        x0_from_output=x0_from_output,
        from_x=sigma_next / sigma * (np.append(np.exp(-h), 0.0) if stochastic else 1.0),
        from_x0=from_x0,
        from_x0_before=from_x0_before,
        from_noise=sigma_next * np.sqrt(1.0 - forget) if stochastic else None,
        signal=alpha,
        level=sigma,
    ).begun_at(first)
