"""Convolutions of 3 by 3 with 36 products for 16 pixels where there were 144. Imports torch.

Winograd's F(4x4, 3x3), from Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", 2016: the picture is
cut into tiles of 4 by 4 pixels, of which each sees 6 by 6; tiles and kernels are brought into a space where convolving
is a product element by element, which is one product of matrices for each of the 36 elements; what comes out is brought
back. Kernels are brought there in every call: kept, they would take four times the memory of the layer's weights, and
where there are many tiles it costs little. In fp32 rounding errors are about four times those of a plain convolution,
far below what a picture shows; in half precision they would not be. Knows no processor.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

TILE = 4
SEEN = TILE + 2
ELEMENTS = SEEN * SEEN
AT_ONCE = 80 * 1024
"""Tiles times channels that are computed at once, about: few enough for the processor's caches, enough for the kernels
to be worth reading."""
KERNELS = 512 * 1024
"""Kernels that are brought there at once, at most, so that they never take more than 75 MB."""
WASTE = 1.5
"""Pixels that are computed for one that is wanted, at most, where a picture's sides are no multiples of a tile's."""

_INPUT = torch.tensor(
    [
        [4, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ],
    dtype=torch.float64,
)
_KERNEL = (
    torch.tensor([[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]], dtype=torch.float64) / 24
)
_OUTPUT = torch.tensor(
    [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]], dtype=torch.float64
)
REACHES_ALL = SEEN + 1
"""The element that counts once in each pixel of a tile: a bias is added there."""

_INTO = torch.kron(_INPUT, _INPUT).float()  # [36, 36]: of both directions at once
_THERE = torch.kron(_KERNEL, _KERNEL).float()  # [36, 9]
_BACK = torch.kron(_OUTPUT, _OUTPUT).float()  # [16, 36]


class Winograd(nn.Conv2d):
    """In front of another kind of nn.Conv2d, which computes what has fewer tiles, or is not in fp32."""

    fewest_tiles: int

    def plain(self) -> torch.Tensor:
        """Its weights.  # [out, in, 3, 3]"""
        return self.weight

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """[rows, in, h, w] -> [rows, out, h, w], channels_last"""
        rows, _, height, width = input.shape
        if input.dtype != torch.float32 or not _pays(rows, height, width, self.fewest_tiles):
            return super().forward(input)
        return _convolved(input.permute(0, 2, 3, 1), self.plain(), self.bias).permute(0, 3, 1, 2)


def fits(layer: nn.Conv2d, fewest: int) -> bool:
    """Whether it can be computed so, and has at least as many channels on either side: what it takes to cut and to
    join tiles is the less beside the products, the more there are."""
    return (
        layer.kernel_size == (3, 3)
        and layer.stride == layer.padding == layer.dilation == (1, 1)
        and layer.groups == 1
        and layer.padding_mode == "zeros"
        and layer.weight.dtype == torch.float32
        and min(layer.in_channels, layer.out_channels) >= fewest
    )


def _kernels(weight: torch.Tensor) -> torch.Tensor:
    """In the other space.  # [out, in, 3, 3] -> [36, in, out]"""
    out, channels = weight.shape[:2]
    seen = weight.permute(0, 2, 3, 1).reshape(out, 9, channels)
    return torch.matmul(_THERE, seen).permute(1, 2, 0)


def _pays(rows: int, height: int, width: int, fewest: int) -> bool:
    tiles = _tiles(height) * _tiles(width)
    return rows * tiles >= fewest and tiles * TILE * TILE <= WASTE * height * width


def _tiles(length: int) -> int:
    return -(-length // TILE)


def _convolved(pixels: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """[rows, h, w, in] -> [rows, h, w, out]"""
    rows, height, width, channels = pixels.shape
    lines, columns = _tiles(height), _tiles(width)
    output = pixels.new_empty((rows, lines, TILE, columns, TILE, weight.shape[0]))
    parts = -(-weight.shape[0] * channels // KERNELS)
    biases = [None] * parts if bias is None else bias.chunk(parts)
    for part, its_bias, its_output in zip(weight.chunk(parts), biases, output.chunk(parts, dim=-1), strict=True):
        _convolve(pixels, _kernels(part), its_bias, its_output)
    return output.view(rows, TILE * lines, TILE * columns, -1)[:, :height, :width].contiguous()


def _convolve(pixels: torch.Tensor, kernels: torch.Tensor, bias: torch.Tensor | None, output: torch.Tensor) -> None:
    """Into `output`, [rows, lines, 4, columns, 4, out]. Every row is computed as every other one: calls of the kernels
    have one shape for all of them, so that a row has the same bits in any place."""
    rows, height, width, channels = pixels.shape
    lines, columns, out = output.shape[1], output.shape[3], output.shape[5]
    most = max(1, AT_ONCE // max(channels, out))
    group = max(n for n in range(1, rows + 1) if rows % n == 0 and (n == 1 or n * lines * columns <= most))
    step = min(lines, max(1, most // columns))
    for row in range(0, rows, group):
        for first in range(0, lines, step):
            last = min(first + step, lines)
            above, below = TILE * first - 1, TILE * last + 1
            seen = pixels[row : row + group, max(above, 0) : min(below, height)]
            margins = (1, 1 + TILE * columns - width, max(-above, 0), max(below - height, 0))
            tiles = _cut(functional.pad(seen, (0, 0, *margins)).contiguous(), last - first, columns)
            found = torch.bmm(torch.matmul(_INTO, tiles).transpose(0, 1), kernels)
            if bias is not None:
                found[REACHES_ALL] += bias
            joined = torch.mm(_BACK, found.flatten(1)).view(TILE, TILE, group, last - first, columns, out)
            output[row : row + group, first:last] = joined.permute(2, 3, 0, 4, 1, 5)


def _cut(pixels: torch.Tensor, lines: int, columns: int) -> torch.Tensor:
    """What each tile sees.  # [rows, 4 x lines + 2, 4 x columns + 2, C] -> [rows x lines x columns, 36, C]"""
    rows, channels = pixels.shape[0], pixels.shape[-1]
    row, line, pixel, channel = pixels.stride()
    strides = (row, TILE * line, TILE * pixel, line, pixel, channel)
    return pixels.as_strided((rows, lines, columns, SEEN, SEEN, channels), strides).reshape(-1, ELEMENTS, channels)
