"""What a drawing begins with: noise alone, or a picture under noise; and what of the picture it has to keep.

Draws from the job's generator in the order of the stock diffusers pipelines, so that a seed is the same picture.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from worker.engine import pictures
from worker.engine.sampling.plan import Plan
from worker.jobs.params import JobParams, Task
from worker.jobs.tiling import Tile

if TYPE_CHECKING:
    from worker.models.base import Model

PAINTED = 0.5
"""A mask at least so bright is painted anew."""
TILE_SEEDS = 2**40
"""Between the seeds of an image's tiles: further apart than those of a job's images."""


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
    """`latent` is noisy  # [C, h, w] on the CPU; `masked` what a model that takes the mask sees  # [1, 1 + C, h, w].

    It is of image `index` of its job, or of a tile of that; `generator` gives what noise the steps take.
    """

    index: int
    tile: Tile
    latent: torch.Tensor
    generator: torch.Generator
    kept: Kept | None = None
    masked: torch.Tensor | None = None


class Source:
    """The pictures that came with a job, read once and encoded once for all its images, each tile when it is due.

    `width` and `height` are the size that is drawn, in `tiles`; a picture with a mask is one tile. Raises InvalidInput
    for a picture that cannot be read.
    """

    def __init__(self, model: Model, params: JobParams, width: int, height: int, tiles: Sequence[Tile]) -> None:
        self._shape = (1, *model.latent_shape(width, height))
        self._seeds = range(params.seed, params.seed + params.num_images)
        self._factor = height // self._shape[2]
        self._tiles = tiles
        # Stock inpainting at full strength begins with noise alone, image-to-image never.
        self._pure = params.task is Task.INPAINTING and params.strength == 1.0
        self._takes_mask = model.takes_mask
        self._model = model
        self._pixels: torch.Tensor | None = None
        self._encoded: list[tuple[torch.Tensor, torch.Tensor]] = []
        self._mask = self._hidden = None
        if params.image is None:
            return
        pixels = torch.from_numpy(pictures.read_pixels(params.image, width, height).copy())
        self._pixels = pixels = pixels.permute(2, 0, 1)[None].float() / 127.5 - 1  # [1, 3, height, width]
        if params.mask is not None:
            mask = torch.from_numpy(pictures.read_mask(params.mask, width, height).copy())[None, None]
            painted = (mask >= PAINTED).float()
            self._mask = torch.nn.functional.interpolate(painted, size=self._shape[2:])
            if model.takes_mask:
                self._hidden = _encoded(model, pixels * (1 - painted))

    def begin(self, plan: Plan) -> Iterator[Beginning]:
        """For each tile of each image of the job.

        Noise is drawn for the whole image, so that tiles agree where they overlap. What the steps take the first tile
        has from the image's generator, each further one from its own: it must not matter which of them steps first.
        """
        for index, seed in enumerate(self._seeds):
            generator = torch.Generator().manual_seed(seed)
            if self._pixels is None:
                latent = self._noise(generator)[0] * plan.initial_scale
                yield Beginning(index, self._tiles[0], latent, generator)
                continue
            of_image = None if self._takes_mask and self._pure else self._noise(generator)
            noise = self._noise(generator)
            # Stock pipelines encode the hidden picture too where the model has no use for it, which takes of the
            # generator.
            of_hidden = None if self._mask is None else self._noise(generator)
            for number, tile in enumerate(self._tiles):
                image = None if of_image is None else _sampled(self._tile(number), self._cut(of_image, tile))
                own = torch.Generator().manual_seed((seed + number * TILE_SEEDS) % 2**63) if number else generator
                latent = self._noisy(plan, image, self._cut(noise, tile))
                begun = Beginning(index, tile, latent[0], own)
                yield begun if of_hidden is None else self._with_mask(begun, image, noise, of_hidden)

    def _tile(self, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The encoding of a tile, of which those before have been asked for."""
        if number == len(self._encoded):
            assert self._pixels is not None, "without a picture nothing is encoded"
            self._encoded.append(_encoded(self._model, _part(self._pixels, self._tiles[number])))
        return self._encoded[number]

    def _noisy(self, plan: Plan, image: torch.Tensor | None, noise: torch.Tensor) -> torch.Tensor:
        """What the first call sees.  # [1, C, h, w]"""
        if image is None or self._pure:
            return noise * plan.initial_scale
        return float(plan.signal[0]) * image + float(plan.level[0]) * noise

    def _with_mask(
        self, begun: Beginning, image: torch.Tensor | None, noise: torch.Tensor, of_hidden: torch.Tensor
    ) -> Beginning:
        assert self._mask is not None, "noise was drawn for it"
        if self._hidden is not None:
            return replace(begun, masked=torch.cat([self._mask, _sampled(self._hidden, of_hidden)], dim=1))
        assert image is not None, "a model that does not take the mask always gets the picture"
        return replace(begun, kept=Kept(self._mask[0], image[0], noise[0]))

    def _noise(self, generator: torch.Generator) -> torch.Tensor:
        return torch.randn(self._shape, generator=generator)

    def _cut(self, latent: torch.Tensor, tile: Tile) -> torch.Tensor:
        """Of the whole image's latent.  # [1, C, h, w]"""
        if len(self._tiles) == 1:
            return latent
        factor = self._factor
        place = Tile(tile.left // factor, tile.top // factor, tile.width // factor, tile.height // factor)
        return _part(latent, place)


def _part(whole: torch.Tensor, tile: Tile) -> torch.Tensor:
    return whole[:, :, tile.top : tile.top + tile.height, tile.left : tile.left + tile.width]


def _encoded(model: Model, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    mean, deviation = model.encode(pixels.to(model.device))
    return mean.float().cpu(), deviation.float().cpu()


def _sampled(encoded: tuple[torch.Tensor, torch.Tensor], noise: torch.Tensor) -> torch.Tensor:
    """Of the posterior of the VAE; Kingma and Welling, "Auto-Encoding Variational Bayes", 2014."""
    mean, deviation = encoded
    return mean + deviation * noise
