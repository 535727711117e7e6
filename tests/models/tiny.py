"""A Stable Diffusion of toy size with random weights, as a diffusers folder that the stock pipeline loads."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from diffusers import (
    AutoencoderKL,
    PNDMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from tests.fakes import make_params
from tests.schedulers import stock_scheduler
from worker.jobs.params import JobParams
from worker.models.builtin.training.tokenizer import write_tokenizer

SIDE_PX = 32
WIDTH = 32
SCHEDULER_CONFIG = {
    "_class_name": "PNDMScheduler",
    "_diffusers_version": "0.6.0",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
}
"""What Stable Diffusion 1.5 has in its folder: it does not say how timesteps are spaced."""


def write_tiny(folder: Path) -> Path:
    """Write the model into `folder`, always the same."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        write_tokenizer(folder / "tokenizer")
        tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
        text = CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=WIDTH,
            intermediate_size=2 * WIDTH,
            projection_dim=WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        unet = UNet2DConditionModel(
            sample_size=SIDE_PX // 2,
            block_out_channels=(32, 64),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            layers_per_block=1,
            cross_attention_dim=WIDTH,
            attention_head_dim=4,
            norm_num_groups=8,
        )
        vae = AutoencoderKL(
            block_out_channels=(16, 32),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            layers_per_block=1,
            latent_channels=4,
            norm_num_groups=8,
            sample_size=SIDE_PX,
        )
        with torch.no_grad():
            # Untrained parts hardly speak; so they are heard: prompts change pictures, and pictures are not grey.
            unet.conv_out.weight *= 3
            for name, parameter in unet.named_parameters():
                if "attn2" in name:
                    parameter *= 3
            vae.decoder.conv_out.weight *= 4
        StableDiffusionPipeline(
            vae=vae,
            text_encoder=CLIPTextModel(text),
            tokenizer=tokenizer,
            unet=unet,
            scheduler=PNDMScheduler.from_config(SCHEDULER_CONFIG),
            safety_checker=None,
            feature_extractor=None,
            image_encoder=None,
            requires_safety_checker=False,
        ).save_pretrained(folder)
    (folder / "scheduler/scheduler_config.json").write_text(json.dumps(SCHEDULER_CONFIG), encoding="utf-8")
    return folder


def load_stock(folder: Path) -> StableDiffusionPipeline:
    """The pipeline that everything is held against."""
    pipeline = StableDiffusionPipeline.from_pretrained(folder, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def by_stock(pipeline: StableDiffusionPipeline, asked: JobParams, index: int = 0) -> npt.NDArray[np.uint8]:
    """Image `index` of a job as the stock pipeline draws it.  # [H, W, 3]"""
    before = pipeline.scheduler
    pipeline.scheduler = stock_scheduler(asked.sampler, before.config)
    try:
        images = pipeline(
            asked.prompt,
            negative_prompt=asked.negative_prompt,
            width=asked.width,
            height=asked.height,
            num_inference_steps=asked.steps,
            guidance_scale=asked.guidance_scale,
            generator=torch.Generator("cpu").manual_seed(asked.seed + index),
        ).images
    finally:
        pipeline.scheduler = before
    return np.asarray(images[0])


def job(**changes: object) -> JobParams:
    """What the tiny model draws, some of it changed."""
    usual = {"width": SIDE_PX, "height": SIDE_PX, "steps": 6, "guidance_scale": 5.0, "seed": 42}
    return make_params(**usual | changes)


def psnr_db(a: npt.NDArray[np.uint8], b: npt.NDArray[np.uint8]) -> float:
    """Peak signal to noise; 99 where nothing differs."""
    error = float(((a.astype(float) - b.astype(float)) ** 2).mean())
    return 99.0 if error == 0 else 10 * float(np.log10(255.0**2 / error))
