"""A LoRA file's weights, under the layers of a model that they change.

The libraries' functions know the names of every layout; what is here chooses them, and takes nothing that does not fit.
"""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from diffusers.loaders import lora_pipeline
from diffusers.utils import convert_state_dict_to_diffusers, convert_state_dict_to_peft, convert_unet_state_dict_to_peft
from diffusers.utils.state_dict_utils import StateDictType
from safetensors.torch import load_file

from worker.errors import InvalidInput
from worker.models.lora_file import FACTOR, FACTORS
from worker.models.loras.folder import Lora
from worker.models.loras.layers import Layer, LowRank

logger = logging.getLogger(__name__)

Tensors = dict[str, torch.Tensor]

LOADERS = {
    "sd": lora_pipeline.StableDiffusionLoraLoaderMixin,
    "sdxl": lora_pipeline.StableDiffusionXLLoraLoaderMixin,
    "sd3": lora_pipeline.SD3LoraLoaderMixin,
    "flux": lora_pipeline.FluxLoraLoaderMixin,
}
"""By the family's name: who knows what other trainers call its layers."""
NAME = re.compile(r"[A-Za-z0-9_.]+")
"""A layer's, or the end of it."""
METADATA_KEY = "lora_adapter_metadata"
"""Where diffusers writes down how peft trained an adapter, by part."""


def read_weights(
    lora: Lora, family: str, parts: Mapping[str, torch.nn.Module], device: torch.device, dtype: torch.dtype
) -> tuple[dict[str, dict[Layer, LowRank]], int]:
    """By part and layer, and how many layers the file tells of that the model does not have. Raises InvalidInput."""
    name = lora.facts.name
    try:
        named = _converted(_with_alphas(_factors(load_file(lora.path))), family, parts)
        own = {prefix: _of_part(named, prefix, part) for prefix, part in parts.items()}
        trained = json.loads(lora.metadata.get(METADATA_KEY, "{}"))
    except Exception as error:  # the libraries have a kind of error of their own for each thing that may be wrong
        logger.debug("loading a LoRA failed", exc_info=error)
        raise InvalidInput(f"The LoRA {name} cannot be read, or its layers are in a form that is not served") from None
    found: dict[str, dict[Layer, LowRank]] = {}
    unknown = sum(name.partition(".")[0] not in parts for name in named) // 2
    for prefix, part in parts.items():
        layers = dict(part.named_modules())
        for place, (down, up) in _pairs(own[prefix]):
            layer = layers.get(place)
            if not isinstance(layer, Layer):
                unknown += 1
                continue
            try:
                down, up = _shaped(layer, down), _shaped(layer, up)
                _require_shapes(layer, down, up)
                factor = _peft_scale(trained, prefix, place, len(down))
            except (ValueError, TypeError, AttributeError, ArithmeticError, IndexError):
                raise InvalidInput(f"The LoRA {name} does not fit the model: not at {prefix}.{place}") from None
            up = up.float() * factor if factor != 1.0 else up
            found.setdefault(prefix, {})[layer] = LowRank(*(_own(one, device, dtype) for one in (down, up)))
    if not found:
        raise InvalidInput(f"The LoRA {name} does not fit the model: none of its layers is the model's")
    return found, unknown


def _factors(tensors: Tensors) -> Tensors:
    """And alphas. Beside anything else that a trainer packs into a file diffusers would not know the layout."""
    return {name: one for name, one in tensors.items() if FACTOR.search(name) or name.endswith(".alpha")}


def _with_alphas(tensors: Tensors) -> Tensors:
    """Without the `.alpha` of each layer: `up` is multiplied by alpha / rank instead.

    So each layer keeps its own; of several different ones the stock pipelines take some for others.
    """
    alphas = [name for name in tensors if name.endswith(".alpha")]
    for name in alphas:
        alpha = float(tensors.pop(name))
        place = name.removesuffix(".alpha")
        for down, up in ((f"{place}.{down}.weight", f"{place}.{up}.weight") for down, up in FACTORS):
            if down in tensors:
                tensors[up] = tensors[up].float() * (alpha / len(tensors[down]))
    if any(name.startswith("lora_transformer_") for name in tensors):
        # diffusers' converter of this layout asks for one at each layer: the rank, which changes nothing.
        for name in [name for name in tensors if name.endswith(".lora_down.weight")]:
            tensors[f"{name.removesuffix('.lora_down.weight')}.alpha"] = torch.tensor(float(len(tensors[name])))
    return tensors


def _converted(tensors: Tensors, family: str, parts: Mapping[str, torch.nn.Module]) -> Tensors:
    """Under names that begin with the part's."""
    options: dict[str, Any] = {"unet_config": parts["unet"].config} if "unet" in parts else {}
    converted = LOADERS[family].lora_state_dict(tensors, **options)
    named: Tensors = converted[0] if isinstance(converted, tuple) else converted
    # Diffusers once wrote a UNet's layers without its name.
    blocks = dict(parts["unet"].named_children()) if "unet" in parts else {}
    return {f"unet.{name}" if name.partition(".")[0] in blocks else name: one for name, one in named.items()}


def _of_part(named: Tensors, prefix: str, part: torch.nn.Module) -> Tensors:
    """The tensors for one part, each under its layer's name and `lora_A.weight` or `lora_B.weight`."""
    own = {name.removeprefix(f"{prefix}."): tensor for name, tensor in named.items() if name.startswith(f"{prefix}.")}
    if all(".lora_A." in name or ".lora_B." in name for name in own):
        converted = {name.replace(".default.", "."): tensor for name, tensor in own.items()}
    elif prefix.startswith("text_encoder"):
        # The types are named, since diffusers knows them by layers that need not be there.
        converted = convert_state_dict_to_diffusers(own, StateDictType.DIFFUSERS_OLD)
        converted = convert_state_dict_to_peft(converted, StateDictType.DIFFUSERS)
    else:
        converted = convert_unet_state_dict_to_peft(own)
    if prefix.startswith("text_encoder") and not hasattr(part, "text_model"):  # transformers made it flat in 5.6
        converted = {name.removeprefix("text_model."): tensor for name, tensor in converted.items()}
    return converted


def _pairs(tensors: Tensors) -> Iterator[tuple[str, tuple[torch.Tensor, torch.Tensor]]]:
    for name, down in tensors.items():
        place = name.removesuffix(".lora_A.weight")
        if place != name and (up := tensors.get(f"{place}.lora_B.weight")) is not None:
            yield place, (down, up)


def _own(factor: torch.Tensor, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """Never a view of the file, which may change."""
    return factor.contiguous().to(device, dtype, copy=True)


def _shaped(layer: Layer, factor: torch.Tensor) -> torch.Tensor:
    """A convolution of one pixel is a matrix, and the other way round: trainers write either. Raises ValueError."""
    if isinstance(layer, torch.nn.Conv2d):
        return factor[:, :, None, None] if factor.ndim == 2 else factor
    if factor[0, 0].numel() != 1:
        raise ValueError("a convolution for a linear layer")
    return factor.flatten(1)


def _require_shapes(layer: Layer, down: torch.Tensor, up: torch.Tensor) -> None:
    expected: tuple[tuple[int, ...], tuple[int, ...]]
    if isinstance(layer, torch.nn.Conv2d):
        expected = (len(down), layer.in_channels, *layer.kernel_size), (layer.out_channels, len(down), 1, 1)
    else:
        expected = (len(down), layer.in_features), (layer.out_features, len(down))
    if not len(down) or (tuple(down.shape), tuple(up.shape)) != expected:
        raise ValueError("shapes")


def _peft_scale(trained: Mapping[str, Any], prefix: str, place: str, rank: int) -> float:
    """What peft multiplies a layer's two factors by, as its configuration in the file's metadata says; 1 without one.

    By `LoraConfig`: a pattern is a layer's name, or the end of it unless it begins with `^`; `use_rslora` divides by
    the root of the rank. Raises ValueError for patterns that are more than a name: they could keep the process busy for
    ever.
    """
    if (alpha := trained.get(f"{prefix}.lora_alpha")) is None:
        return 1.0
    for pattern, own in (trained.get(f"{prefix}.alpha_pattern") or {}).items():
        whole, ending = str(pattern).startswith("^"), str(pattern).strip("^$").replace("\\.", ".")
        if not NAME.fullmatch(ending):
            raise ValueError("a pattern that is no layer's name")
        names = (place, f"text_model.{place}")
        if ending in names or (not whole and any(name.endswith(f".{ending}") for name in names)):
            alpha = own
            break
    return float(alpha) / (math.sqrt(rank) if trained.get(f"{prefix}.use_rslora") else rank)
