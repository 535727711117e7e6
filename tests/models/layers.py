"""Single layers, for tests of what is done to them at load."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn


def made(make: Callable[[], nn.Module], dtype: torch.dtype = torch.float32) -> nn.Module:
    """A layer as models have it when they are loaded."""
    return make().to(dtype).eval().requires_grad_(False)


def in_two_places(layer: nn.Module, shape: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """What `layer` gives for one row: as the first of eight, and as the last of eight with others."""
    row, others = torch.randn(1, *shape[1:]), torch.randn(2, 7, *shape[1:])
    return layer(torch.cat([row, others[0]]))[:1], layer(torch.cat([others[1], row]))[-1:]
