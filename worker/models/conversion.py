"""One part out of a single file: its tensors under the names of diffusers and transformers, in a model of its own.

The libraries know the names; what is here chooses their functions and reads no more of the file than the part.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers.loaders.single_file_utils import (
    DIFFUSERS_TO_LDM_MAPPING,
    convert_controlnet_checkpoint,
    convert_ldm_clip_checkpoint,
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
    convert_open_clip_checkpoint,
)
from safetensors import safe_open

from worker.models.controls.shapes import ORIGINAL_PREFIX, ControlShapes
from worker.models.single_file import OPEN_CLIP, XL_OPEN_CLIP, SingleFile


def convert_part(source: SingleFile, part: str, cls: Any, dtype: torch.dtype) -> tuple[Any, Collection[str]]:
    """The part as `cls`, on the CPU, and the names of the weights that it lacks."""
    config = dict(source.config(part))
    read = _read(source, part)
    if not cls.__module__.startswith("diffusers."):
        return _text_encoder(cls, cls.config_class(**config), read, dtype)
    named = convert_ldm_unet_checkpoint(read, config) if part == "unet" else convert_ldm_vae_checkpoint(read, config)
    return _filled(cls, config, named, dtype)


def convert_controlnet(
    file: Path, shapes: ControlShapes, cls: Any, unet: Mapping[str, Any], dtype: torch.dtype
) -> tuple[Any, Collection[str]]:
    """A ControlNet of either layout as `cls`, on the CPU, and the names of the weights that it lacks.

    It is built as the UNet of this configuration is.
    """
    taken = inspect.signature(cls.__init__).parameters
    config = {name: value for name, value in unet.items() if name in taken} | {
        "in_channels": shapes.in_channels,
        "conditioning_embedding_out_channels": shapes.hint,
    }
    if shapes.added is None and config.get("addition_embed_type") == "text_time":
        config["addition_embed_type"] = None
    with safe_open(file, framework="pt") as opened:
        names = [name for name in opened.keys() if name.startswith(ORIGINAL_PREFIX)] or opened.keys()  # noqa: SIM118
        read = {name.removeprefix(ORIGINAL_PREFIX): opened.get_tensor(name) for name in names}
    # What is embedded with the timestep, diffusers converts in UNets alone.
    added = DIFFUSERS_TO_LDM_MAPPING["unet"]["addition_embed_type"]
    named = convert_controlnet_checkpoint(read, config) | {
        name: read[original] for name, original in added.items() if original in read
    }
    return _filled(cls, config, named, dtype)


def _filled(
    cls: Any, config: Mapping[str, Any], named: Mapping[str, torch.Tensor], dtype: torch.dtype
) -> tuple[Any, Collection[str]]:
    with torch.device("meta"):  # nothing is made up that is read anyway
        model = cls.from_config(config)
    missing = model.state_dict().keys() - named.keys()
    if not missing:
        model.load_state_dict({name: tensor.to(dtype) for name, tensor in named.items()}, strict=False, assign=True)
    return model, missing


def _read(source: SingleFile, part: str) -> dict[str, torch.Tensor]:
    names = source.tensors(part, "")
    with safe_open(source.file, framework="pt") as file:
        return {name: file.get_tensor(name) for name in names}


def _text_encoder(
    cls: Any, config: Any, read: Mapping[str, torch.Tensor], dtype: torch.dtype
) -> tuple[Any, Collection[str]]:
    """CLIP in the layout of OpenAI or of OpenCLIP."""
    with torch.device("meta"):
        skeleton = cls(config)
    prefix = next((one for one in (OPEN_CLIP, XL_OPEN_CLIP) if any(name.startswith(one) for name in read)), None)
    named = convert_open_clip_checkpoint(skeleton, read, prefix=prefix) if prefix else convert_ldm_clip_checkpoint(read)
    if not hasattr(skeleton, "text_model"):  # transformers made it flat in 5.6
        named = {name.removeprefix("text_model."): tensor for name, tensor in named.items()}
    known = skeleton.state_dict().keys()
    named = {name: tensor for name, tensor in named.items() if name in known}
    model, told = cls.from_pretrained(None, config=config, state_dict=named, dtype=dtype, output_loading_info=True)
    return model, told["missing_keys"]
