"""Parity: what our step loop draws is what the stock pipeline draws, alone and in company."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline

from shared_worker.device import find_device
from tests.models.tiny import by_stock, job, load_stock, psnr_db
from tests.schedulers import SCHEDULERS
from worker.engine import preview
from worker.engine.denoiser import Denoiser
from worker.engine.runner import Pixels
from worker.jobs.params import JobParams
from worker.models.base import Model
from worker.models.registry import identify

ALONE_DB, IN_COMPANY_DB = 40, 35


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Several only get into each other's way at this size."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def stock(tiny: Path) -> StableDiffusionPipeline:
    return load_stock(tiny)


@pytest.fixture(scope="module")
def model(tiny: Path) -> Model:
    return load(tiny)


@pytest.fixture(scope="module")
def denoiser(model: Model) -> Denoiser:
    loaded = Denoiser(lambda report: model)
    loaded.load(lambda share: None)
    return loaded


def load(folder: Path) -> Model:
    checkpoint = identify(str(folder), dtype="float32", samplers=tuple(SCHEDULERS))
    return checkpoint.load(find_device("cpu"), lambda share: None)


def draw(denoiser: Denoiser, *jobs: JobParams, join_every: int = 0) -> list[list[Pixels]]:
    """The pictures of all jobs, drawn together; each job joins `join_every` steps after the one before."""
    opened = [list(denoiser.open(asked)) for asked in jobs]
    step = 0
    while True:
        joined = opened if join_every == 0 else opened[: 1 + step // join_every]
        waiting = [one for drawings in joined for one in drawings if not one.done]
        if not waiting and len(joined) == len(opened):
            return [[denoiser.finish(one) for one in drawings] for drawings in opened]
        assert len({one.key for one in waiting}) == 1, "all of these can share a call"
        denoiser.step(waiting)
        step += 1


def test_the_tiny_models_pictures_differ_by_what_is_asked(stock: StableDiffusionPipeline) -> None:
    """Else parity would prove nothing."""
    usual = by_stock(stock, job())
    assert usual.std() > 50
    for other in (
        job(prompt="a blue star"),
        job(guidance_scale=1.0),
        job(guidance_scale=7.0),
        job(negative_prompt="green"),
        job(seed=43),
        job(sampler="ddim"),
        job(steps=7),
    ):
        assert psnr_db(usual, by_stock(stock, other)) < 35


@pytest.mark.parametrize("guidance_scale", [1.0, 5.0])
@pytest.mark.parametrize("sampler", SCHEDULERS)
def test_a_job_alone_is_the_stock_pipelines_picture(
    stock: StableDiffusionPipeline, denoiser: Denoiser, sampler: str, guidance_scale: float
) -> None:
    asked = job(sampler=sampler, guidance_scale=guidance_scale, steps=8)
    [[picture]] = draw(denoiser, asked)
    assert picture.shape == (32, 32, 3)
    assert picture.dtype == np.uint8
    assert psnr_db(picture, by_stock(stock, asked)) >= ALONE_DB


@pytest.mark.filterwarnings("ignore:The configuration file of this scheduler:FutureWarning")
def test_what_stock_pipelines_correct_of_an_old_scheduler_is_corrected(
    tiny: Path, stock: StableDiffusionPipeline, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(tiny, tmp_path / "old"))
    file = folder / "scheduler/scheduler_config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    asked = job(sampler="ddim", steps=8)
    expected = by_stock(stock, asked)
    for offset in ({"steps_offset": 0}, {}):
        del config["steps_offset"]
        config |= offset
        file.write_text(json.dumps(config), encoding="utf-8")
        assert load_stock(folder).scheduler.config.steps_offset == 1
        denoiser = Denoiser(lambda report: load(folder))
        denoiser.load(lambda share: None)
        assert psnr_db(draw(denoiser, asked)[0][0], expected) >= ALONE_DB
    index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    index["_class_name"] = "LatentConsistencyModelPipeline"
    (folder / "model_index.json").write_text(json.dumps(index), encoding="utf-8")
    assert "steps_offset" not in load(folder).scheduler_config, "whose stock pipeline does not"


@pytest.mark.parametrize("sampler", SCHEDULERS)
def test_a_negative_prompt_and_other_sizes_are_the_stock_pipelines_too(
    stock: StableDiffusionPipeline, denoiser: Denoiser, sampler: str
) -> None:
    asked = job(sampler=sampler, negative_prompt="green, blurry", width=48, height=24, guidance_scale=7.5)
    [[picture]] = draw(denoiser, asked)
    assert picture.shape == (24, 48, 3)
    assert psnr_db(picture, by_stock(stock, asked)) >= ALONE_DB


def test_image_k_is_the_stock_pipelines_of_seed_plus_k(stock: StableDiffusionPipeline, denoiser: Denoiser) -> None:
    asked = job(num_images=3, seed=2**32)
    [pictures] = draw(denoiser, asked)
    for index, picture in enumerate(pictures):
        assert psnr_db(picture, by_stock(stock, asked, index)) >= IN_COMPANY_DB
    assert psnr_db(pictures[0], pictures[1]) < 20


@pytest.mark.parametrize("join_every", [0, 2])
def test_in_company_every_job_stays_what_it_is(
    stock: StableDiffusionPipeline, denoiser: Denoiser, join_every: int
) -> None:
    jobs = [
        job(prompt="a red circle", sampler="euler", steps=6, seed=1),
        job(prompt="a large yellow star on the left", sampler="ddim", steps=9, seed=2, guidance_scale=2.5),
        job(prompt="ring " * 75, sampler="dpmpp_2m", steps=11, seed=3, negative_prompt="blue"),
        job(prompt="", sampler="ddim", steps=7, seed=4, guidance_scale=1.0),
        job(prompt="🦓", sampler="dpmpp_2m", steps=4, seed=5, guidance_scale=9.0, num_images=2),
        job(prompt="a red circle", sampler="euler", steps=1, seed=6, guidance_scale=1.0),
        *(job(sampler=sampler, steps=5, seed=7 + k) for k, sampler in enumerate(SCHEDULERS)),
    ]
    for asked, pictures in zip(jobs, draw(denoiser, *jobs, join_every=join_every), strict=True):
        for index, picture in enumerate(pictures):
            assert psnr_db(picture, by_stock(stock, asked, index)) >= IN_COMPANY_DB, asked


def test_the_same_job_twice_is_the_same_picture_to_the_last_bit(denoiser: Denoiser) -> None:
    [[first]], [[second]] = draw(denoiser, job()), draw(denoiser, job())
    assert np.array_equal(first, second)


def test_the_preview_map_is_fitted_to_the_vae(model: Model) -> None:
    colour_map = preview.fit(model)
    assert colour_map.shape == (5, 3)
    assert torch.allclose(colour_map, preview.fit(model), atol=1e-4)
    generator = torch.Generator().manual_seed(7)
    pixels = torch.nn.functional.interpolate(2 * torch.rand(1, 3, 4, 4, generator=generator) - 1, size=(64, 64))
    small = torch.nn.functional.avg_pool2d(pixels, 2)[0].permute(1, 2, 0).numpy()
    seen = preview.apply(model.encode(pixels)[0][0], colour_map)
    assert correlation(seen, small) > 0.4, "of a VAE that was never trained"


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a.astype(float).ravel(), b.astype(float).ravel())[0, 1])


def test_half_precision_draws_about_the_same(tiny: Path, denoiser: Denoiser) -> None:
    checkpoint = identify(str(tiny), dtype="bfloat16", samplers=tuple(SCHEDULERS))
    half = Denoiser(lambda report: checkpoint.load(find_device("cpu"), report))
    half.load(lambda share: None)
    asked = job(steps=4, guidance_scale=2.0)
    [[picture]], [[precise]] = draw(half, asked), draw(denoiser, asked)
    assert psnr_db(picture, precise) > 20
