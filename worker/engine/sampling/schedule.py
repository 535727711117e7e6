"""The noise a model was trained on: alpha-bar for each training timestep, and how timesteps are spaced.

Read from a diffusers scheduler configuration; the numbers are made as diffusers makes them, so that the same
seed gives the same picture.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.floating[Any]]
Spacing = Literal["linspace", "leading", "trailing"]
PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")


NO_SIGNAL = 2.0**-24
"""What stands for an alpha-bar of nothing, so that noise over signal is a number; as in diffusers."""


class UnsupportedSchedule(ValueError):
    """The scheduler configuration asks for something that is not built."""


@dataclass(frozen=True, eq=False)
class NoiseSchedule:
    """`alphas_cumprod`  # [num_train_timesteps], and `rescaled_from`, what it was before it had no signal at its end;
    `final_alpha` is alpha-bar behind the last DDIM step.

    `spacing` is None where the configuration does not say; every sampler then has its own, as in diffusers.
    """

    alphas_cumprod: Array
    prediction_type: str
    spacing: Spacing | None
    steps_offset: int
    final_alpha: float
    rescaled_from: Array

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> NoiseSchedule:
        """From the content of a `scheduler_config.json`. Raises UnsupportedSchedule."""
        count = int(config.get("num_train_timesteps", 1000))
        start, end = float(config.get("beta_start", 0.0001)), float(config.get("beta_end", 0.02))
        kind = config.get("beta_schedule", "linear")
        if config.get("trained_betas") is not None:
            betas = np.asarray(config["trained_betas"], dtype=np.float32)
        elif kind == "linear":
            betas = np.linspace(start, end, count, dtype=np.float32)
        elif kind == "scaled_linear":
            betas = np.linspace(start**0.5, end**0.5, count, dtype=np.float32) ** 2
        else:
            raise UnsupportedSchedule(f"beta_schedule {kind!r}")
        prediction_type = config.get("prediction_type", "epsilon")
        if prediction_type not in PREDICTION_TYPES:
            raise UnsupportedSchedule(f"prediction_type {prediction_type!r}")
        spacing = config.get("timestep_spacing")
        if spacing not in (None, "linspace", "leading", "trailing"):
            raise UnsupportedSchedule(f"timestep_spacing {spacing!r}")
        alphas_cumprod = rescaled_from = np.cumprod(1.0 - betas.astype(np.float64))
        if config.get("rescale_betas_zero_snr"):
            alphas_cumprod = without_signal_at_the_end(alphas_cumprod)
        final_alpha = 1.0 if config.get("set_alpha_to_one", True) else float(alphas_cumprod[0])
        offset = int(config.get("steps_offset", 0))
        return cls(alphas_cumprod, prediction_type, spacing, offset, final_alpha, rescaled_from)

    def of_size(self, height: int, width: int) -> NoiseSchedule:
        """As it is for a latent of this size: always the same."""
        return self

    def not_rescaled(self) -> NoiseSchedule:
        """For samplers whose schedulers in diffusers do not know of noise without signal."""
        return replace(self, alphas_cumprod=self.rescaled_from)

    @property
    def num_train_timesteps(self) -> int:
        return len(self.alphas_cumprod)

    @property
    def sigmas(self) -> Array:
        """Noise over signal at each training timestep, sqrt((1 - abar) / abar)."""
        return np.sqrt((1.0 - self.alphas_cumprod) / self.alphas_cumprod)

    def trailing(self, steps: int) -> Array:
        """Timesteps counted down from the last; Lin et al., "Common Diffusion Noise Schedules", 2023, table 2."""
        count = self.num_train_timesteps
        return (np.arange(count, 0, -count / steps).round() - 1)[:steps]

    def karras(self, steps: int) -> tuple[Array, Array]:
        """Timesteps and noise over signal as Karras et al. space them, 2022, equation 5 with rho 7.  # each [steps]"""
        sigmas, rho = self.sigmas, 7.0
        most, least = sigmas[-1] ** (1 / rho), sigmas[0] ** (1 / rho)
        ratio = (most + np.linspace(0, 1, steps) * (least - most)) ** rho
        return np.interp(np.log(ratio), np.log(sigmas), np.arange(len(sigmas))).round(), ratio

    def x0_from(self, alpha: Array, sigma: Array) -> tuple[Array, Array]:
        """Coefficients (of x, of the model's output) of the clean latent, where x = alpha x0 + sigma noise."""
        match self.prediction_type:
            case "epsilon":
                return 1.0 / alpha, -sigma / alpha
            case "v_prediction":  # for alpha^2 + sigma^2 = 1
                return alpha, -sigma
            case _:
                return np.zeros_like(alpha), np.ones_like(alpha)


def without_signal_at_the_end(alphas_cumprod: Array) -> Array:
    """Rescaled so that the last timestep is noise alone; Lin et al., 2023, algorithm 1."""
    signal = np.sqrt(alphas_cumprod)
    rescaled: Array = ((signal - signal[-1]) * signal[0] / (signal[0] - signal[-1])) ** 2
    rescaled[-1] = NO_SIGNAL
    return rescaled
