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

from worker.models.upsampling import Folded, by_parity
from worker.models.winograd import Winograd, fits

PIXELS = 512
"""Of a call's output, up to which a product was faster or about as fast: with 128 to 1280 channels, on two cores."""

FEWEST_CHANNELS, FEWEST_TILES = 96, 32
"""From which on a convolution is faster with fewer products."""


class PointwiseConv2d(nn.Conv2d):
    """As nn.Conv2d with a kernel of one pixel: a linear layer on channels."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """By MKL; channels_last."""
        return _product(input.permute(0, 2, 3, 1), self)


class UnfoldedConv2d(nn.Conv2d):
    """As nn.Conv2d, for up to `PIXELS` at once in another way."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """By MKL or oneDNN; channels_last."""
        height, width = map(self._outer, (0, 1), input.shape[2:])
        if input.shape[0] * height * width > PIXELS:
            return super().forward(input)
        above, left = cast("tuple[int, int]", self.padding)
        padded = functional.pad(input.permute(0, 2, 3, 1), (0, 0, left, left, above, above))
        windows = _windows(padded, (height, width), self.kernel_size, self.stride, self.dilation)
        return _product(windows, self)

    def _outer(self, side: int, length: int) -> int:
        reach = self.dilation[side] * (self.kernel_size[side] - 1) + 1
        return (length + 2 * int(self.padding[side]) - reach) // self.stride[side] + 1


class UnfoldedWinograd(Winograd, UnfoldedConv2d):
    """As nn.Conv2d, with fewer products for all but the smallest pictures."""

    fewest_tiles = FEWEST_TILES


def _windows(
    pixels: torch.Tensor,
    places: tuple[int, int],
    kernel: tuple[int, ...],
    stride: tuple[int, ...] = (1, 1),
    dilation: tuple[int, ...] = (1, 1),
) -> torch.Tensor:
    """What a kernel sees at each of its places.  # [rows, H, W, C] -> [rows, *places, kernel height x width x C]"""
    rows, channels = pixels.shape[0], pixels.shape[-1]
    pixels = pixels.contiguous()
    row, line, pixel, channel = pixels.stride()
    strides = (row, line * stride[0], pixel * stride[1], line * dilation[0], pixel * dilation[1], channel)
    return pixels.as_strided((rows, *places, *kernel, channels), strides).flatten(3)


def _product(pixels: torch.Tensor, layer: nn.Conv2d) -> torch.Tensor:
    """`pixels` is `[rows, height, width, kernel height x kernel width x channels]`."""
    return functional.linear(pixels, layer.weight.permute(0, 2, 3, 1).flatten(1), layer.bias).permute(0, 3, 1, 2)


def unfolded_upsampling(layer: nn.Conv2d) -> Folded:
    """What stands for it and the doubling before it: one product of two by two pixels and all four kernels.

    For any number of pixels: where those are many a transposed convolution takes up to a quarter less, but it would
    need the weights once more.
    """
    channels = layer.out_channels
    weight = by_parity(layer.weight.detach()).permute(0, 1, 2, 4, 5, 3).flatten(3).flatten(0, 2)  # [4 out, 4 in]
    bias = None if layer.bias is None else layer.bias.detach().repeat(4)

    def upsample(pixels: torch.Tensor) -> torch.Tensor:
        rows, _, height, width = pixels.shape
        around = functional.pad(pixels.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1))
        windows = _windows(around, (height + 1, width + 1), (2, 2))
        product = functional.linear(windows, weight, bias)  # [rows, h + 1, w + 1, 4 out]
        output = pixels.new_empty((rows, height, 2, width, 2, channels))
        for parity, part in enumerate(product.split(channels, dim=-1)):
            below, right = divmod(parity, 2)
            output[:, :, below, :, right] = part[:, below : below + height, right : right + width]
        return output.view(rows, 2 * height, 2 * width, channels).permute(0, 3, 1, 2)

    return Folded(weight, upsample)


def unfold(layer: nn.Conv2d) -> None:
    """Let it compute so from now on. Its weights stay what they are; channels_last, they need no copy."""
    pointwise = layer.kernel_size == layer.stride == (1, 1) and layer.padding == (0, 0)
    usual = UnfoldedWinograd if fits(layer, FEWEST_CHANNELS) else UnfoldedConv2d
    layer.__class__ = PointwiseConv2d if pointwise else usual
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
