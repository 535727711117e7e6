"""Parity of the tasks that begin with a picture: what our step loop draws is what the stock pipelines draw."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as PillowImage

from shared_worker.device import find_device
from tests.models.test_sd import ALONE_DB, IN_COMPANY_DB, draw, one_thread
from tests.models.tiny import by_stock, half_mask, job, load_stock, picture, psnr_db, scene
from tests.schedulers import SCHEDULERS
from worker.engine.composing import compose
from worker.engine.denoiser import Denoiser
from worker.engine.pictures import read_mask, read_pixels
from worker.errors import InvalidInput
from worker.jobs.params import JobParams, Picture, Task
from worker.models.registry import identify

__all__ = ["one_thread"]


def from_image(**changes: object) -> JobParams:
    usual = {"task": Task.IMAGE_TO_IMAGE, "image": scene(), "strength": 0.7, "steps": 8}
    return job(**usual | changes)


def inpainting(**changes: object) -> JobParams:
    return from_image(**{"task": Task.INPAINTING, "mask": half_mask()} | changes)


def load(folder: Path) -> Denoiser:
    checkpoint = identify(str(folder), dtype="float32", samplers=tuple(SCHEDULERS))
    loaded = Denoiser(lambda report: checkpoint.load(find_device("cpu"), report))
    loaded.load(lambda share: None)
    return loaded


@pytest.fixture(scope="module")
def denoiser(tiny: Path) -> Denoiser:
    return load(tiny)


@pytest.fixture(scope="module")
def masking(tiny_inpainting: Path) -> Denoiser:
    return load(tiny_inpainting)


@pytest.fixture(scope="module")
def stock(tiny: Path, tiny_inpainting: Path) -> dict[str, Any]:
    return {
        "image": load_stock(tiny, Task.IMAGE_TO_IMAGE),
        "inpainting": load_stock(tiny, Task.INPAINTING),
        "masking": load_stock(tiny_inpainting, Task.INPAINTING),
    }


def test_pictures_differ_by_what_they_begin_with(stock: dict[str, Any]) -> None:
    """Else parity would prove nothing."""
    usual = by_stock(stock["image"], from_image())
    black = picture(PillowImage.new("RGB", (32, 32)))
    for other in (from_image(strength=0.3), from_image(image=black), from_image(seed=43)):
        assert psnr_db(usual, by_stock(stock["image"], other)) < 35
    usual = by_stock(stock["inpainting"], inpainting())
    white = picture(PillowImage.new("L", (32, 32), 255))
    for other in (inpainting(strength=0.3), inpainting(mask=white), inpainting(image=black)):
        assert psnr_db(usual, by_stock(stock["inpainting"], other)) < 35


@pytest.mark.parametrize("strength", [0.3, 0.7, 1.0])
@pytest.mark.parametrize("sampler", SCHEDULERS)
def test_image_to_image(stock: dict[str, Any], denoiser: Denoiser, sampler: str, strength: float) -> None:
    asked = from_image(sampler=sampler, strength=strength)
    [[drawn]] = draw(denoiser, asked)
    assert psnr_db(drawn, by_stock(stock["image"], asked)) >= ALONE_DB


@pytest.mark.parametrize("strength", [0.7, 1.0])
@pytest.mark.parametrize("sampler", SCHEDULERS)
def test_inpainting_by_blending(stock: dict[str, Any], denoiser: Denoiser, sampler: str, strength: float) -> None:
    asked = inpainting(sampler=sampler, strength=strength)
    [[drawn]] = draw(denoiser, asked)
    assert psnr_db(drawn, by_stock(stock["inpainting"], asked)) >= ALONE_DB


@pytest.mark.parametrize("strength", [0.7, 1.0])
@pytest.mark.parametrize("sampler", ["ddim", "dpmpp_2m", "euler_a", "heun"])
def test_inpainting_with_a_model_that_takes_the_mask(
    stock: dict[str, Any], masking: Denoiser, sampler: str, strength: float
) -> None:
    asked = inpainting(sampler=sampler, strength=strength)
    [[drawn]] = draw(masking, asked)
    assert psnr_db(drawn, by_stock(stock["masking"], asked)) >= ALONE_DB


def test_tasks_share_their_calls_and_stay_what_they_are(stock: dict[str, Any], denoiser: Denoiser) -> None:
    jobs = [
        from_image(sampler="euler", seed=1, num_images=2),
        from_image(sampler="dpmpp_2m", seed=2, strength=0.4, guidance_scale=1.0),
        inpainting(sampler="euler_a", seed=3),
        inpainting(sampler="heun", seed=4, strength=1.0),
    ]
    [*pictures, [plain]] = draw(denoiser, *jobs, job(seed=5), join_every=1)
    for asked, drawn in zip(jobs, pictures, strict=True):
        pipeline = stock["image" if asked.mask is None else "inpainting"]
        for index, one in enumerate(drawn):
            assert psnr_db(one, by_stock(pipeline, asked, index)) >= IN_COMPANY_DB, asked
    [[alone]] = draw(denoiser, job(seed=5))
    assert psnr_db(plain, alone) >= IN_COMPANY_DB


def test_no_step_is_too_few(denoiser: Denoiser) -> None:
    (drawing,) = denoiser.open(from_image(strength=0.01))
    assert drawing.steps == 1 == from_image(strength=0.01).steps_drawn


@pytest.mark.parametrize("size", [(32, 32), (37, 51), (30, 30)])
def test_a_picture_comes_back_in_its_own_size(denoiser: Denoiser, size: tuple[int, int]) -> None:
    width, height = size
    asked = inpainting(image=scene(width, height), mask=half_mask(width, height), width=width, height=height)
    [[drawn]] = draw(denoiser, asked)
    finished = compose(drawn, asked)
    assert finished.shape == (height, width, 3)
    original = np.asarray(PillowImage.open(io.BytesIO(asked.image.data)))
    left = width // 2
    assert np.array_equal(finished[:, :left], original[:, :left]), "outside the mask nothing changes"
    assert not np.array_equal(finished[:, left + 4 :], original[:, left + 4 :])


def test_what_cannot_be_decoded_is_told_without_a_word_of_the_decoder(denoiser: Denoiser) -> None:
    whole = scene()
    cut = Picture(32, 32, 90, whole.data[:90])
    with pytest.raises(InvalidInput, match=r"^The image cannot be decoded: the file is damaged or cut off$"):
        list(denoiser.open(from_image(image=cut)))
    with pytest.raises(InvalidInput, match="mask"):
        list(denoiser.open(inpainting(mask=cut)))


def test_transparency_and_rotation() -> None:
    clear = PillowImage.new("RGBA", (8, 8), (255, 0, 0, 0))
    assert (read_pixels(picture(clear), 8, 8) == 255).all(), "transparent is white"
    assert (read_mask(picture(clear), 8, 8) == 0).all(), "and no part of a mask"
    wide = PillowImage.new("RGB", (16, 8), (255, 0, 0))
    wide.paste((0, 0, 255), (8, 0, 16, 8))
    exif = PillowImage.Exif()
    exif[0x0112] = 6  # to be shown turned right by a quarter
    buffer = io.BytesIO()
    wide.save(buffer, "JPEG", exif=exif, quality=95)
    turned = read_pixels(Picture(8, 16, 1, buffer.getvalue()), 8, 16)
    assert turned[2, 4, 0] > 200 > 60 > turned[2, 4, 2], "red is at the top"
    assert turned[13, 4, 2] > 200 > 60 > turned[13, 4, 0], "blue at the bottom"
