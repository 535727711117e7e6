"""Models of real size with random weights, from their configurations alone. Nothing is downloaded.

They draw noise, and take exactly as long for it as trained ones.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DPMSolverMultistepScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from benches.speed.bench import BUILTIN


@dataclass(frozen=True)
class Text:
    """A text encoder of CLIP's kind: channels and layers."""

    width: int
    layers: int


@dataclass(frozen=True)
class Widths:
    """Channels of the UNet's levels and of the VAE's; the text encoders, of which Stable Diffusion 1.5 has one."""

    unet: tuple[int, ...]
    texts: tuple[Text, ...]
    vae: tuple[int, ...] = (128, 256, 512, 512)


SD15 = Widths((320, 640, 1280, 1280), (Text(768, 12),))
SDXL = Widths((320, 640, 1280), (Text(768, 12), Text(1280, 32)))
TOY = Widths((32, 64, 64, 64), (Text(64, 2),), (32, 32, 32, 32))
TOY_XL = Widths((32, 64, 64), (Text(64, 2), Text(64, 2)), (32, 32, 32, 32))
"""For a run that only shows that it runs."""

HEAD = 64
"""Channels of a head of attention."""
SIZE_WIDTH = 256
"""Of each of the six numbers that SDXL is told of a picture's size, as waves."""


def write_sd15(folder: Path, widths: Widths, *, side_px: int, device: str, dtype: torch.dtype) -> Path:
    """A diffusers folder of Stable Diffusion 1.5's architecture, native to pictures of `side_px`."""
    torch.manual_seed(0)
    (text,) = widths.texts
    tokenizer = _tokenizer(folder / "tokenizer")
    with torch.device(device):
        text_encoder = CLIPTextModel(_text_config(text, tokenizer))
        unet = UNet2DConditionModel(
            sample_size=side_px // 8, block_out_channels=widths.unet, cross_attention_dim=text.width
        )
        vae = _vae(widths, side_px, scaling_factor=0.18215)
    StableDiffusionPipeline(
        vae=vae.to(dtype),
        text_encoder=text_encoder.to(dtype),
        tokenizer=tokenizer,
        unet=unet.to(dtype),
        scheduler=_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        image_encoder=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)
    return folder


def write_sdxl(folder: Path, widths: Widths, *, side_px: int, device: str, dtype: torch.dtype) -> Path:
    """A diffusers folder of SDXL's architecture, native to pictures of `side_px`."""
    torch.manual_seed(0)
    first, second = widths.texts
    tokenizers = [_tokenizer(folder / name) for name in ("tokenizer", "tokenizer_2")]
    heads = tuple(max(1, width // HEAD) for width in widths.unet)
    with torch.device(device):
        text_encoder = CLIPTextModel(_text_config(first, tokenizers[0]))
        text_encoder_2 = CLIPTextModelWithProjection(_text_config(second, tokenizers[1], activation="gelu"))
        unet = UNet2DConditionModel(
            sample_size=side_px // 8,
            block_out_channels=widths.unet,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=(1, 2, 10),
            attention_head_dim=heads,  # their number, for historical reasons
            cross_attention_dim=first.width + second.width,
            addition_embed_type="text_time",
            addition_time_embed_dim=SIZE_WIDTH,
            projection_class_embeddings_input_dim=second.width + 6 * SIZE_WIDTH,
            use_linear_projection=True,
        )
        vae = _vae(widths, side_px, scaling_factor=0.13025)
    StableDiffusionXLPipeline(
        vae=vae.to(dtype),
        text_encoder=text_encoder.to(dtype),
        text_encoder_2=text_encoder_2.to(dtype),
        tokenizer=tokenizers[0],
        tokenizer_2=tokenizers[1],
        unet=unet.to(dtype),
        scheduler=_scheduler(),
        add_watermarker=False,
    ).save_pretrained(folder)
    return folder


def _tokenizer(folder: Path) -> Any:
    """Any words will do: a prompt is always 77 tokens."""
    shutil.copytree(BUILTIN / "tokenizer", folder)
    return CLIPTokenizer.from_pretrained(folder, local_files_only=True)


def _text_config(text: Text, tokenizer: Any, activation: str = "quick_gelu") -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=49408,
        hidden_size=text.width,
        intermediate_size=4 * text.width,
        projection_dim=text.width,
        num_hidden_layers=text.layers,
        num_attention_heads=max(1, text.width // HEAD),
        hidden_act=activation,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def _vae(widths: Widths, side_px: int, *, scaling_factor: float) -> Any:
    return AutoencoderKL(
        block_out_channels=widths.vae,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        sample_size=side_px,
        scaling_factor=scaling_factor,
    )


def _scheduler() -> Any:
    return DPMSolverMultistepScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1
    )
