"""The stock diffusers pipeline as every reference arm uses it. Knows no server."""

from __future__ import annotations

import base64
import copy
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline
from diffusers.utils import logging

from benches.speed.job import Job


def load(
    model: Path, *, kind: Any = StableDiffusionPipeline, device: str = "cpu", dtype: torch.dtype = torch.float32
) -> Any:
    """The pipeline of a model folder, a `kind` of diffusers, without progress bars."""
    logging.disable_progress_bar()
    pipeline = kind.from_pretrained(model, dtype=dtype, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(device)


def compiled(pipeline: Any) -> Any:
    """Another pipeline over the same weights, its denoiser compiled as most would do it: with `torch.compile`."""
    other = copy.copy(pipeline)
    other.unet = torch.compile(pipeline.unet)
    return other


def draw(pipeline: Any, jobs: Sequence[Job]) -> list[Any]:
    """Pillow images of jobs that are equal but for prompt and seed, in one call."""
    first = jobs[0]
    images: list[Any] = pipeline(
        [job.prompt for job in jobs],
        generator=[torch.Generator("cpu").manual_seed(job.seed) for job in jobs],
        num_inference_steps=first.steps,
        guidance_scale=first.guidance_scale,
        width=first.width,
        height=first.height,
    ).images
    return images


def as_base64_png(image: Any) -> str:
    """With Pillow's defaults, as most servers have it."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()
