"""Previews without the VAE: a linear map from a latent place to a colour, fitted once to the VAE itself.

A VAE that is far from linear and small enough to be asked each time is asked itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from worker.engine.runner import Pixels

if TYPE_CHECKING:
    from worker.models.base import Model

PROBES = 6
PROBE_PX = 128
LINEAR_ENOUGH = 0.6
"""Least share of the colours' variance that the map must explain, in probes that it was not fitted to."""
SMALL_PX = 256 * 256
"""Pictures up to this size may be decoded for a preview, which takes about as long as a step of a small denoiser."""


@torch.inference_mode()
def fit(model: Model) -> tuple[torch.Tensor, float]:
    """Colour from -1 to 1 as an affine function of the latent, by least squares over a few decodings.  # [C + 1, 3]

    Also the share of the variance that it explains in one more probe, at most 1.
    The probes are patches of random latents, so any checkpoint's VAE can be asked, with no picture at hand.
    """
    channels, height, width = model.latent_shape(PROBE_PX, PROBE_PX)
    generator = torch.Generator().manual_seed(0)
    rows: list[torch.Tensor] = []
    colours: list[torch.Tensor] = []
    for _ in range(PROBES):
        patches = torch.randn(1, channels, height // 4, width // 4, generator=generator)
        latent = torch.nn.functional.interpolate(patches, size=(height, width), mode="nearest")
        pixels = model.decode(latent.to(model.device)).float().cpu()
        colours.append(torch.nn.functional.adaptive_avg_pool2d(pixels, (height, width))[0].flatten(1).T)
        rows.append(torch.cat([latent[0].flatten(1).T, torch.ones(height * width, 1)], dim=1))
    solution: torch.Tensor = torch.linalg.lstsq(torch.cat(rows[1:]), torch.cat(colours[1:])).solution
    missed = rows[0] @ solution - colours[0]
    explained = 1.0 - float(missed.var() / colours[0].var())
    return solution.to(model.device), explained


def wants_decoder(model: Model, explained: float) -> bool:
    """Whether previews of this model should be decoded after all."""
    return explained < LINEAR_ENOUGH and model.facts.width * model.facts.height <= SMALL_PX


def to_pixels(colours: torch.Tensor) -> Pixels:
    """Colours from -1 to 1 as bytes on the host.  # [h, w, 3]"""
    pixels: Pixels = ((colours.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).cpu().numpy()
    return pixels


def apply(latent: torch.Tensor, colour_map: torch.Tensor) -> Pixels:
    """The picture at the latent's own resolution.  # [C, h, w] -> [h, w, 3]"""
    return to_pixels(torch.einsum("chw,cr->hwr", latent, colour_map[:-1]) + colour_map[-1])
