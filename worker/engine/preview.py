"""Previews without decoding: a linear map from a latent place to a colour, fitted once to the model's own VAE."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from worker.engine.runner import Pixels

if TYPE_CHECKING:
    from worker.models.base import Model

PROBES = 6
PROBE_PX = 128
PATCHES = 6
"""Patches of one colour along the side of a probe: some latent places see one colour, others an edge."""


@torch.inference_mode()
def fit(model: Model) -> torch.Tensor:
    """Colour from -1 to 1 as an affine function of the latent, by least squares over a few encodings.  # [C + 1, 3]

    What is encoded are patches of random colours, hard and soft at their edges, so any checkpoint's VAE can be asked
    with no picture at hand. Encodings and not decodings: a latent at random may be one that no picture has.
    """
    _, height, width = model.latent_shape(PROBE_PX, PROBE_PX)
    generator = torch.Generator().manual_seed(0)
    rows: list[torch.Tensor] = []
    colours: list[torch.Tensor] = []
    for probe in range(PROBES):
        patches = 2 * torch.rand((1, 3, PATCHES, PATCHES), generator=generator) - 1
        mode = "nearest" if probe % 2 else "bilinear"
        pixels = torch.nn.functional.interpolate(patches, size=(PROBE_PX, PROBE_PX), mode=mode)
        latent = model.encode(pixels.to(model.device))[0].float().cpu()
        rows.append(torch.cat([latent[0].flatten(1).T, torch.ones(height * width, 1)], dim=1))
        colours.append(torch.nn.functional.adaptive_avg_pool2d(pixels, (height, width))[0].flatten(1).T)
    solution: torch.Tensor = torch.linalg.lstsq(torch.cat(rows), torch.cat(colours)).solution
    return solution.to(model.device)


def apply(latent: torch.Tensor, colour_map: torch.Tensor) -> Pixels:
    """The picture at the latent's own resolution.  # [C, h, w] -> [h, w, 3]"""
    colours = torch.einsum("chw,cr->hwr", latent, colour_map[:-1]) + colour_map[-1]
    pixels: Pixels = ((colours.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).cpu().numpy()
    return pixels
