"""Files as large as the published checkpoints, by their names and shapes: sparse zeros, which nobody loads.

The models are made from the configurations that ship, without memory, and their names turned into the original ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from tests.models.files import write_zeros
from tests.models.original import CLIP, original_clip, original_open_clip, original_unet, original_vae
from worker.models.shipped import ShippedConfigs
from worker.models.single_file import OPEN_CLIP, XL_CLIP, XL_OPEN_CLIP

Shapes = dict[str, tuple[int, ...]]


@cache
def part(kind: str, name: str) -> torch.nn.Module:
    """A part of a shipped kind, at its full size and without its numbers."""
    config = dict(ShippedConfigs(kind).config(name))
    with torch.device("meta"):
        if name == "unet":
            return UNet2DConditionModel.from_config(config)
        if name == "vae":
            return AutoencoderKL.from_config(config)
        cls = CLIPTextModelWithProjection if name == "text_encoder_2" else CLIPTextModel
        return cls(CLIPTextConfig(**config))


def original(kind: str) -> dict[str, torch.Tensor]:
    """A whole checkpoint of a kind in the original layout, without its numbers."""
    configs = ShippedConfigs(kind)
    text = part(kind, "text_encoder").state_dict()
    if kind.startswith("sdxl"):
        second = part(kind, "text_encoder_2").state_dict()
        texts = original_clip(text, XL_CLIP) | original_open_clip(second, XL_OPEN_CLIP)
    elif kind.startswith("sd2"):
        texts = original_open_clip(text, OPEN_CLIP, spare_layers=1)
    else:
        texts = original_clip(text, CLIP)
    unet, vae = part(kind, "unet").state_dict(), part(kind, "vae").state_dict()
    return original_unet(unet, configs.config("unet")) | original_vae(vae, configs.config("vae")) | texts


@cache
def shapes(kind: str) -> Shapes:
    """Of `original`."""
    return {name: tuple(tensor.shape) for name, tensor in original(kind).items()}


def write_published(file: Path, kind: str, **how: Any) -> Path:
    """Write a sparse checkpoint of a kind."""
    changed: Mapping[str, tuple[int, ...]] = shapes(kind) | how.pop("more", {})
    types = {name: "I64" for name in changed if name.endswith("position_ids")}
    return write_zeros(file, changed, types=types | how.pop("types", {}), **how)
