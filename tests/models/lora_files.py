"""LoRA files with random weights in the layouts that trainers write, for a model's parts by the names of its layers."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from worker.jobs.params import JobParams

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "proj_in", "proj_out")
CONVOLUTIONS = ("conv1", "conv2", "conv_shortcut", "time_emb_proj", "downsamplers.0.conv", "upsamplers.0.conv")
TEXT = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")
KOHYA = {
    "unet": "lora_unet",
    "transformer": "lora_transformer",
    "text_encoder": "lora_te1",
    "text_encoder_2": "lora_te2",
}
Factors = Mapping[tuple[str, str], tuple[torch.Tensor, torch.Tensor]]
"""Down and up by part and layer."""


def layers(parts: Mapping[str, Any], endings: Iterable[str]) -> Iterator[tuple[str, str, Any]]:
    """Every linear layer and convolution with one of these endings: part, name, layer."""
    wanted = tuple(endings)
    for part, module in parts.items():
        for name, layer in module.named_modules():
            if f".{name}".endswith(tuple(f".{one}" for one in wanted)) and hasattr(layer, "weight"):
                yield part, name, layer


def make_factors(
    parts: Mapping[str, Any], seed: int, endings: Iterable[str], rank: int = 4, strength: float = 0.4
) -> dict[tuple[str, str], tuple[torch.Tensor, torch.Tensor]]:
    """Random ones, that are heard; `parts` by their names, as the stock pipeline has them."""
    generator = torch.Generator().manual_seed(seed)
    made = {}
    for part, name, layer in layers(parts, endings):
        out, *inside = layer.weight.shape
        down = torch.randn((rank, *inside), generator=generator) / torch.tensor(inside).prod().sqrt()
        up = torch.randn((out, rank, *[1] * len(inside[1:])), generator=generator) * strength / rank**0.5
        # Each counts by how much its layer's own weights do.
        made[part, name] = down, up * layer.weight.detach().std() * torch.tensor(inside).prod().sqrt()
    return made


def write_diffusers(file: Path, factors: Factors, metadata: Mapping[str, str] | None = None) -> Path:
    """As peft and diffusers write it today."""
    tensors = {}
    for (part, name), (down, up) in factors.items():
        place = f"{part}.{_as_files_have_it(part, name)}"
        tensors |= {f"{place}.lora_A.weight": down, f"{place}.lora_B.weight": up}
    return _saved(file, tensors, metadata)


def write_kohya(
    file: Path,
    factors: Factors,
    *,
    alpha: float | None = None,
    te: str = "lora_te1",
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """As kohya's sd-scripts write it; what of both factors `alpha` makes more or less, `up` makes up for."""
    tensors = {}
    for (part, name), (down, up) in factors.items():
        prefix = te if part == "text_encoder" else KOHYA[part]
        place = f"{prefix}_{_as_files_have_it(part, name).replace('.', '_')}"
        own = len(down) if alpha is None else alpha
        tensors |= {
            f"{place}.lora_down.weight": down,
            f"{place}.lora_up.weight": up * len(down) / own,
            f"{place}.alpha": torch.tensor(float(own)),
        }
    return _saved(file, tensors, metadata)


def adapted(pipeline: Any, folder: Path, asked: JobParams) -> Any:
    """A stock pipeline with a job's adapters, which lie in the folder."""
    for number, one in enumerate(asked.loras):
        file = folder / f"{one.name}.safetensors"
        with warnings.catch_warnings():  # that there is one already
            warnings.filterwarnings("ignore", message="Already found a `peft_config`")
            pipeline.load_lora_weights(file.parent, weight_name=file.name, adapter_name=f"number_{number}")
    if asked.loras:
        names = [f"number_{number}" for number in range(len(asked.loras))]
        pipeline.set_adapters(names, [one.scale for one in asked.loras])
    return pipeline


def _as_files_have_it(part: str, name: str) -> str:
    """Trainers know CLIP as it was before transformers made it flat."""
    return f"text_model.{name}" if part.startswith("text_encoder") and not name.startswith("text_model.") else name


def _saved(file: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str] | None) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file, dict(metadata or {}) or None)
    return file
