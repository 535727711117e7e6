"""Every variant of every family with a LoRA and, where it takes any, a ControlNet: the stock picture."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from shared_worker.device import find_device
from tests.models import families
from tests.models.controls.nets import Stock, control, write_controlnet
from tests.models.lora_files import ATTENTION, CONVOLUTIONS, TEXT, adapted, make_factors, write_diffusers
from tests.models.parity import ALONE_DB, IN_COMPANY_DB, PROMPTS, VARIANTS, Loaded
from tests.models.test_sd import one_thread
from tests.models.tiny import by_stock, half_mask, job, psnr_db, scene, write_tiny
from worker.engine import sampling
from worker.engine.denoiser import Denoiser
from worker.engine.runner import Pixels
from worker.jobs.params import JobParams, LoraParams, Task
from worker.models.registry import identify
from worker.models.schedulers import SCHEDULERS

__all__ = ["one_thread"]

PARTS = ("unet", "transformer", "text_encoder", "text_encoder_2")
MADE_FOR = {
    "sd inpainting": write_tiny,
    "sdxl inpainting": families.write_sdxl,
    "sdxl consistency": families.write_sdxl,
}
"""ControlNets know neither nine channels nor guidance as an input: theirs are those of the base."""
INK = (LoraParams("ink", 0.6),)


@dataclass(frozen=True)
class Adapted:
    """A variant with an adapter and a ControlNet, ours and the stock one."""

    ours: Loaded
    root: Path
    controlled: bool

    def job(self, number: int, **changes: Any) -> JobParams:
        """The model's first task, in its own sampler."""
        facts = self.ours.checkpoint.facts
        task = facts.tasks[0]
        painted = {"image": scene(), "mask": half_mask(), "strength": 1.0} if task is Task.INPAINTING else {}
        usual: dict[str, Any] = {
            "task": task,
            "sampler": facts.sampler,
            "guidance_scale": 3.0 if facts.guidance_scale > 1.0 else facts.guidance_scale,
            "seed": 100 + number,
            "prompt": PROMPTS[number],
        }
        return job(**usual | painted | changes)

    def expected(self, asked: JobParams) -> Pixels:
        """By the stock pipelines."""
        if asked.controls:
            return Stock(self.root / "model", self.root / "nets", self.root / "loras").draw(asked)
        pipeline = adapted(families.load_stock(self.root / "model", asked.task), self.root / "loras", asked)
        return by_stock(pipeline, asked, max_sequence_length=self.ours.checkpoint.family.text_length)


@pytest.fixture(scope="module", params=VARIANTS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Adapted:
    variant: str = request.param
    root = tmp_path_factory.mktemp("variant")
    folder = VARIANTS[variant].write(root / "model")
    stock = families.load_stock(folder, Task.INPAINTING)
    parts = {name: part for name in PARTS if (part := getattr(stock, name, None)) is not None}
    parts = {name: part for name, part in parts.items() if "T5" not in type(part).__name__}
    write_diffusers(root / "loras/ink.safetensors", make_factors(parts, 1, ATTENTION + CONVOLUTIONS + TEXT))
    checkpoint = identify(str(folder), dtype="float32", samplers=(*sampling.SAMPLERS, *SCHEDULERS))
    checkpoint = checkpoint.with_loras(root / "loras", 10**9)
    controlled = checkpoint.family.denoiser == "unet"
    if controlled:
        write = MADE_FOR.get(variant)
        write_controlnet(root / "nets/lines", folder if write is None else write(root / "base"))
        checkpoint = checkpoint.with_controls(root / "nets")
        assert [one.fits for one in checkpoint.facts.controls] == [True]
    assert [one.fits for one in checkpoint.facts.loras] == [True]
    denoiser = Denoiser(lambda report: checkpoint.load(find_device("cpu"), report))
    denoiser.load(lambda share: None)
    return Adapted(Loaded(folder, checkpoint, denoiser), root, controlled)


def test_a_lora_alone_and_beside_a_job_without(model: Adapted) -> None:
    jobs = [model.job(0, loras=INK), model.job(1)]
    together = model.ours.draw(*jobs, join_every=1)
    for asked, [drawn] in zip(jobs, together, strict=True):
        assert psnr_db(drawn, model.expected(asked)) >= IN_COMPANY_DB
    expected = model.expected(jobs[0])
    assert psnr_db(model.ours.draw(jobs[0])[0][0], expected) >= ALONE_DB
    assert psnr_db(model.expected(model.job(0)), expected) < 35, "the adapter shows"


def test_a_controlnet_alone_and_beside_one_with_a_lora(model: Adapted) -> None:
    if not model.controlled:
        assert model.ours.checkpoint.facts.controls == ()
        return
    lines = (control("lines", scale=2.0, end=0.9),)
    jobs = [model.job(0, controls=lines), model.job(1, controls=lines, loras=INK)]
    together = model.ours.draw(*jobs, join_every=1)
    for asked, [drawn] in zip(jobs, together, strict=True):
        expected = model.expected(asked)
        assert psnr_db(drawn, expected) >= IN_COMPANY_DB
        assert psnr_db(model.ours.draw(asked)[0][0], expected) >= ALONE_DB
    assert psnr_db(model.expected(model.job(0)), model.expected(jobs[0])) < 35, "the ControlNet shows"
