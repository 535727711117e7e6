"""A Stable Diffusion of toy size with random weights, as a diffusers folder that the stock pipeline loads."""

from __future__ import annotations

import inspect
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from diffusers import (
    AutoencoderKL,
    PNDMScheduler,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from PIL import Image as PillowImage
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from tests.fakes import make_params
from tests.schedulers import stock_scheduler
from worker.jobs.params import JobParams, Picture, Task
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


def write_tiny(folder: Path, *, takes_mask: bool = False) -> Path:
    """Write the model into `folder`, always the same; as an inpainting model if it `takes_mask`."""
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
            in_channels=9 if takes_mask else 4,
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
            vae.encoder.conv_out.weight *= 20
        kind = StableDiffusionInpaintPipeline if takes_mask else StableDiffusionPipeline
        kind(
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


STOCK = {
    Task.TEXT_TO_IMAGE: StableDiffusionPipeline,
    Task.IMAGE_TO_IMAGE: StableDiffusionImg2ImgPipeline,
    Task.INPAINTING: StableDiffusionInpaintPipeline,
}


def load_stock(folder: Path, task: Task = Task.TEXT_TO_IMAGE) -> Any:
    """The pipeline that everything is held against."""
    pipeline = STOCK[task].from_pretrained(folder, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def by_stock(pipeline: Any, asked: JobParams, index: int = 0, **more: Any) -> npt.NDArray[np.uint8]:
    """Image `index` of a job as the stock pipeline draws it; `more` is for those that take it.  # [H, W, 3]"""
    given: dict[str, Any] = {"width": asked.width, "height": asked.height}
    if asked.image is not None:
        given |= {"image": pil(asked.image), "strength": asked.strength}
    if asked.mask is not None:
        given["mask_image"] = pil(asked.mask)
    taken = inspect.signature(pipeline.__call__).parameters
    given = {name: value for name, value in (given | more).items() if name in taken}
    before = pipeline.scheduler
    pipeline.scheduler = stock_scheduler(asked.sampler, before.config)
    try:
        images = pipeline(
            asked.prompt,
            negative_prompt=asked.negative_prompt,
            num_inference_steps=asked.steps,
            guidance_scale=asked.guidance_scale,
            generator=torch.Generator("cpu").manual_seed(asked.seed + index),
            **given,
        ).images
    finally:
        pipeline.scheduler = before
    return np.asarray(images[0])


def picture(image: PillowImage.Image, form: str = "PNG") -> Picture:
    """As a client would send it."""
    buffer = io.BytesIO()
    image.save(buffer, form)
    return Picture(image.width, image.height, len(buffer.getvalue()), buffer.getvalue())


def pil(sent: Picture) -> PillowImage.Image:
    return PillowImage.open(io.BytesIO(sent.data))


def scene(width: int = SIDE_PX, height: int = SIDE_PX) -> Picture:
    """A picture to begin with: bars of colours that run into each other."""
    y, x = np.mgrid[0:height, 0:width]
    colours = np.stack([x * 255 / width, y * 255 / height, 128 + 127 * np.sin(x / 3)], axis=-1)
    return picture(PillowImage.fromarray(colours.astype(np.uint8)))


def half_mask(width: int = SIDE_PX, height: int = SIDE_PX) -> Picture:
    """White on the right half."""
    mask = np.zeros((height, width), np.uint8)
    mask[:, width // 2 :] = 255
    return picture(PillowImage.fromarray(mask))


def job(**changes: object) -> JobParams:
    """What the tiny model draws, some of it changed."""
    usual = {"width": SIDE_PX, "height": SIDE_PX, "steps": 6, "guidance_scale": 5.0, "seed": 42}
    return make_params(**usual | changes)


def psnr_db(a: npt.NDArray[np.uint8], b: npt.NDArray[np.uint8]) -> float:
    """Peak signal to noise; 99 where nothing differs."""
    error = float(((a.astype(float) - b.astype(float)) ** 2).mean())
    return 99.0 if error == 0 else 10 * float(np.log10(255.0**2 / error))
