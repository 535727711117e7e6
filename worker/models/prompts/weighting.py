"""How a weight makes a token count for more or less: its hidden state is scaled."""

from __future__ import annotations

import torch

NEGLIGIBLE = 1e-3


def weigh(hidden: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """`hidden`  # [chunks, 77, width], scaled by `weights`  # [chunks, 77], then each chunk to the mean it had.

    By AUTOMATIC1111's stable-diffusion-webui (`sd_emphasis.py`, "Original"). There a mean near zero makes the picture
    noise; here one that is a thousandth of what its values are, or changes its sign, is not restored.
    """
    scaled = hidden.float() * weights[:, :, None].to(hidden.device)
    before, after = (tensor.mean(dim=(1, 2), keepdim=True) for tensor in (hidden.float(), scaled))
    size = scaled.abs().mean(dim=(1, 2), keepdim=True)
    safe = (before * after > 0) & (torch.minimum(before.abs(), after.abs()) > NEGLIGIBLE * size)
    return (scaled * torch.where(safe, before / after, 1.0)).to(hidden.dtype)
