"""The noise of flow matching: x = (1 - sigma) x_0 + sigma noise, and how its sigmas are spaced and shifted.

Esser et al., "Scaling Rectified Flow Transformers", 2024, sections 2 and 5.3.2. Read from a diffusers scheduler
configuration; the numbers are made as diffusers and its pipelines make them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from worker.engine.sampling.schedule import Array, UnsupportedSchedule

NOT_BUILT = (
    *("invert_sigmas", "shift_terminal", "stochastic_sampling"),
    *("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas"),
)


@dataclass(frozen=True)
class Growth:
    """How the shift grows with the picture: linear in its tokens, each `patch` places wide and high."""

    patch: int
    base_tokens: int
    max_tokens: int
    base_shift: float
    max_shift: float
    exponential: bool

    def shift(self, height: int, width: int) -> float:
        """For a latent of this size."""
        tokens = (height // self.patch) * (width // self.patch)
        slope = (self.max_shift - self.base_shift) / (self.max_tokens - self.base_tokens)
        grown = self.base_shift + slope * (tokens - self.base_tokens)
        return math.exp(grown) if self.exponential else grown


@dataclass(frozen=True)
class FlowSchedule:
    """`shift` moves sigmas towards 1, which is noise; `growth` makes it from the size of the picture, if not None.

    `last` is the last sigma before it is shifted; None for one step's share.
    """

    num_train_timesteps: int
    shift: float
    last: float | None
    growth: Growth | None

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> FlowSchedule:
        """From the content of a `scheduler_config.json`, and two facts that families add to it.

        `patch_size` is that of the denoiser; `even_sigmas` says that they go down to one step's share, whatever the
        scheduler's own are. Raises UnsupportedSchedule.
        """
        for name in NOT_BUILT:
            if config.get(name):
                raise UnsupportedSchedule(name)
        count, shift = int(config.get("num_train_timesteps", 1000)), float(config.get("shift", 1.0))
        growth = None
        lowest = 1.0 / count
        if config.get("use_dynamic_shifting"):
            kind = config.get("time_shift_type", "exponential")
            if kind not in ("exponential", "linear"):
                raise UnsupportedSchedule(f"time_shift_type {kind!r}")
            growth = Growth(
                patch=int(config.get("patch_size", 2)),
                base_tokens=int(config.get("base_image_seq_len", 256)),
                max_tokens=int(config.get("max_image_seq_len", 4096)),
                base_shift=float(config.get("base_shift", 0.5)),
                max_shift=float(config.get("max_shift", 1.15)),
                exponential=kind == "exponential",
            )
        else:  # then diffusers shifts its limits too, and the sigmas between them once more
            lowest = shifted(lowest, shift)
        return cls(count, shift, None if config.get("even_sigmas") else lowest, growth)

    def of_size(self, height: int, width: int) -> FlowSchedule:
        """As it is for a latent of this size."""
        return self if self.growth is None else replace(self, shift=self.growth.shift(height, width), growth=None)

    def sigmas(self, steps: int) -> Array:
        """The share of noise before each step.  # [steps]"""
        sigmas: Array = shifted(np.linspace(1.0, 1.0 / steps if self.last is None else self.last, steps), self.shift)
        return sigmas


def shifted(sigma: Any, shift: float) -> Any:
    """The paper's equation 23: a larger picture needs more noise for the same loss of what is to be seen."""
    return shift * sigma / (1.0 + (shift - 1.0) * sigma)
