"""The two networks that upscalers are, in fp32, and reading their weights into them."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional

from shared_worker.device import Device
from worker.errors import InvalidInput
from worker.models.offload import Placement
from worker.models.packing import lay_out
from worker.models.upscalers.kinds import DenseBlocks, Kind, names_of

SLOPE = 0.2
"""Of the leaky rectifiers; and what a residual counts."""


class _DenseBlock(nn.Module):
    """Five convolutions, each of which sees the input and what all before it gave."""

    def __init__(self, features: int, growth: int) -> None:
        super().__init__()
        for k in range(5):
            given = features if k == 4 else growth
            self.add_module(f"conv{k + 1}", nn.Conv2d(features + k * growth, given, 3, padding=1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        seen, given = x, x
        for convolution in self.children():
            if given is not x:
                seen = torch.cat([seen, functional.leaky_relu(given, SLOPE)], dim=1)
            given = convolution(seen)
        return x + SLOPE * given


class _Residual(nn.Module):
    """Three dense blocks, and a way around them."""

    def __init__(self, features: int, growth: int) -> None:
        super().__init__()
        for k in (1, 2, 3):
            self.add_module(f"rdb{k}", _DenseBlock(features, growth))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        given = x
        for block in self.children():
            given = block(given)
        return x + SLOPE * given


class _DenseNetwork(nn.Module):
    def __init__(self, kind: DenseBlocks) -> None:
        super().__init__()
        features = kind.features
        self.folded = kind.folded
        self.conv_first = nn.Conv2d(3 * kind.folded**2, features, 3, padding=1)
        self.body = nn.ModuleList(_Residual(features, kind.growth) for _ in range(kind.blocks))
        self.conv_body = nn.Conv2d(features, features, 3, padding=1)
        self.doubling = [f"conv_up{k + 1}" for k in range(kind.doublings)]
        for name in self.doubling:
            self.add_module(name, nn.Conv2d(features, features, 3, padding=1))
        self.conv_hr = nn.Conv2d(features, features, 3, padding=1)
        self.conv_last = nn.Conv2d(features, 3, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = self.conv_first(functional.pixel_unshuffle(x, self.folded))
        given = first
        for block in self.body:
            given = block(given)
        given = first + self.conv_body(given)
        for name in self.doubling:
            larger = functional.interpolate(given, scale_factor=2, mode="nearest")
            given = functional.leaky_relu(self.get_submodule(name)(larger), SLOPE)
        return cast(torch.Tensor, self.conv_last(functional.leaky_relu(self.conv_hr(given), SLOPE)))


class _CompactNetwork(nn.Module):
    def __init__(self, features: int, convolutions: int, scale: int) -> None:
        super().__init__()
        self.scale = scale
        layers: list[nn.Module] = []
        for k in range(convolutions - 1):
            layers += [nn.Conv2d(features if k else 3, features, 3, padding=1), nn.PReLU(features)]
        self.body = nn.Sequential(*layers, nn.Conv2d(features, 3 * scale**2, 3, padding=1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        detail = functional.pixel_shuffle(self.body(x), self.scale)
        return detail + functional.interpolate(x, scale_factor=self.scale, mode="nearest")


class NetworkUpscaler:
    """As `Upscaler` has it."""

    def __init__(self, network: nn.Module, kind: Kind, device: torch.device) -> None:
        self.scale, self.margin = kind.scale, kind.margin
        self.device = device
        self._network = network
        self._folded = kind.folded

    @torch.inference_mode()
    def enlarge(self, pixels: torch.Tensor) -> torch.Tensor:
        """Sides that cannot be folded evenly are continued by their last pixels, which are taken off again."""
        height, width = pixels.shape[2:]
        right, below = -width % self._folded, -height % self._folded
        whole = functional.pad(pixels.to(self.device), (0, right, 0, below), mode="replicate")
        larger = self._network(whole)
        return cast(torch.Tensor, larger[:, :, : height * self.scale, : width * self.scale])


def load(path: Path, kind: Kind, device: Device, placement: Placement, denoiser: str) -> NetworkUpscaler:
    """Placed beside the `denoiser`, with whose calls its own take turns. Raises InvalidInput where the file is not any
    more what it was."""
    if isinstance(kind, DenseBlocks):
        network: nn.Module = _DenseNetwork(kind)
    else:
        network = _CompactNetwork(kind.features, kind.convolutions, kind.scale)
    try:
        weights = load_file(path)
        names = names_of({name: tuple(tensor.shape) for name, tensor in weights.items()})
        network.load_state_dict({names[name]: tensor.float() for name, tensor in weights.items()})
    except (OSError, SafetensorError, RuntimeError):
        raise InvalidInput("The upscaler's file has changed since the worker started, and cannot be read") from None
    lay_out(network.eval().requires_grad_(False), device.backend)
    placed = placement.place(f"upscaler {path.stem}", network, device.torch_name, beside=denoiser)
    return NetworkUpscaler(placed, kind, torch.device(device.torch_name))
