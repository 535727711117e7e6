"""Parity of long, weighted and negative prompts: the stock pipeline's pictures from encodings made by hand."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import save_file

from shared_worker.device import find_device
from tests.models.tiny import WIDTH, by_stock, job, load_stock, psnr_db
from tests.schedulers import SCHEDULERS, stock_scheduler
from worker.engine.denoiser import Denoiser
from worker.engine.latent_drawing import LatentDrawing
from worker.engine.runner import Pixels
from worker.jobs.facts import EmbeddingFacts
from worker.jobs.params import JobParams
from worker.models.prompts.weighting import weigh
from worker.models.registry import identify

ALONE_DB = 40
LONG = "a large red circle on the left, " * 12
LONG_CHUNKS = ("a large red circle on the left, " * 9, "a large red circle on the left, " * 3)
VECTORS = torch.randn((3, WIDTH), generator=torch.Generator().manual_seed(4))


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Several only get into each other's way at this size."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def stock(tiny: Path) -> StableDiffusionPipeline:
    pipeline = load_stock(tiny)
    pipeline.load_textual_inversion({"<crayon>": VECTORS})
    return pipeline


@pytest.fixture(scope="module")
def denoiser(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Denoiser:
    folder = tmp_path_factory.mktemp("embeddings")
    save_file({"emb_params": VECTORS}, folder / "crayon.safetensors")
    checkpoint = identify(str(tiny), dtype="float32", samplers=tuple(SCHEDULERS)).with_embeddings(folder)
    assert checkpoint.facts.embeddings == (EmbeddingFacts("crayon", 3, True),)
    loaded = Denoiser(lambda report: checkpoint.load(find_device("cpu"), report))
    loaded.load(lambda share: None)
    return loaded


def draw(denoiser: Denoiser, *jobs: JobParams) -> list[Pixels]:
    """Each job's picture; those that can share a call do, turn by turn."""
    opened: list[LatentDrawing] = [one for asked in jobs for one in denoiser.open(asked)]
    while waiting := [one for one in opened if not one.done]:
        least = min(waiting, key=lambda one: one.step)
        denoiser.step([one for one in waiting if one.key == least.key])
    return [denoiser.finish(one) for one in opened]


def encoded(stock: StableDiffusionPipeline, *chunks: str) -> torch.Tensor:
    """Each chunk by the stock pipeline, one behind the other.  # [1, 77 chunks, width]"""
    with torch.inference_mode():
        return torch.cat([stock.encode_prompt(one, torch.device("cpu"), 1, False)[0] for one in chunks], dim=1)


def by_hand(stock: StableDiffusionPipeline, asked: JobParams, prompt: Any, negative: Any = None) -> Pixels:
    """The stock pipeline's picture from encodings."""
    before = stock.scheduler
    stock.scheduler = stock_scheduler(asked.sampler, before.config)
    try:
        images = stock(
            prompt_embeds=prompt,
            negative_prompt_embeds=negative,
            width=asked.width,
            height=asked.height,
            num_inference_steps=asked.steps,
            guidance_scale=asked.guidance_scale,
            generator=torch.Generator("cpu").manual_seed(asked.seed),
        ).images
    finally:
        stock.scheduler = before
    return np.asarray(images[0])


def test_a_long_prompt_is_not_cut(stock: StableDiffusionPipeline, denoiser: Denoiser) -> None:
    asked = job(prompt=LONG)
    [picture] = draw(denoiser, asked)
    expected = by_hand(stock, asked, encoded(stock, *LONG_CHUNKS), encoded(stock, "", ""))
    assert psnr_db(picture, expected) >= ALONE_DB
    assert psnr_db(picture, by_stock(stock, asked)) < 35, "which the stock pipeline alone cuts"


@pytest.mark.parametrize(
    ("prompt", "negative", "chunks", "negative_chunks"),
    [
        ("a red circle", LONG, ("a red circle", ""), LONG_CHUNKS),
        (LONG, "green, blurry", LONG_CHUNKS, ("green, blurry", "")),
        ("a BREAK b BREAK c", "d BREAK e", ("a", "b", "c"), ("d", "e", "")),
    ],
)
def test_a_negative_prompt_of_another_length(
    stock: StableDiffusionPipeline,
    denoiser: Denoiser,
    prompt: str,
    negative: str,
    chunks: tuple[str, ...],
    negative_chunks: tuple[str, ...],
) -> None:
    asked = job(prompt=prompt, negative_prompt=negative)
    [picture] = draw(denoiser, asked)
    expected = by_hand(stock, asked, encoded(stock, *chunks), encoded(stock, *negative_chunks))
    assert psnr_db(picture, expected) >= ALONE_DB


def test_weights_of_one_are_no_weights(stock: StableDiffusionPipeline, denoiser: Denoiser) -> None:
    plain, weighted = job(prompt="a red circle"), job(prompt="a (red:1.0) [(circle)]")
    one, other = draw(denoiser, plain)[0], draw(denoiser, weighted)[0]
    assert np.array_equal(one, other)
    assert psnr_db(one, by_stock(stock, plain)) >= ALONE_DB


def test_weights_change_the_picture_as_they_do_by_hand(stock: StableDiffusionPipeline, denoiser: Denoiser) -> None:
    asked = job(prompt="a (red:1.6) circle, [blue]", negative_prompt="(green:0.4)")
    [picture] = draw(denoiser, asked)
    weights, negative_weights = torch.ones((1, 77)), torch.ones((1, 77))
    weights[0, 2], weights[0, 5], negative_weights[0, 1] = 1.6, 1 / 1.1, 0.4
    prompt = weigh(encoded(stock, "a red circle, blue"), weights)
    expected = by_hand(stock, asked, prompt, weigh(encoded(stock, "green"), negative_weights))
    assert psnr_db(picture, expected) >= ALONE_DB
    assert psnr_db(picture, by_stock(stock, job(prompt="a red circle, blue", negative_prompt="green"))) < 40


def test_an_embedding_draws_what_it_draws_in_the_stock_pipeline(
    stock: StableDiffusionPipeline, denoiser: Denoiser
) -> None:
    [picture] = draw(denoiser, job(prompt="a Crayon circle", negative_prompt="crayon"))
    expected = by_stock(stock, job(prompt="a <crayon> circle", negative_prompt="<crayon>"))
    assert psnr_db(picture, expected) >= ALONE_DB
    assert psnr_db(picture, by_stock(stock, job(prompt="a crayon circle", negative_prompt="crayon"))) < 35


def test_long_and_short_prompts_at_once_each_are_their_own(stock: StableDiffusionPipeline, denoiser: Denoiser) -> None:
    jobs = [
        job(prompt=LONG, sampler="euler", steps=6, seed=1),
        job(prompt="a red circle", sampler="ddim", steps=8, seed=2),
        job(prompt="a blue star", negative_prompt=LONG, sampler="dpmpp_2m", steps=5, seed=3),
        job(prompt="a ring", sampler="euler", steps=4, seed=4, guidance_scale=1.0),
    ]
    keys = [next(denoiser.open(asked)).key for asked in jobs]
    assert keys[0] == keys[2]
    assert keys[1] == keys[3]
    assert keys[0] != keys[1]
    nothing = encoded(stock, "", "")
    expected = [
        by_hand(stock, jobs[0], encoded(stock, *LONG_CHUNKS), nothing),
        by_stock(stock, jobs[1]),
        by_hand(stock, jobs[2], encoded(stock, "a blue star", ""), encoded(stock, *LONG_CHUNKS)),
        by_stock(stock, jobs[3]),
    ]
    for picture, its_own in zip(draw(denoiser, *jobs), expected, strict=True):
        assert psnr_db(picture, its_own) >= 35
