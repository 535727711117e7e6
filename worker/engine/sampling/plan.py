"""A job's whole sampling, worked out on the host when it is admitted: timesteps and coefficients.

Every sampler here is linear in the latent, the model's output and the last clean prediction:

    x_0    = a x + b output
    x_next = c x + d x_0 + e x_0_before + f noise

so that one vectorised update advances a whole batch, whatever samplers, step counts and progress its jobs
have. Only the rows of the coefficient table differ.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from worker.engine.sampling.schedule import Array

COLUMNS = ("input_scale", "x0_from_x", "x0_from_output", "from_x", "from_x0", "from_x0_before", "from_noise")


@dataclass(frozen=True, eq=False)
class Plan:
    """`timesteps`  # [steps];  `table`  # [steps, len(COLUMNS)];  initial latents are noise times `initial_scale`."""

    timesteps: npt.NDArray[np.float32]
    table: npt.NDArray[np.float32]
    initial_scale: float

    @property
    def steps(self) -> int:
        return len(self.timesteps)


def make_plan(timesteps: Array, initial_scale: float, **columns: Array) -> Plan:
    """A plan from named columns  # each [steps]; those left out are 0 (`input_scale`: 1)."""
    defaults = {name: np.zeros(len(timesteps)) for name in COLUMNS} | {"input_scale": np.ones(len(timesteps))}
    table = np.stack([(defaults | columns)[name] for name in COLUMNS], axis=1)
    return Plan(timesteps.astype(np.float32), table.astype(np.float32), float(initial_scale))


def advance(
    x: torch.Tensor, output: torch.Tensor, x0_before: torch.Tensor, noise: torch.Tensor | None, table: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """One step for a batch: (x_next, x_0).

    `x`, `output`, `x0_before`, `noise`  # [n, C, h, w] in fp32;  `table`  # [n, len(COLUMNS)], each job's own row.
    """
    columns = table[:, :, None, None, None].unbind(1)
    _, x0_from_x, x0_from_output, from_x, from_x0, from_x0_before, from_noise = columns
    x_0 = x0_from_x * x + x0_from_output * output
    x_next = from_x * x + from_x0 * x_0 + from_x0_before * x0_before
    if noise is not None:
        x_next = x_next + from_noise * noise
    return x_next, x_0
