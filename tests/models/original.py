"""Writes a diffusers folder's weights into one file, in the layout that Stable Diffusion 1.x was published in.

The way back from what diffusers converts when it reads such a file; the shapes may be any.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

UNET, VAE, CLIP = "model.diffusion_model.", "first_stage_model.", "cond_stage_model.transformer."
UNET_NAMES = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
OPEN_CLIP_LAYER = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "self_attn.out_proj": "attn.out_proj",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}
OPEN_CLIP = {
    "embeddings.position_embedding.weight": "positional_embedding",
    "embeddings.token_embedding.weight": "token_embedding.weight",
    "final_layer_norm.weight": "ln_final.weight",
    "final_layer_norm.bias": "ln_final.bias",
}
VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def write_original(folder: Path, file: Path, metadata: dict[str, str] | None = None) -> Path:
    """Write the weights of the model in `folder` to `file`; returns it."""
    configs = {
        part: json.loads((folder / part / "config.json").read_text(encoding="utf-8")) for part in ("unet", "vae")
    }
    tensors = {
        **original_unet(_weights(folder / "unet"), configs["unet"]),
        **original_vae(_weights(folder / "vae"), configs["vae"]),
        **original_clip(_weights(folder / "text_encoder")),
    }
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file, metadata=metadata)
    return file


def original_unet(tensors: Mapping[str, torch.Tensor], config: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """A UNet's tensors under their original names."""
    layers, blocks = config["layers_per_block"], config["down_block_types"]
    return {UNET + unet_name(name, layers, blocks): tensor for name, tensor in tensors.items()}


def original_controlnet(tensors: Mapping[str, torch.Tensor], config: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """A ControlNet's, without what names begin with where it was saved with a model around it."""
    layers, blocks = config["layers_per_block"], config["down_block_types"]
    return {_control_name(name, layers, blocks): tensor for name, tensor in tensors.items()}


def original_vae(tensors: Mapping[str, torch.Tensor], config: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """A VAE's; its attention was published as convolutions of one pixel."""
    return {
        VAE + vae_name(name, len(config["block_out_channels"])): (
            tensor[:, :, None, None] if ".attentions." in name and tensor.ndim == 2 else tensor
        )
        for name, tensor in tensors.items()
    }


def original_clip(tensors: Mapping[str, torch.Tensor], prefix: str = CLIP) -> dict[str, torch.Tensor]:
    """OpenAI's CLIP, whose names transformers took over; positions were saved with it."""
    named = {f"{prefix}text_model.{name.removeprefix('text_model.')}": tensor for name, tensor in tensors.items()}
    return named | {f"{prefix}text_model.embeddings.position_ids": torch.arange(77)[None]}


def original_open_clip(
    tensors: Mapping[str, torch.Tensor], prefix: str, spare_layers: int = 0
) -> dict[str, torch.Tensor]:
    """OpenCLIP's: queries, keys and values in one matrix, the projection the other way round.

    `spare_layers` are written behind those that are used: Stable Diffusion 2 reads the last but one.
    """
    plain = {name.removeprefix("text_model."): tensor for name, tensor in tensors.items()}
    named: dict[str, torch.Tensor] = {}
    layers = 1 + max(int(name.split(".")[2]) for name in plain if name.startswith("encoder.layers."))
    for place in range(layers + spare_layers):
        source = f"encoder.layers.{min(place, layers - 1)}."
        target = f"{prefix}transformer.resblocks.{place}."
        for kind in ("weight", "bias"):
            parts = [plain[f"{source}self_attn.{which}_proj.{kind}"] for which in "qkv"]
            named[f"{target}attn.in_proj_{kind}"] = torch.cat(parts)
            for new, old in OPEN_CLIP_LAYER.items():
                named[f"{target}{old}.{kind}"] = plain[f"{source}{new}.{kind}"].clone()
    for new, old in OPEN_CLIP.items():
        named[prefix + old] = plain[new]
    width = plain["final_layer_norm.weight"].shape[0]
    none = plain["final_layer_norm.weight"].new_zeros(width, width)
    return named | {f"{prefix}text_projection": plain.get("text_projection.weight", none).T}


def _control_name(name: str, layers: int, blocks: list[str]) -> str:
    match name.split("."):
        case ["controlnet_cond_embedding", "conv_in", kind]:
            return f"input_hint_block.0.{kind}"
        case ["controlnet_cond_embedding", "blocks", number, kind]:
            return f"input_hint_block.{2 * int(number) + 2}.{kind}"
        case ["controlnet_cond_embedding", "conv_out", kind]:
            return f"input_hint_block.14.{kind}"
        case ["controlnet_down_blocks", number, kind]:
            return f"zero_convs.{number}.0.{kind}"
        case ["controlnet_mid_block", kind]:
            return f"middle_block_out.0.{kind}"
    return unet_name(name, layers, blocks)


def _weights(part: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for file in sorted(part.glob("*.safetensors")) for name, tensor in load_file(file).items()}


def unet_name(name: str, layers: int, down_blocks: list[str]) -> str:
    """A tensor of the UNet, in the original numbering: one block for every layer and for every change of size."""
    for new, old in UNET_NAMES.items():
        if name.startswith(f"{new}."):
            return old + name.removeprefix(new)
    match name.split("."):
        case ["down_blocks", block, "downsamplers", "0", "conv", kind]:
            return f"input_blocks.{(int(block) + 1) * (layers + 1)}.0.op.{kind}"
        case ["down_blocks", block, what, layer, *rest]:
            place = int(block) * (layers + 1) + int(layer) + 1
            return f"input_blocks.{place}.{_inside(what, rest)}"
        case ["mid_block", "resnets", layer, *rest]:
            return f"middle_block.{2 * int(layer)}.{_resnet(rest)}"
        case ["mid_block", "attentions", _, *rest]:
            return f"middle_block.1.{'.'.join(rest)}"
        case ["up_blocks", block, "upsamplers", "0", *rest]:
            place = (int(block) + 1) * (layers + 1) - 1
            # Behind the attention, where this level has one.
            attends = down_blocks[len(down_blocks) - 1 - int(block)].startswith("CrossAttn")
            return f"output_blocks.{place}.{2 if attends else 1}.{'.'.join(rest)}"
        case ["up_blocks", block, what, layer, *rest]:
            place = int(block) * (layers + 1) + int(layer)
            return f"output_blocks.{place}.{_inside(what, rest)}"
    raise AssertionError(name)


def vae_name(name: str, levels: int) -> str:
    """A tensor of the VAE; the decoder counts its levels from the other end."""
    match name.split("."):
        case [side, "mid_block", "resnets", layer, *rest]:
            return f"{side}.mid.block_{int(layer) + 1}.{_vae_resnet(rest)}"
        case [side, "mid_block", "attentions", _, *rest]:
            inside = ".".join(rest)
            for new, old in VAE_ATTENTION.items():
                inside = inside.replace(f"{new}.", f"{old}.")
            return f"{side}.mid.attn_1.{inside}"
        case ["encoder", "down_blocks", block, "resnets", layer, *rest]:
            return f"encoder.down.{block}.block.{layer}.{_vae_resnet(rest)}"
        case ["encoder", "down_blocks", block, "downsamplers", "0", *rest]:
            return f"encoder.down.{block}.downsample.{'.'.join(rest)}"
        case ["decoder", "up_blocks", block, "resnets", layer, *rest]:
            return f"decoder.up.{levels - 1 - int(block)}.block.{layer}.{_vae_resnet(rest)}"
        case ["decoder", "up_blocks", block, "upsamplers", "0", *rest]:
            return f"decoder.up.{levels - 1 - int(block)}.upsample.{'.'.join(rest)}"
        case _:
            return name.replace("conv_norm_out", "norm_out")


def _inside(what: str, rest: list[str]) -> str:
    return f"0.{_resnet(rest)}" if what == "resnets" else f"1.{'.'.join(rest)}"


def _resnet(rest: list[str]) -> str:
    return ".".join([RESNET[rest[0]], *rest[1:]])


def _vae_resnet(rest: list[str]) -> str:
    return ".".join(["nin_shortcut" if rest[0] == "conv_shortcut" else rest[0], *rest[1:]])
