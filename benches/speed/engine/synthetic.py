"""Models of real size with random weights, from their configurations alone. Nothing is downloaded.

They draw noise, and take exactly as long for it as trained ones.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DPMSolverMultistepScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from benches.speed.bench import BUILTIN


@dataclass(frozen=True)
class Widths:
    """Channels: of the UNet's levels, of the VAE's, of the text encoder; and the layers of that."""

    unet: tuple[int, ...] = (320, 640, 1280, 1280)
    vae: tuple[int, ...] = (128, 256, 512, 512)
    text: int = 768
    text_layers: int = 12


SD15 = Widths()
TOY = Widths((32, 64, 64, 64), (32, 32, 32, 32), 64, 2)
"""For a run that only shows that it runs."""


def write_sd15(folder: Path, widths: Widths, *, side_px: int, device: str, dtype: torch.dtype) -> Path:
    """A diffusers folder of Stable Diffusion 1.5's architecture, native to pictures of `side_px`."""
    # Any words will do: a prompt is always 77 tokens.
    shutil.copytree(BUILTIN / "tokenizer", folder / "tokenizer")
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
    torch.manual_seed(0)
    with torch.device(device):
        text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=49408,
                hidden_size=widths.text,
                intermediate_size=4 * widths.text,
                projection_dim=widths.text,
                num_hidden_layers=widths.text_layers,
                num_attention_heads=max(1, widths.text // 64),
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        )
        unet = UNet2DConditionModel(
            sample_size=side_px // 8, block_out_channels=widths.unet, cross_attention_dim=widths.text
        )
        vae = AutoencoderKL(
            block_out_channels=widths.vae,
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
            sample_size=side_px,
        )
    StableDiffusionPipeline(
        vae=vae.to(dtype),
        text_encoder=text_encoder.to(dtype),
        tokenizer=tokenizer,
        unet=unet.to(dtype),
        scheduler=DPMSolverMultistepScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1
        ),
        safety_checker=None,
        feature_extractor=None,
        image_encoder=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)
    return folder


def sdxl_unet(device: str, dtype: torch.dtype) -> Any:
    """The UNet of SDXL's architecture."""
    torch.manual_seed(0)
    with torch.device(device):
        unet = UNet2DConditionModel(
            sample_size=128,
            block_out_channels=(320, 640, 1280),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=(1, 2, 10),
            attention_head_dim=(5, 10, 20),
            cross_attention_dim=2048,
            addition_embed_type="text_time",
            addition_time_embed_dim=256,
            projection_class_embeddings_input_dim=2816,
            use_linear_projection=True,
        )
    return unet.to(dtype).eval().requires_grad_(False)
