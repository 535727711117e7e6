"""What a drawing begins with: noise alone, or a picture under noise; and what of the picture it has to keep.

Draws from the job's generator in the order of the stock diffusers pipelines, so that a seed is the same picture.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from worker.engine import pictures
from worker.engine.sampling.plan import Plan
from worker.jobs.params import JobParams, Task

if TYPE_CHECKING:
    from worker.models.base import Model

PAINTED = 0.5
"""A mask at least so bright is painted anew."""


@dataclass(frozen=True, eq=False)
class Kept:
    """What is put back after each call, under the noise that is due then: `image` where `mask` is 0.

    `mask`  # [1, h, w];  `image`, `noise`  # [C, h, w]
    """

    mask: torch.Tensor
    image: torch.Tensor
    noise: torch.Tensor

    def to(self, device: torch.device) -> Kept:
        """The same on `device`."""
        return Kept(self.mask.to(device), self.image.to(device), self.noise.to(device))

    def put_back(self, latent: torch.Tensor, signal: float, level: float) -> torch.Tensor:
        """The latent with what is kept put back.  # [C, h, w]"""
        return (1 - self.mask) * (signal * self.image + level * self.noise) + self.mask * latent


@dataclass(frozen=True, eq=False)
class Beginning:
    """`latent` is noisy  # [C, h, w] on the CPU; `masked` what a model that takes the mask sees  # [1, 1 + C, h, w]."""

    latent: torch.Tensor
    kept: Kept | None = None
    masked: torch.Tensor | None = None


class Source:
    """The pictures that came with a job, read and encoded once for all its images.

    `width` and `height` are the size that is drawn. Raises InvalidInput for a picture that cannot be read.
    """

    def __init__(self, model: Model, params: JobParams, width: int, height: int) -> None:
        self._shape = (1, *model.latent_shape(width, height))
        # Stock inpainting at full strength begins with noise alone, image-to-image never.
        self._pure = params.task is Task.INPAINTING and params.strength == 1.0
        self._takes_mask = model.takes_mask
        self._image = self._mask = self._hidden = None
        if params.image is None:
            return
        pixels = torch.from_numpy(pictures.read_pixels(params.image, width, height).copy())
        pixels = pixels.permute(2, 0, 1)[None].float() / 127.5 - 1  # [1, 3, height, width]
        self._image = _encoded(model, pixels)
        if params.mask is not None:
            mask = torch.from_numpy(pictures.read_mask(params.mask, width, height).copy())[None, None]
            painted = (mask >= PAINTED).float()
            self._mask = torch.nn.functional.interpolate(painted, size=self._shape[2:])
            if model.takes_mask:
                self._hidden = _encoded(model, pixels * (1 - painted))

    def begin(self, plan: Plan, generator: torch.Generator) -> Beginning:
        """For one image of the job, whose generator has given nothing yet."""
        if self._image is None:
            return Beginning(self._noise(generator)[0] * plan.initial_scale)
        image = None
        if not (self._takes_mask and self._pure):
            image = _sampled(self._image, self._noise(generator))
        noise = self._noise(generator)
        if image is None or self._pure:
            latent = noise * plan.initial_scale
        else:
            latent = float(plan.signal[0]) * image + float(plan.level[0]) * noise
        if self._mask is None:
            return Beginning(latent[0])
        # Stock pipelines encode the hidden picture too where the model has no use for it, which takes of the generator.
        its_noise = self._noise(generator)
        if self._hidden is not None:
            return Beginning(latent[0], masked=torch.cat([self._mask, _sampled(self._hidden, its_noise)], dim=1))
        assert image is not None, "a model that does not take the mask always gets the picture"
        return Beginning(latent[0], kept=Kept(self._mask[0], image[0], noise[0]))

    def _noise(self, generator: torch.Generator) -> torch.Tensor:
        return torch.randn(self._shape, generator=generator)


def _encoded(model: Model, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    mean, deviation = model.encode(pixels.to(model.device))
    return mean.float().cpu(), deviation.float().cpu()


def _sampled(encoded: tuple[torch.Tensor, torch.Tensor], noise: torch.Tensor) -> torch.Tensor:
    """Of the posterior of the VAE; Kingma and Welling, "Auto-Encoding Variational Bayes", 2014."""
    mean, deviation = encoded
    return mean + deviation * noise
