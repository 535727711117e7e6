"""What a LoRA adds to a layer: `up(down(x))`, of low rank in between, to all rows of a call or to some."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch.nn import functional

from worker.models.upsampling import UpsamplingConv2d, doubled

Layer = torch.nn.Linear | torch.nn.Conv2d


class Rows(NamedTuple):
    """Which rows of a call an adapter is for, None for all  # [n], and how much it counts there, of each or of all
    # [n]."""

    which: torch.Tensor | None
    scale: torch.Tensor | float


@dataclass(frozen=True, slots=True, eq=False)
class LowRank:
    """The two factors for one layer, with alpha / rank in `up`.

    `down`  # [rank, in] or [rank, in, kernel, kernel];  `up`  # [out, rank] or [out, rank, 1, 1]
    """

    down: torch.Tensor
    up: torch.Tensor

    @property
    def size_bytes(self) -> int:
        """What both take."""
        return self.down.nbytes + self.up.nbytes

    def add(self, layer: Layer, x: torch.Tensor, output: torch.Tensor, rows: Rows) -> torch.Tensor:
        """To `output`, which `layer` made of `x`; rows that the adapter is not for keep every bit.  # [rows, ...]

        Its layout stays what it was too: another one would take other kernels from here on, which round otherwise.
        """
        if rows.which is None:
            return output + self._delta(layer, x, rows.scale).to(output.dtype)
        delta = self._delta(layer, x.index_select(0, rows.which), rows.scale)
        return output.index_add_(0, rows.which, delta.to(output.dtype))  # index_add forgets channels_last

    def _delta(self, layer: Layer, x: torch.Tensor, scale: torch.Tensor | float) -> torch.Tensor:
        x = x.to(self.down.dtype)
        if isinstance(layer, torch.nn.Conv2d):
            x = doubled(x) if isinstance(layer, UpsamplingConv2d) else x
            low = functional.conv2d(x, self.down, None, layer.stride, layer.padding, layer.dilation)
            return functional.conv2d(low * _beside(scale, low), self.up)
        low = functional.linear(x, self.down)
        return functional.linear(low * _beside(scale, low), self.up)


def _beside(scale: torch.Tensor | float, low: torch.Tensor) -> torch.Tensor | float:
    """One figure a row, to be multiplied with.  # [n, 1, ...]"""
    if isinstance(scale, float):
        return scale
    return scale.to(low.dtype).view(-1, *[1] * (low.ndim - 1))
