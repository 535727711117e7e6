"""LoRA and ControlNet in one job: the stock picture with both, alone, and beside jobs that have one of them."""

from __future__ import annotations

from typing import Any

import pytest

from shared_worker.device import find_device
from tests.models import families
from tests.models.controls.nets import Stock, control, lines, write_controlnet
from tests.models.controls.test_parity import PICTURES, guided
from tests.models.lora_files import ATTENTION, CONVOLUTIONS, TEXT, make_factors, write_diffusers, write_kohya
from tests.models.parity import ALONE_DB, IN_COMPANY_DB, Loaded
from tests.models.test_sd import one_thread
from tests.models.tiny import psnr_db, write_tiny
from worker.engine import sampling
from worker.engine.denoiser import Denoiser
from worker.jobs.params import LoraParams, Task
from worker.models.registry import identify

__all__ = ["one_thread"]

WRITE = {"sd": write_tiny, "sdxl": families.write_sdxl}
INK, PAPER = LoraParams("ink", 0.6), LoraParams("paper", -0.4)


@pytest.fixture(scope="module", params=WRITE)
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Loaded, Stock]:
    """A model with two adapters and two ControlNets, ours and the stock one."""
    root = tmp_path_factory.mktemp(request.param)
    folder = WRITE[request.param](root / "model")
    stock = families.load_stock(folder)
    names = ("unet", "text_encoder", "text_encoder_2")
    parts = {name: part for name in names if (part := getattr(stock, name, None)) is not None}
    write_diffusers(root / "loras/ink.safetensors", make_factors(parts, 1, ATTENTION + TEXT))
    unet = {"unet": stock.unet}
    write_kohya(root / "loras/paper.safetensors", make_factors(unet, 2, ATTENTION + CONVOLUTIONS), alpha=2.0)
    for seed, name in enumerate(("one", "two")):
        write_controlnet(root / "nets" / name, folder, seed)
    checkpoint = identify(str(folder), dtype="float32", samplers=tuple(sampling.SAMPLERS))
    checkpoint = checkpoint.with_loras(root / "loras", 10**9).with_controls(root / "nets")
    denoiser = Denoiser(lambda report: checkpoint.load(find_device("cpu"), report))
    denoiser.load(lambda share: None)
    return Loaded(folder, checkpoint, denoiser), Stock(folder, root / "nets", root / "loras")


@pytest.mark.parametrize("task", PICTURES)
def test_alone(both: tuple[Loaded, Stock], task: Task) -> None:
    ours, stock = both
    asked = guided(control("one", scale=0.8, end=0.7), control("two", start=0.3), task=task, loras=(INK, PAPER))
    expected = stock.draw(asked)
    [[drawn]] = ours.draw(asked)
    assert psnr_db(drawn, expected) >= ALONE_DB
    for changes in ({"loras": (INK,)}, {"loras": ()}, {"controls": asked.controls[:1]}):
        other: Any = {"controls": asked.controls, "loras": asked.loras} | changes
        assert psnr_db(stock.draw(guided(*other["controls"], task=task, loras=other["loras"])), expected) < 35


def test_in_company(both: tuple[Loaded, Stock]) -> None:
    ours, stock = both
    jobs = [
        guided(control("one"), seed=1, loras=(INK,), num_images=2),
        guided(control("one", image=lines(every=5), scale=0.4), seed=2, steps=5, guidance_scale=1.0),
        guided(control("one", start=0.3), seed=3, steps=10, sampler="euler_a", loras=(PAPER, INK)),
        guided(control("one"), seed=4, task=Task.INPAINTING, loras=(PAPER,)),
    ]
    for asked, pictures in zip(jobs, ours.draw(*jobs, join_every=2), strict=True):
        for index, drawn in enumerate(pictures):
            assert psnr_db(drawn, stock.draw(asked, index)) >= IN_COMPANY_DB, asked
