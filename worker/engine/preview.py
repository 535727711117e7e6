"""Previews without the VAE: a linear map from a latent place to a colour, fitted once to the VAE itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from worker.engine.runner import Pixels

if TYPE_CHECKING:
    from worker.models.base import Model

PROBES = 6
PROBE_PX = 128


@torch.inference_mode()
def fit(model: Model) -> torch.Tensor:
    """Colour from -1 to 1 as an affine function of the latent, by least squares over a few decodings.  # [C + 1, 3]

    The probes are patches of random latents, so any checkpoint's VAE can be asked, with no picture at hand.
    """
    channels, height, width = model.latent_shape(PROBE_PX, PROBE_PX)
    generator = torch.Generator().manual_seed(0)
    rows, colours = [], []
    for _ in range(PROBES):
        patches = torch.randn(1, channels, height // 4, width // 4, generator=generator)
        latent = torch.nn.functional.interpolate(patches, size=(height, width), mode="nearest")
        pixels = model.decode(latent.to(model.device)).float().cpu()
        colours.append(torch.nn.functional.adaptive_avg_pool2d(pixels, (height, width))[0].flatten(1).T)
        rows.append(torch.cat([latent[0].flatten(1).T, torch.ones(height * width, 1)], dim=1))
    solution: torch.Tensor = torch.linalg.lstsq(torch.cat(rows), torch.cat(colours)).solution
    return solution.to(model.device)


def apply(latent: torch.Tensor, colour_map: torch.Tensor) -> Pixels:
    """The picture at the latent's own resolution.  # [C, h, w] -> [h, w, 3]"""
    colours = torch.einsum("chw,cr->hwr", latent, colour_map[:-1]) + colour_map[-1]
    pixels: Pixels = ((colours.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).cpu().numpy()
    return pixels
