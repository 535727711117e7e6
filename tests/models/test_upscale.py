"""Upscaling: a tile alone is the stock pipeline's picture of the enlarged input, and several leave no seam."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from shared_worker.device import find_device
from tests.models.test_sd import ALONE_DB, IN_COMPANY_DB, draw, one_thread
from tests.models.tiny import SIDE_PX, by_stock, job, load_stock, picture, pil, psnr_db, scene
from tests.schedulers import SCHEDULERS
from worker.engine.assembling import assemble
from worker.engine.denoiser import Denoiser
from worker.engine.runner import Pixels
from worker.jobs.params import JobParams, Task, UpscaleParams
from worker.jobs.tiling import cut
from worker.models.base import Model
from worker.models.registry import identify

__all__ = ["one_thread"]


def upscaling(side: int, factor: int = 2, **changes: object) -> JobParams:
    """A square of `side` pixels made `factor` times as large."""
    upscale = UpscaleParams(factor, "latent", len(cut(side * factor, side * factor, SIDE_PX, SIDE_PX, 4)))
    usual = {
        "task": Task.UPSCALE,
        "image": scene(side, side),
        "width": side * factor,
        "height": side * factor,
        "strength": 0.35,
        "steps": 8,
        "upscale": upscale,
    }
    return job(**usual | changes)


def enlarged(asked: JobParams) -> JobParams:
    """The same as image-to-image on a picture that was resized before."""
    larger = pil(asked.image).convert("RGB").resize((asked.width, asked.height), 1)  # Lanczos
    return replace(asked, task=Task.IMAGE_TO_IMAGE, upscale=None, image=picture(larger))


@pytest.fixture(scope="module")
def stock(tiny: Path) -> Any:
    return load_stock(tiny, Task.IMAGE_TO_IMAGE)


@pytest.fixture(scope="module")
def model(tiny: Path) -> Model:
    return identify(str(tiny), dtype="float32", samplers=tuple(SCHEDULERS)).load(find_device("cpu"), lambda share: None)


@pytest.fixture(scope="module")
def denoiser(model: Model) -> Denoiser:
    loaded = Denoiser(lambda report: model)
    loaded.load(lambda share: None)
    return loaded


def whole(denoiser: Denoiser, asked: JobParams) -> Pixels:
    """The first image of a job, from its tiles."""
    drawings = list(denoiser.open(asked))
    while waiting := [one for one in drawings if not one.done]:
        denoiser.step(waiting[:5])
    return assemble([(one.tile, denoiser.finish(one)) for one in drawings if one.index == 0])


@pytest.mark.parametrize("sampler", SCHEDULERS)
def test_a_tile_alone_is_the_stock_pipelines_picture(stock: Any, denoiser: Denoiser, sampler: str) -> None:
    asked = upscaling(SIDE_PX // 2, sampler=sampler)
    [[drawn]] = draw(denoiser, asked)
    assert psnr_db(drawn, by_stock(stock, enlarged(asked))) >= ALONE_DB


def test_tiles_share_calls_with_pictures_of_their_size(stock: Any, denoiser: Denoiser) -> None:
    asked, beside = upscaling(SIDE_PX, num_images=2, steps=6), job(seed=3)
    tiles, [picture_beside] = draw(denoiser, asked, beside, join_every=1)
    [[alone]] = draw(denoiser, beside)
    assert len(tiles) == 2 * asked.upscale.tiles > 8
    assert psnr_db(picture_beside, alone) >= IN_COMPANY_DB


def test_the_seed_decides_every_tile_whatever_steps_first(denoiser: Denoiser) -> None:
    asked = upscaling(SIDE_PX, sampler="euler_a")
    drawings = list(denoiser.open(asked))
    for one in reversed(drawings):
        while not one.done:
            denoiser.step([one])
    backwards = assemble([(one.tile, denoiser.finish(one)) for one in drawings])
    assert psnr_db(backwards, whole(denoiser, asked)) >= IN_COMPANY_DB
    assert psnr_db(backwards, whole(denoiser, replace(asked, seed=7))) < 35


def test_a_tile_is_encoded_when_its_drawing_is_asked_for_and_once_for_all_images(
    denoiser: Denoiser, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[torch.Size] = []
    encode = model.encode
    monkeypatch.setattr(model, "encode", lambda pixels: encoded.append(pixels.shape) or encode(pixels))
    asked = upscaling(SIDE_PX, num_images=2)
    seen = [len(encoded) for _ in denoiser.open(asked)]
    tiles = asked.upscale.tiles
    assert seen == [*range(1, tiles + 1), *[tiles] * tiles]
    assert set(encoded) == {(1, 3, SIDE_PX, SIDE_PX)}


def test_neighbours_begin_alike_where_they_overlap(denoiser: Denoiser) -> None:
    """Their noise is one picture's. (At the edge itself the encoder does not see beyond it.)"""
    left, right, *_ = denoiser.open(upscaling(SIDE_PX, strength=1.0))
    assert left.tile is not None
    assert right.tile is not None
    shared = (left.tile.width - right.tile.left) // 2
    apart = (left.latent[..., -shared:] - right.latent[..., :shared]).abs().mean()
    assert apart < 0.1 * left.latent[..., -shared:].abs().mean()
    assert torch.equal(left.latent[..., -shared:].isfinite(), right.latent[..., :shared].isfinite())


@pytest.mark.parametrize("factor", [2, 4])
def test_an_upscaled_picture_has_the_size_that_was_promised(denoiser: Denoiser, factor: int) -> None:
    asked = upscaling(SIDE_PX, factor, steps=3, sampler="ddim")
    assert whole(denoiser, asked).shape == (SIDE_PX * factor, SIDE_PX * factor, 3)


def test_seams_are_no_rougher_than_the_picture(denoiser: Denoiser) -> None:
    asked = upscaling(SIDE_PX, strength=0.3)
    drawn = whole(denoiser, asked).astype(float)
    steps = np.abs(np.diff(drawn, axis=1)).mean(axis=(0, 2))
    edges = sorted({t.left for t in cut(64, 64, 32, 32, 4)} | {t.left + t.width for t in cut(64, 64, 32, 32, 4)})[1:-1]
    assert steps[[edge - 1 for edge in edges]].mean() < 1.2 * np.median(steps)
