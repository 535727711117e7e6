"""Small upscalers with random weights, in every way they are written down; and what they compute, by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch.nn import functional

Weights = dict[str, torch.Tensor]
FEATURES, GROWTH, BLOCKS = 8, 4, 2


def dense(seed: int = 0, *, doublings: int = 2, folded: int = 1) -> Weights:
    """ESRGAN's network as Real-ESRGAN writes it down."""
    generator = torch.Generator().manual_seed(seed)
    weights: Weights = {}

    def convolution(name: str, taken: int, given: int) -> None:
        weights[f"{name}.weight"] = torch.randn(given, taken, 3, 3, generator=generator) / (3 * taken**0.5)
        weights[f"{name}.bias"] = torch.randn(given, generator=generator) / 10

    convolution("conv_first", 3 * folded**2, FEATURES)
    for block in range(BLOCKS):
        for part in (1, 2, 3):
            for k in range(5):
                taken, given = FEATURES + k * GROWTH, FEATURES if k == 4 else GROWTH
                convolution(f"body.{block}.rdb{part}.conv{k + 1}", taken, given)
    convolution("conv_body", FEATURES, FEATURES)
    for k in range(doublings):
        convolution(f"conv_up{k + 1}", FEATURES, FEATURES)
    convolution("conv_hr", FEATURES, FEATURES)
    convolution("conv_last", FEATURES, 3)
    return weights


def numbered(weights: Weights) -> Weights:
    """The same as ESRGAN's authors wrote it down first."""
    doublings = sum(name.startswith("conv_up") for name in weights) // 2
    numbers = {"conv_first": "model.0", "conv_body": f"model.1.sub.{BLOCKS}"}
    numbers |= {f"conv_up{k + 1}": f"model.{3 * (k + 1)}" for k in range(doublings)}
    numbers |= {"conv_hr": f"model.{3 * doublings + 2}", "conv_last": f"model.{3 * doublings + 4}"}

    def named(name: str) -> str:
        layer, _, kind = name.rpartition(".")
        if layer in numbers:
            return f"{numbers[layer]}.{kind}"
        _, block, part, convolution = layer.split(".")
        return f"model.1.sub.{block}.{part.upper()}.{convolution}.0.{kind}"

    return {named(name): tensor for name, tensor in weights.items()}


def trunk(weights: Weights) -> Weights:
    """The same as they wrote it down later."""
    heads = (("conv_body", "trunk_conv"), ("conv_up", "upconv"), ("conv_hr", "HRconv"), ("body.", "RRDB_trunk."))
    renamed = {}
    for name, tensor in weights.items():
        new = name
        for old, written in heads:
            if name.startswith(old):
                new = name.replace(old, written, 1).replace("rdb", "RDB")
        renamed[new] = tensor
    return renamed


def below_params(weights: Weights) -> Weights:
    """The same out of a training program's checkpoint."""
    return {f"params_ema.{name}": tensor for name, tensor in weights.items()}


def compact(seed: int = 0, *, scale: int = 4) -> Weights:
    """Real-ESRGAN's compact network."""
    generator = torch.Generator().manual_seed(seed)
    weights: Weights = {}
    for k, (taken, given) in enumerate([(3, FEATURES), (FEATURES, FEATURES), (FEATURES, 3 * scale**2)]):
        weights[f"body.{2 * k}.weight"] = torch.randn(given, taken, 3, 3, generator=generator) / (6 * taken**0.5)
        weights[f"body.{2 * k}.bias"] = torch.randn(given, generator=generator) / 20
        if k < 2:
            weights[f"body.{2 * k + 1}.weight"] = torch.rand(given, generator=generator)
    return weights


def dense_by_hand(weights: Weights, x: torch.Tensor, folded: int = 1) -> torch.Tensor:
    """As the papers have it: "ESRGAN", figure 4, and residuals that count a fifth."""

    def layer(name: str, x: torch.Tensor) -> torch.Tensor:
        return functional.conv2d(x, weights[f"{name}.weight"], weights[f"{name}.bias"], padding=1)

    def rectified(x: torch.Tensor) -> torch.Tensor:
        return torch.where(x > 0, x, 0.2 * x)

    first = layer("conv_first", functional.pixel_unshuffle(x, folded))
    trunk = first
    for block in range(BLOCKS):
        inner = trunk
        for part in (1, 2, 3):
            seen = [inner]
            for k in range(1, 5):
                seen.append(rectified(layer(f"body.{block}.rdb{part}.conv{k}", torch.cat(seen, dim=1))))
            inner = inner + 0.2 * layer(f"body.{block}.rdb{part}.conv5", torch.cat(seen, dim=1))
        trunk = trunk + 0.2 * inner
    given = first + layer("conv_body", trunk)
    doubling = 1
    while f"conv_up{doubling}.weight" in weights:
        larger = given.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
        given = rectified(layer(f"conv_up{doubling}", larger))
        doubling += 1
    return layer("conv_last", rectified(layer("conv_hr", given)))


def compact_by_hand(weights: Weights, x: torch.Tensor, scale: int) -> torch.Tensor:
    """Convolutions with PReLU between them; what comes out is added to the picture's own pixels."""
    given, last = x, max(int(name.split(".")[1]) for name in weights)
    for k in range(0, last + 1, 2):
        given = functional.conv2d(given, weights[f"body.{k}.weight"], weights[f"body.{k}.bias"], padding=1)
        if k != last:
            slope = weights[f"body.{k + 1}.weight"].view(1, -1, 1, 1)
            given = torch.where(given > 0, given, slope * given)
    larger = x.repeat_interleave(scale, dim=2).repeat_interleave(scale, dim=3)
    return functional.pixel_shuffle(given, scale) + larger


def write(file: Path, weights: Weights, change: Callable[[Weights], Weights] = dict) -> Path:
    """`weights` as `change` writes them down."""
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in change(weights).items()}, file)
    return file
