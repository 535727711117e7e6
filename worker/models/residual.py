"""A block of diffusers' ResNets with fewer passes over its pixels. Imports torch and diffusers.

Between its convolutions such a block waits for memory. Nobody else reads what its norms and convolutions give, so that
activations and sums are written over it, and the last sum is not divided by one. Knows no processor.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from worker.models.imports import put_off_siblings

put_off_siblings()
from diffusers.models.resnet import ResnetBlock2D  # noqa: E402


class LeanResnetBlock2D(ResnetBlock2D):  # type: ignore[misc]
    """As ResnetBlock2D where that neither resizes nor scales."""

    def forward(self, input_tensor: torch.Tensor, temb: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        """`temb` is what is known of the time, [rows, channels], or None.  # [rows, in, h, w] -> [rows, out, h, w]"""
        hidden = self.conv1(functional.silu(self.norm1(input_tensor), inplace=True))
        if self.time_emb_proj is not None:
            temb = self.time_emb_proj(temb if self.skip_time_act else functional.silu(temb))[:, :, None, None]
        if self.time_embedding_norm == "scale_shift":
            scale, shift = temb.chunk(2, dim=1)
            hidden = torch.addcmul(shift, self.norm2(hidden), 1 + scale)
        else:
            hidden = self.norm2(hidden if temb is None else hidden.add_(temb))
        output: torch.Tensor = self.conv2(functional.silu(hidden, inplace=True))
        return output.add_(input_tensor if self.conv_shortcut is None else self.conv_shortcut(input_tensor))


def make_lean(layer: Any) -> None:
    """Let it compute so from now on, if it is a block that can. Its layers and their weights stay what they are."""
    if (
        type(layer) is ResnetBlock2D
        and layer.upsample is layer.downsample is None
        and layer.output_scale_factor == 1
        and type(layer.nonlinearity) is nn.SiLU
        and not layer.training
    ):
        layer.__class__ = LeanResnetBlock2D
