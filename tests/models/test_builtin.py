"""The shipped model folder: what the stock pipeline makes of it, and that our step loop makes the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler, StableDiffusionPipeline

from shared_worker.device import find_device
from worker.engine import sampling
from worker.engine.denoiser import Denoiser
from worker.jobs.params import ImageFormat, JobParams, OnDisconnect, OutputParams, Priority, Task
from worker.models.registry import BUILTIN, identify

# diffusers' schedulers hand tensors to numpy in the old way.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

MAX_BYTES = 16_000_000
SCHEDULERS = {
    "ddim": (DDIMScheduler, {"clip_sample": False}),
    "euler": (EulerDiscreteScheduler, {}),
    "dpmpp_2m": (DPMSolverMultistepScheduler, {}),
}


@pytest.fixture(scope="module")
def stock() -> StableDiffusionPipeline:
    pipeline = StableDiffusionPipeline.from_pretrained(BUILTIN, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module")
def ours() -> Denoiser:
    checkpoint = identify("builtin", dtype="float32", samplers=tuple(sampling.SAMPLERS))
    denoiser = Denoiser(lambda report: checkpoint.load(find_device("cpu"), report))
    denoiser.load(lambda share: None)
    return denoiser


def params(prompt: str, sampler: str, seed: int, steps: int = 8, guidance_scale: float = 4.0) -> JobParams:
    return JobParams(
        Task.TEXT_TO_IMAGE, prompt, "blurry", 128, 128, steps, guidance_scale, seed, 1, sampler, None,
        OutputParams(ImageFormat.PNG, 90, False, True), Priority.NORMAL, OnDisconnect.CONTINUE, 60.0, {},
    )  # fmt: skip


def psnr_db(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255.0**2 / max(1e-9, float(((a.astype(float) - b.astype(float)) ** 2).mean()))))


def by_pipeline(stock: StableDiffusionPipeline, asked: JobParams) -> np.ndarray:
    scheduler, changes = SCHEDULERS[asked.sampler]
    stock.scheduler = scheduler.from_config(stock.scheduler.config, **changes)
    picture = stock(
        asked.prompt,
        negative_prompt=asked.negative_prompt,
        num_inference_steps=asked.steps,
        guidance_scale=asked.guidance_scale,
        generator=torch.Generator().manual_seed(asked.seed),
    ).images[0]
    return np.asarray(picture)


def test_it_is_small_and_holds_nothing_but_safetensors_and_text() -> None:
    files = [path for path in BUILTIN.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= MAX_BYTES
    assert {path.suffix for path in files} <= {".json", ".safetensors", ".txt", ".md"}


def test_its_tokenizer_takes_any_text(stock: StableDiffusionPipeline) -> None:
    for text in ("🦓", "ünknöwn", "\x01\x7f", "word " * 400, ""):
        ids = stock.tokenizer(text, padding="max_length", max_length=77, truncation=True).input_ids
        assert len(ids) == 77
        assert max(ids) < stock.text_encoder.config.vocab_size


@pytest.mark.parametrize("sampler", SCHEDULERS)
def test_each_sampler_draws_the_stock_pipelines_picture(
    stock: StableDiffusionPipeline, ours: Denoiser, sampler: str
) -> None:
    asked = params("a red circle on a blue background", sampler, seed=42)
    (drawing,) = ours.open(asked)
    while not drawing.done:
        ours.step([drawing])
    assert psnr_db(ours.finish(drawing), by_pipeline(stock, asked)) >= 40


def test_in_company_a_picture_stays_what_it_is(stock: StableDiffusionPipeline, ours: Denoiser) -> None:
    jobs = [
        params("a red circle on a blue background", "euler", 1, steps=6),
        params("a large yellow star", "ddim", 2, steps=9, guidance_scale=1.0),
        params("a black ring on the left", "dpmpp_2m", 3, steps=12, guidance_scale=6.0),
    ]
    drawings = [ours.open(job)[0] for job in jobs]
    while waiting := [drawing for drawing in drawings if not drawing.done]:
        ours.step(waiting)
    for job, drawing in zip(jobs, drawings, strict=True):
        assert psnr_db(ours.finish(drawing), by_pipeline(stock, job)) >= 35


def test_the_model_card_says_how_it_was_made() -> None:
    card = (Path(BUILTIN) / "README.md").read_text(encoding="utf-8")
    for heading in ("Data", "Recipe", "Rates", "Licence", "Size"):
        assert f"## {heading}" in card
