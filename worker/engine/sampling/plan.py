"""A job's whole sampling, worked out on the host when it is admitted: timesteps and coefficients.

Every sampler here is linear. What it keeps of a picture stands in slots, the first two of which are always

    x      the noisy latent that the next call sees
    x_0    the clean latent as the last call predicted it

and one model call turns all slots into the next ones by one small matrix:

    slots_next = table [slots; output; noise]

so that one vectorised update advances a whole batch, whatever samplers, step counts and progress its jobs
have. Only the matrices differ.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from worker.engine.sampling.schedule import Array

X, X0 = 0, 1
"""The slots that every sampler has."""


@dataclass(frozen=True, eq=False)
class Plan:
    """All calls of the model for one picture. Latents that begin as noise are noise times `initial_scale`.

    Before a call, and after the last one, the noisy latent of a clean one is x = `signal` x_0 + `level` noise
    # each [calls + 1]. `timesteps`  # [calls];  `input_scale`, what x is multiplied by for the model  # [calls];
    `table`  # [calls, slots, slots + 2];  `steps_done` after each call, since some samplers call more than once a
    step  # [calls];  `noisy`, whether the call draws noise from the job's generator  # [calls]
    """

    timesteps: npt.NDArray[np.float32]
    input_scale: npt.NDArray[np.float32]
    table: npt.NDArray[np.float32]
    steps_done: npt.NDArray[np.int64]
    noisy: npt.NDArray[np.bool_]
    signal: npt.NDArray[np.float32]
    level: npt.NDArray[np.float32]
    initial_scale: float

    @property
    def calls(self) -> int:
        return len(self.timesteps)

    @property
    def steps(self) -> int:
        return int(self.steps_done[-1])

    @property
    def slots(self) -> int:
        return int(self.table.shape[1])

    def begun_at(self, call: int) -> Plan:
        """The calls from `call` on; for one that remembers nothing of those before."""
        if call == 0:
            return self
        done = int(self.steps_done[call - 1])
        return Plan(
            timesteps=self.timesteps[call:],
            input_scale=self.input_scale[call:],
            table=self.table[call:],
            steps_done=self.steps_done[call:] - done,
            noisy=self.noisy[call:],
            signal=self.signal[call:],
            level=self.level[call:],
            initial_scale=self.initial_scale,
        )


def make_plan(
    timesteps: Array,
    initial_scale: float,
    *,
    x0_from_x: Array,
    x0_from_output: Array,
    from_x: Array,
    from_x0: Array,
    from_x0_before: Array | float = 0.0,
    from_noise: Array | None = None,
    input_scale: Array | float = 1.0,
    signal: Array | float = 1.0,
    level: Array,
) -> Plan:
    """The plan of a sampler that calls the model once a step and remembers nothing but x_0.  # each [steps]

    x_0    = x0_from_x x + x0_from_output output
    x_next = from_x x + from_x0 x_0 + from_x0_before x_0_before + from_noise noise
    """
    steps = len(timesteps)
    table = np.zeros((steps, 2, 4))
    table[:, X, 0] = from_x + from_x0 * x0_from_x
    table[:, X, 1] = from_x0_before
    table[:, X, 2] = from_x0 * x0_from_output
    table[:, X, 3] = 0.0 if from_noise is None else from_noise
    table[:, X0, 0] = x0_from_x
    table[:, X0, 2] = x0_from_output
    return Plan(
        timesteps=timesteps.astype(np.float32),
        input_scale=np.broadcast_to(np.asarray(input_scale, dtype=np.float32), (steps,)),
        table=table.astype(np.float32),
        steps_done=np.arange(1, steps + 1),
        noisy=np.full(steps, from_noise is not None),
        signal=np.append(np.broadcast_to(signal, (steps,)), 1.0).astype(np.float32),
        level=np.append(level, 0.0).astype(np.float32),
        initial_scale=float(initial_scale),
    )


def stack_tables(rows: list[tuple[Plan, int]]) -> npt.NDArray[np.float32]:
    """The matrices of one call of each plan, for as many slots as the one with most.  # [n, slots, slots + 2]"""
    slots = max(plan.slots for plan, _ in rows)
    tables = np.zeros((len(rows), slots, slots + 2), dtype=np.float32)
    for table, (plan, call) in zip(tables, rows, strict=True):
        own = plan.slots
        table[:own, :own] = plan.table[call, :, :own]
        table[:own, slots:] = plan.table[call, :, own:]
    return tables


def advance(state: torch.Tensor, output: torch.Tensor, noise: torch.Tensor | None, table: torch.Tensor) -> torch.Tensor:
    """The slots after one call, for a batch.  # [n, slots, C, h, w] in fp32

    `state`  # as the result;  `output`, `noise`  # [n, C, h, w];  `table`  # [n, slots, slots + 2]. Products
    and sums apart and always in this order, so that a picture's neighbours have no part in how it is rounded.
    """
    columns: Any = table[..., None, None, None].unbind(2)  # each [n, slots, 1, 1, 1]
    slots = state.shape[1]
    following: torch.Tensor = columns[slots] * output[:, None]
    for k in range(slots):
        following = following + columns[k] * state[:, k : k + 1]
    if noise is not None:
        following = following + columns[slots + 1] * noise[:, None]
    return following
