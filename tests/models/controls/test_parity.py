"""Parity with ControlNets: what our step loop draws is what the stock pipelines draw, alone and in company."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shared_worker.device import find_device
from tests.models.controls.nets import Stock, control, lines, write_controlnet
from tests.models.families import write_sdxl
from tests.models.parity import ALONE_DB, IN_COMPANY_DB, Loaded
from tests.models.test_sd import one_thread
from tests.models.tiny import by_stock, half_mask, job, load_stock, psnr_db, scene
from worker.engine import sampling
from worker.engine.denoiser import Denoiser
from worker.jobs.params import ControlParams, JobParams, Task
from worker.models.registry import identify
from worker.models.schedulers import SCHEDULERS

__all__ = ["one_thread"]

PICTURES: dict[Task, dict[str, Any]] = {
    Task.TEXT_TO_IMAGE: {},
    Task.IMAGE_TO_IMAGE: {"image": scene(), "strength": 0.7},
    Task.INPAINTING: {"image": scene(), "mask": half_mask(), "strength": 0.7},
}


@dataclass(frozen=True)
class Guided:
    """A tiny model with the ControlNets `one` and `two`, ours and the stock one."""

    ours: Loaded
    stock: Stock

    @classmethod
    def of(cls, folder: Path, nets: Path, made_for: Path | None = None) -> Guided:
        for seed, name in enumerate(("one", "two")):
            write_controlnet(nets / name, made_for or folder, seed)
        return cls(load(folder, nets), Stock(folder, nets))


def load(folder: Path, nets: Path, dtype: str = "float32") -> Loaded:
    names = (*sampling.SAMPLERS, *SCHEDULERS)
    checkpoint = identify(str(folder), dtype=dtype, samplers=names).with_controls(nets)
    denoiser = Denoiser(lambda report: checkpoint.load(find_device("cpu"), report))
    denoiser.load(lambda share: None)
    return Loaded(folder, checkpoint, denoiser)


@pytest.fixture(scope="module")
def sd(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Guided:
    return Guided.of(tiny, tmp_path_factory.mktemp("nets"))


@pytest.fixture(scope="module")
def masking(tiny: Path, tiny_inpainting: Path, tmp_path_factory: pytest.TempPathFactory) -> Guided:
    return Guided.of(tiny_inpainting, tmp_path_factory.mktemp("nets"), tiny)


@pytest.fixture(scope="module")
def sdxl(tmp_path_factory: pytest.TempPathFactory) -> Guided:
    return Guided.of(write_sdxl(tmp_path_factory.mktemp("sdxl") / "tiny"), tmp_path_factory.mktemp("nets"))


def guided(*controls: ControlParams, task: Task = Task.TEXT_TO_IMAGE, **changes: Any) -> JobParams:
    return job(**{"task": task, "controls": controls, "steps": 8} | PICTURES[task] | changes)


def test_pictures_differ_by_what_guides_them(sd: Guided) -> None:
    """Else parity would prove nothing."""
    usual = sd.stock.draw(guided(control("one")))
    assert usual.std() > 40
    for other in (
        guided(control("two")),
        guided(control("one", scale=0.5)),
        guided(control("one", start=0.5)),
        guided(control("one", end=0.5)),
        guided(control("one", image=lines(every=5))),
        guided(control("one"), control("two")),
    ):
        assert psnr_db(usual, sd.stock.draw(other)) < 35
    assert psnr_db(usual, by_stock(load_stock(sd.ours.folder), job(steps=8))) < 35


@pytest.mark.parametrize("task", PICTURES)
@pytest.mark.parametrize(
    ("family", "sampler"), [("sd", "euler"), ("sd", "dpmpp_2m"), ("sd", "heun"), ("sdxl", "euler_a")]
)
def test_alone(request: pytest.FixtureRequest, family: str, sampler: str, task: Task) -> None:
    model: Guided = request.getfixturevalue(family)
    asked = guided(control("one", scale=0.8, start=0.2, end=0.7), task=task, sampler=sampler)
    [[drawn]] = model.ours.draw(asked)
    assert psnr_db(drawn, model.stock.draw(asked)) >= ALONE_DB


@pytest.mark.parametrize("task", PICTURES)
@pytest.mark.parametrize("family", ["sd", "sdxl"])
def test_several_are_added_up(request: pytest.FixtureRequest, family: str, task: Task) -> None:
    model: Guided = request.getfixturevalue(family)
    asked = guided(
        *(control("two", scale=0.7), control("one", image=lines(every=5), end=0.5), control("two", scale=0.4)),
        task=task,
        negative_prompt="green",
    )
    [[drawn]] = model.ours.draw(asked)
    assert psnr_db(drawn, model.stock.draw(asked)) >= ALONE_DB


def test_a_model_that_takes_the_mask(masking: Guided) -> None:
    asked = guided(control("one"), task=Task.INPAINTING)
    [[drawn]] = masking.ours.draw(asked)
    assert psnr_db(drawn, masking.stock.draw(asked)) >= ALONE_DB


def test_other_sizes_of_picture_and_control(sd: Guided) -> None:
    asked = guided(control("one", image=lines(70, 50)), width=48, height=24, guidance_scale=1.0)
    [[drawn]] = sd.ours.draw(asked)
    assert psnr_db(drawn, sd.stock.draw(asked)) >= ALONE_DB


@pytest.mark.parametrize("family", ["sd", "sdxl"])
def test_jobs_with_the_same_nets_share_calls_and_stay_what_they_are(
    request: pytest.FixtureRequest, family: str
) -> None:
    model: Guided = request.getfixturevalue(family)
    jobs = [
        guided(control("one"), seed=1, num_images=2),
        guided(control("one", image=lines(every=5), scale=0.4), seed=2, steps=5, sampler="heun", guidance_scale=1.0),
        guided(control("one", start=0.3, end=0.6), seed=3, steps=10, sampler="euler_a", negative_prompt="green"),
        guided(control("one", scale=2.0, end=0.01), seed=4, task=Task.IMAGE_TO_IMAGE),
        guided(control("one"), seed=5, task=Task.INPAINTING, sampler="dpmpp_2m"),
    ]
    for asked, pictures in zip(jobs, model.ours.draw(*jobs, join_every=2), strict=True):
        for index, drawn in enumerate(pictures):
            assert psnr_db(drawn, model.stock.draw(asked, index)) >= IN_COMPANY_DB, asked


def test_in_exact_numerics_company_changes_no_byte(sd: Guided) -> None:
    checkpoint = sd.ours.checkpoint
    exact = Denoiser(lambda report: checkpoint.load(find_device("cpu"), report), fixed_rows=6)
    exact.load(lambda share: None)
    ours = Loaded(sd.ours.folder, checkpoint, exact)
    jobs = [guided(control("one", start=0.5), seed=1), guided(control("one", end=0.5, scale=0.7), seed=2, steps=6)]
    together = ours.draw(*jobs, join_every=1)
    for asked, [drawn] in zip(jobs, together, strict=True):
        [[alone]] = ours.draw(asked)
        assert np.array_equal(drawn, alone)


def test_jobs_with_two_nets_share_calls_whatever_their_order(sd: Guided) -> None:
    jobs = [
        guided(control("one"), control("two", scale=0.5), seed=1),
        guided(control("two", start=0.5), control("one", end=0.4), seed=2, steps=5),
    ]
    for asked, [drawn] in zip(jobs, sd.ours.draw(*jobs, join_every=1), strict=True):
        assert psnr_db(drawn, sd.stock.draw(asked)) >= IN_COMPANY_DB, asked


def test_jobs_with_other_nets_take_turns_and_one_without_is_untouched(sd: Guided, tiny: Path) -> None:
    denoiser = sd.ours.denoiser
    jobs = [guided(control("one")), guided(control("one"), control("two")), job(steps=8, num_images=2)]
    opened = [list(denoiser.open(asked)) for asked in jobs]
    assert len({drawings[0].key for drawings in opened}) == 3
    while not all(drawings[0].done for drawings in opened):
        for drawings in opened:
            denoiser.step(drawings)
    [[one], [both], plain] = [[denoiser.finish(drawing) for drawing in drawings] for drawings in opened]
    assert psnr_db(one, sd.stock.draw(jobs[0])) >= ALONE_DB
    assert psnr_db(both, sd.stock.draw(jobs[1])) >= ALONE_DB
    [by_itself] = Loaded.of(tiny).draw(jobs[2])
    assert all(np.array_equal(*pair) for pair in zip(plain, by_itself, strict=True)), "to the last bit"
