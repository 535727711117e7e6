"""The shipped model folder: what the stock pipeline makes of it, and that our step loop makes the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline

from shared_worker.device import find_device
from tests.models.tiny import by_stock, load_stock, psnr_db
from tests.schedulers import SCHEDULERS
from worker.engine.denoiser import Denoiser
from worker.jobs.params import ImageFormat, JobParams, OnDisconnect, OutputParams, Priority, Task
from worker.models.builtin.training.scenes import COLOURS
from worker.models.registry import BUILTIN, identify

MAX_BYTES = 16_000_000


@pytest.fixture(scope="module")
def stock() -> StableDiffusionPipeline:
    return load_stock(BUILTIN)


@pytest.fixture(scope="module")
def ours() -> Denoiser:
    checkpoint = identify("builtin", dtype="float32", samplers=tuple(SCHEDULERS))
    denoiser = Denoiser(lambda report: checkpoint.load(find_device("cpu"), report))
    denoiser.load(lambda share: None)
    return denoiser


def params(prompt: str, sampler: str, seed: int, steps: int = 8, guidance_scale: float = 4.0) -> JobParams:
    return JobParams(
        Task.TEXT_TO_IMAGE, prompt, "blurry", 128, 128, steps, guidance_scale, seed, 1, sampler, None,
        OutputParams(ImageFormat.PNG, 90, False, True), Priority.NORMAL, OnDisconnect.CONTINUE, 60.0, {},
    )  # fmt: skip


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
    assert psnr_db(ours.finish(drawing), by_stock(stock, asked)) >= 40


def test_in_company_a_picture_stays_what_it_is(stock: StableDiffusionPipeline, ours: Denoiser) -> None:
    jobs = [
        params("a red circle on a blue background", "euler", 1, steps=6),
        params("a large yellow star", "ddim", 2, steps=9, guidance_scale=1.0),
        params("a black ring on the left", "dpmpp_2m", 3, steps=12, guidance_scale=6.0),
    ]
    drawings = [next(ours.open(job)) for job in jobs]
    while waiting := [drawing for drawing in drawings if not drawing.done]:
        ours.step(waiting)
    for job, drawing in zip(jobs, drawings, strict=True):
        assert psnr_db(ours.finish(drawing), by_stock(stock, job)) >= 35


@pytest.mark.parametrize("sampler", ["dpmpp_2m", "euler_a", "unipc"])
def test_in_exact_mode_company_does_not_change_one_byte(sampler: str) -> None:
    checkpoint = identify("builtin", dtype="float32", samplers=tuple(SCHEDULERS))
    padding: list[int] = []
    exact = Denoiser(
        lambda report: checkpoint.load(find_device("cpu"), report), fixed_rows=8, on_padding=padding.append
    )
    exact.load(lambda share: None)
    asked = params("a red circle on a blue background", sampler, 1, steps=5)
    pictures = []
    for others in (0, 1, 3):
        drawings = [
            *(
                next(exact.open(params("a star", "ddim", 9 + k, steps=4 + k, guidance_scale=1.0 + k)))
                for k in range(others)
            ),
            *exact.open(asked),
        ]
        while waiting := [drawing for drawing in drawings if not drawing.done]:
            exact.step(waiting)
        pictures.append((drawings[-1].latent, exact.finish(drawings[-1])))
        if not others:
            assert set(padding) == {6}, "of eight rows two are the picture's"
    for latent, picture in pictures[1:]:
        assert torch.equal(latent, pictures[0][0])
        assert np.array_equal(picture, pictures[0][1])


@pytest.mark.parametrize("colours", [("red", "blue"), ("green", "white"), ("yellow", "black"), ("purple", "pink")])
def test_a_preview_has_the_colours_that_were_asked_for(ours: Denoiser, colours: tuple[str, str]) -> None:
    asked = params(f"a large {colours[0]} circle on a {colours[1]} background", "dpmpp_2m", 1, guidance_scale=2.5)
    (drawing,) = ours.open(asked)
    while drawing.step < 6:
        ours.step([drawing])
    seen = ours.preview(drawing).astype(float)  # [16, 16, 3]
    assert (name_of(seen[7:9, 7:9].mean(axis=(0, 1))), name_of(seen[1, 1])) == colours


def name_of(rgb: np.ndarray) -> str:
    """The named colour that is nearest."""
    return min(COLOURS, key=lambda name: float(np.linalg.norm(rgb - np.asarray(COLOURS[name]))))


def test_the_model_card_says_how_it_was_made() -> None:
    card = (Path(BUILTIN) / "README.md").read_text(encoding="utf-8")
    for heading in ("Data", "Recipe", "Rates", "Licence", "Size"):
        assert f"## {heading}" in card
