"""Convolutions as one product of matrices, where a kernel for AVX2 would take longer to begin than to compute. torch.

oneDNN lays a convolution's weights out and looks for a kernel in every call. For the deep layers of a UNet, which have
many weights and few pixels, that is most of the time; a product by MKL takes weights as they lie. Every pixel's
neighbourhood is written out for it, which costs little while there are few.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import nn
from torch.nn import functional

PIXELS = 512
"""Of a call's output, up to which a product was faster or about as fast: with 128 to 1280 channels, on two cores."""


class PointwiseConv2d(nn.Conv2d):
    """As nn.Conv2d with a kernel of one pixel: a linear layer on channels."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """By MKL; channels_last."""
        return _product(input.permute(0, 2, 3, 1), self)


class UnfoldedConv2d(nn.Conv2d):
    """As nn.Conv2d, for up to `PIXELS` at once in another way."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """By MKL or oneDNN; channels_last."""
        rows, channels = input.shape[:2]
        height, width = map(self._outer, (0, 1), input.shape[2:])
        if rows * height * width > PIXELS:
            return super().forward(input)
        (above, left), (down, right) = cast("tuple[int, int]", self.padding), self.stride
        padded = functional.pad(input.permute(0, 2, 3, 1), (0, 0, left, left, above, above)).contiguous()
        row, line, pixel, channel = padded.stride()
        windows = padded.as_strided(
            (rows, height, width, *self.kernel_size, channels),
            (row, line * down, pixel * right, line * self.dilation[0], pixel * self.dilation[1], channel),
        )
        return _product(windows.flatten(3), self)

    def _outer(self, side: int, length: int) -> int:
        reach = self.dilation[side] * (self.kernel_size[side] - 1) + 1
        return (length + 2 * int(self.padding[side]) - reach) // self.stride[side] + 1


def _product(pixels: torch.Tensor, layer: nn.Conv2d) -> torch.Tensor:
    """`pixels` is `[rows, height, width, kernel height x kernel width x channels]`."""
    return functional.linear(pixels, layer.weight.permute(0, 2, 3, 1).flatten(1), layer.bias).permute(0, 3, 1, 2)


def unfold(layer: nn.Conv2d) -> None:
    """Let it compute so from now on. Its weights stay what they are; channels_last, they need no copy."""
    pointwise = layer.kernel_size == layer.stride == (1, 1) and layer.padding == (0, 0)
    layer.__class__ = PointwiseConv2d if pointwise else UnfoldedConv2d
    layer.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def pays_unfolded(layer: nn.Conv2d) -> bool:
    """Whether that is faster here, and the same."""
    return (
        torch.backends.cpu.get_cpu_capability() == "AVX2"
        and torch.backends.mkl.is_available()
        and layer.weight.dtype == torch.float32
        and layer.groups == 1
        and layer.padding_mode == "zeros"
        and not isinstance(layer.padding, str)
    )
