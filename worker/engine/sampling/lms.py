"""Linear multistep: the polynomial through the last four derivatives, integrated over the step.

As k-diffusion's `sample_lms`. Latents live in Karras' coordinates, as Euler's do.
"""

from __future__ import annotations

import numpy as np

from worker.engine.sampling.euler import prediction, spaced
from worker.engine.sampling.plan import X0, Plan, X
from worker.engine.sampling.schedule import Array, NoiseSchedule

ORDER = 4
NODES = np.array([-1.0, 1.0]) / np.sqrt(3.0)
OUTPUT, SLOTS = ORDER + 1, ORDER + 1
"""Slots: x, x_0, then the derivatives of the last three calls, newest first. The output's column is behind them."""


def plan(schedule: NoiseSchedule, steps: int, first: int = 0) -> Plan:
    """Timesteps as Euler's. Derivatives of calls before `first` count as nothing, and a rescaling of the noise is left
    out, as in diffusers."""
    schedule = schedule.not_rescaled()
    timesteps, sigma, initial_scale = spaced(schedule, steps)
    input_scale, x0_from_x, x0_from_output = prediction(schedule, sigma)
    levels = np.append(sigma, 0.0)
    table = np.zeros((steps, SLOTS, SLOTS + 2))
    table[:, X0, X], table[:, X0, OUTPUT] = x0_from_x, x0_from_output
    # The derivative of this call, (x - x_0) / sigma, is remembered; what was remembered moves on by one.
    table[:, 2, X], table[:, 2, OUTPUT] = (1.0 - x0_from_x) / sigma, -x0_from_output / sigma
    table[:, 3, 2] = table[:, 4, 3] = 1.0
    for call in range(steps):
        counts = integrals(levels, call)
        table[call, X] = counts[0] * table[call, 2]
        table[call, X, X] += 1.0
        table[call, X, 2 : 1 + len(counts)] = counts[1:]
    return Plan(
        timesteps=timesteps.astype(np.float32),
        input_scale=input_scale.astype(np.float32),
        table=table.astype(np.float32),
        steps_done=np.arange(1, steps + 1),
        noisy=np.zeros(steps, dtype=np.bool_),
        signal=np.ones(steps + 1, dtype=np.float32),
        level=levels.astype(np.float32),
        initial_scale=initial_scale,
    ).begun_at(first)


def integrals(levels: Array, call: int) -> Array:
    """What each of the last derivatives counts, newest first: Lagrange's polynomials from one level to the next.

    By Gauss and Legendre with two nodes, which is exact up to the third degree.
    """
    points = levels[max(0, call - ORDER + 1) : call + 1][::-1]
    middle, half = (levels[call + 1] + levels[call]) / 2, (levels[call + 1] - levels[call]) / 2
    nodes = middle + half * NODES
    apart = points[:, None] - points[None, :]  # [own, other]
    np.fill_diagonal(apart, 1.0)
    factors = (nodes[:, None, None] - points) / apart  # [node, own, other]
    factors[:, np.arange(len(points)), np.arange(len(points))] = 1.0
    whole: Array = half * factors.prod(axis=2).sum(axis=0)
    return whole
