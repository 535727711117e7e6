"""Writes a diffusers folder's weights into one file, in the layout that Stable Diffusion 1.x was published in.

The way back from what diffusers converts when it reads such a file; the shapes may be any.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

UNET, VAE, CLIP = "model.diffusion_model.", "first_stage_model.", "cond_stage_model.transformer.text_model."
UNET_NAMES = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
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
VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def write_original(folder: Path, file: Path, metadata: dict[str, str] | None = None) -> Path:
    """Write the weights of the model in `folder` to `file`; returns it."""
    tensors: dict[str, torch.Tensor] = {}
    config = json.loads((folder / "unet/config.json").read_text(encoding="utf-8"))
    for name, tensor in _weights(folder / "unet"):
        tensors[UNET + unet_name(name, config["layers_per_block"], config["down_block_types"])] = tensor
    config = json.loads((folder / "vae/config.json").read_text(encoding="utf-8"))
    for name, tensor in _weights(folder / "vae"):
        # Its attention was published as convolutions of one pixel.
        pixel = tensor[:, :, None, None] if ".attentions." in name and tensor.ndim == 2 else tensor
        tensors[VAE + vae_name(name, len(config["block_out_channels"]))] = pixel
    for name, tensor in _weights(folder / "text_encoder"):
        tensors[CLIP + name.removeprefix("text_model.")] = tensor
    tensors[f"{CLIP}embeddings.position_ids"] = torch.arange(77)[None]
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file, metadata=metadata)
    return file


def _weights(part: Path) -> list[tuple[str, torch.Tensor]]:
    return [pair for file in sorted(part.glob("*.safetensors")) for pair in load_file(file).items()]


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
