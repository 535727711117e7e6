"""A doubling of pixels and the convolution behind it as one, with four products for nine. Imports torch and diffusers.

Of the nine pixels that a kernel of 3 by 3 sees behind a doubling, most are the same one: a pixel of the result depends
on four. The weights of equal pixels are added up at load, and the doubled picture is never written out. Seen from the
small picture this is a transposed convolution with a kernel of 4 by 4 and a stride of 2: Shi et al., "Is the
deconvolution layer the same as a convolutional layer?", 2016. Knows no processor.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import Any, Self

import torch
from torch import nn
from torch.nn import functional

from worker.models.imports import put_off_siblings

put_off_siblings()
from diffusers.models.upsampling import Upsample2D  # noqa: E402


@dataclass(frozen=True, slots=True)
class Folded:
    """What a layer computes, with weights that were added up."""

    weight: torch.Tensor
    upsample: Callable[[torch.Tensor], torch.Tensor]  # [rows, in, h, w] -> [rows, out, 2h, 2w]


class UpsamplingConv2d(nn.Conv2d):
    """As nn.Conv2d of `doubled` pixels. Its own weights stay what they are; beside them, `folded` takes 16 / 9 of their
    memory. `fold` makes it, anew after a change of dtype or device; None where it would not pay."""

    fold: Callable[[nn.Conv2d], Folded | None]
    folded: Folded | None

    @property
    def beside_bytes(self) -> int:
        """What is kept beside its own weights."""
        return 0 if self.folded is None else self.folded.weight.nbytes

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """[rows, in, h, w] -> [rows, out, 2h, 2w]"""
        return super().forward(doubled(input)) if self.folded is None else self.folded.upsample(input)

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Self:
        dtype, device = self.weight.dtype, self.weight.device
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if (self.weight.dtype, self.weight.device) != (dtype, device):
            self.folded = self.fold(self)
        return self


def merge(layer: Any, fold: Callable[[nn.Conv2d], Folded | None]) -> None:
    """Let a layer of diffusers that doubles and convolves do both at once from now on, if `fold` says how."""
    if not _doubles(layer) or (folded := fold(layer.conv)) is None:
        return
    layer.interpolate = False
    layer.conv.__class__ = UpsamplingConv2d
    layer.conv.fold, layer.conv.folded = fold, folded


def _doubles(layer: Any) -> bool:
    return (
        type(layer) is Upsample2D
        and layer.interpolate
        and layer.use_conv
        and layer.name == "conv"
        and type(layer.conv) is nn.Conv2d
        and layer.conv.kernel_size == (3, 3)
        and layer.conv.padding == (1, 1)
    )


def doubled(pixels: torch.Tensor) -> torch.Tensor:
    """Each pixel four times.  # [rows, C, h, w] -> [rows, C, 2h, 2w]"""
    return functional.interpolate(pixels, scale_factor=2.0, mode="nearest")


def transposed(weight: torch.Tensor) -> torch.Tensor:
    """Of a convolution with stride 2 and padding 1.  # [out, in, 3, 3] -> [in, out, 4, 4]

    A doubling is one itself, with a kernel of four ones; the kernel of both is the one convolved with the other.
    """
    mirrored = weight.float().flip(2, 3).transpose(0, 1)
    kernel = mirrored.new_zeros((*mirrored.shape[:2], 4, 4))
    for below, right in product((0, 1), repeat=2):
        kernel[:, :, below : below + 3, right : right + 3] += mirrored
    return kernel.to(weight.dtype)


def by_parity(weight: torch.Tensor) -> torch.Tensor:
    """Of four convolutions, one for each parity of row and column.  # [out, in, 3, 3] -> [2, 2, out, in, 2, 2]

    An even row lies on a pixel's first half: one tap of three sees the pixel above, two see the pixel; an odd row has
    two and one.
    """
    taps = torch.tensor([[[1.0, 0, 0], [0, 1, 1]], [[1, 1, 0], [0, 0, 1]]], device=weight.device)  # [parity, pixel, 3]
    return torch.einsum("ayk,bxl,oikl->aboiyx", taps, taps, weight.float()).to(weight.dtype)
