"""Every family, and all that is loaded beside one, on a device that is not the CPU: nothing is left behind."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from shared_worker.device import Device, find_device
from tests.models import families
from tests.models.controls.nets import control, write_controlnet
from tests.models.controls.test_parity import guided
from tests.models.lora_files import ATTENTION, CONVOLUTIONS, TEXT, make_factors, write_diffusers, write_kohya
from tests.models.safety import ALWAYS, write_safety_checker
from tests.models.test_sd import one_thread
from tests.models.test_tasks import from_image, inpainting
from tests.models.tiny import job, psnr_db, scene, write_tiny
from tests.models.upscalers import files
from tests.pretended import PRETENDED, OnDevice, pretended_device
from worker.engine import sampling
from worker.engine.denoiser import Denoiser
from worker.engine.enlarging import Enlarger
from worker.engine.runner import Pixels
from worker.jobs.facts import Guidance
from worker.jobs.params import JobParams, LoraParams, Preprocessor, Task, UpscaleParams
from worker.models.checkpoint import Checkpoint
from worker.models.registry import identify
from worker.models.safety_folder import SafetyFolder
from worker.models.schedulers import SCHEDULERS

__all__ = ["one_thread"]

CPU = find_device("cpu")
SAME_DB = 45
HALF_DB = 15
"""Toys that were never trained make much of what bfloat16 rounds, by the stock pipelines too."""
SAMPLERS = tuple(sorted([*sampling.SAMPLERS, *SCHEDULERS]))
KINDS = ("dpmpp_2m", "euler_a", "heun", "unipc", "dpmpp_2m_sde", "lcm", "pndm")
"""Of every way to compute a step, one."""
WRITE: dict[str, Callable[[Path], Path]] = {
    "sd": write_tiny,
    "sd, inpainting": lambda folder: write_tiny(folder, takes_mask=True),
    "sdxl": families.write_sdxl,
    "sdxl, consistency": lambda folder: families.write_sdxl(
        folder, scheduler=families.CONSISTENCY_SCHEDULER, unet={"time_cond_proj_dim": 16}
    ),
    "sd3": families.write_sd3,
    "flux": families.write_flux,
}


@dataclass(frozen=True)
class Placed:
    """A model's folder, jobs of every task that it has, and what they are on the CPU."""

    folder: Path
    jobs: list[JobParams]
    expected: list[Pixels]


def drawn(checkpoint: Checkpoint, device: Device, jobs: list[JobParams], **numerics: Any) -> list[Pixels]:
    """All of them as far as they can in the same calls, each with previews on its way."""
    with pretended_device() if device is PRETENDED else nullcontext():
        denoiser = Denoiser(lambda report: checkpoint.load(device, report), **numerics)
        denoiser.load(lambda share: None)
        denoiser.time_call(2)
        drawings = [drawing for asked in jobs for drawing in denoiser.open(asked)]
        while waiting := [drawing for drawing in drawings if not drawing.done]:
            batch = [drawing for drawing in waiting if drawing.key == waiting[0].key]
            denoiser.step(batch)
            denoiser.preview(batch[0])
        return [denoiser.finish(drawing) for drawing in drawings]


def jobs_of(checkpoint: Checkpoint) -> list[JobParams]:
    """One of every kind of sampler, and of every task: with guidance, without, and with a long prompt."""
    facts = checkpoint.facts
    samplers = itertools.cycle([name for name in KINDS if name in facts.samplers] or facts.samplers)
    scale = facts.guidance_scale if facts.guidance is Guidance.NONE else 5.0

    def given(**changes: Any) -> dict[str, Any]:
        return {"sampler": next(samplers), "guidance_scale": scale, "steps": 3, **changes}

    made: list[JobParams] = []
    if Task.TEXT_TO_IMAGE in facts.tasks:
        long = "a long prompt, of more than one chunk, " * 20
        made += [job(**given()), job(**given(prompt=long)), job(**given(guidance_scale=min(scale, 1.0)))]
        made += [from_image(**given()), from_image(**given(seed=3))]
    return [*made, inpainting(**given()), inpainting(**given(strength=1.0))]


def assert_same(checkpoint: Checkpoint, jobs: list[JobParams], **numerics: Any) -> None:
    """What is drawn on the device is what is drawn on the CPU."""
    pictures = (drawn(checkpoint, device, jobs, **numerics) for device in (PRETENDED, CPU))
    for there, here in zip(*pictures, strict=True):
        assert psnr_db(there, here) >= SAME_DB


@torch.inference_mode()
def test_the_device_refuses_what_cuda_would() -> None:
    with pretended_device() as device:
        there, here = torch.ones(3, device=device.torch_name), torch.ones(3)
        layer = torch.nn.Linear(3, 3).to(device.torch_name)
        for mixed in (
            lambda: there + here,
            lambda: torch.cat([there, here]),
            lambda: layer(here),
            lambda: here[there.long()],
            lambda: there.__setitem__(slice(0, 3), here),
            lambda: torch.randn(3, generator=torch.Generator(), device=device.torch_name),
        ):
            with pytest.raises(RuntimeError, match="expected"):
                mixed()
        assert (there + 1).device == layer.weight.device == torch.device(device.torch_name)
        assert (there + here.to(device.torch_name)).sum().item() == 6.0
        assert there[torch.tensor([0, 2])].cpu().tolist() == [1.0, 1.0]
        assert isinstance(there, OnDevice)
        assert not isinstance(there.cpu(), OnDevice)


@pytest.fixture(scope="module", params=WRITE)
def placed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Placed:
    folder = WRITE[request.param](tmp_path_factory.mktemp("placed") / "model")
    checkpoint = identify(str(folder), dtype="float32", samplers=SAMPLERS)
    jobs = jobs_of(checkpoint)
    return Placed(folder, jobs, drawn(checkpoint, CPU, jobs))


@pytest.mark.parametrize(("dtype", "least_db"), [("float32", SAME_DB), ("bfloat16", HALF_DB)])
def test_a_family_draws_there_what_it_draws_on_the_cpu(placed: Placed, dtype: str, least_db: float) -> None:
    checkpoint = identify(str(placed.folder), dtype=dtype, samplers=SAMPLERS)
    pictures = drawn(checkpoint, PRETENDED, placed.jobs)
    for asked, there, here in zip(placed.jobs, pictures, placed.expected, strict=True):
        assert psnr_db(there, here) >= least_db, asked


def test_a_step_is_over_when_the_device_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call comes back from CUDA before it is made; what is told then, and timed, would not have happened yet."""
    checkpoint = identify(str(write_tiny(tmp_path / "model")), dtype="float32", samplers=SAMPLERS)
    happened: list[str] = []
    with pretended_device() as device:
        monkeypatch.setattr(torch.cuda, "synchronize", lambda device: happened.append("waited"))
        denoiser = Denoiser(lambda report: checkpoint.load(device, report))
        denoiser.load(lambda share: None)
        model = denoiser._model
        called = model.predict
        monkeypatch.setattr(model, "predict", lambda *inputs: happened.append("called") or called(*inputs))
        for guidance_scale in (5.0, 1.0):
            drawings = list(denoiser.open(job(guidance_scale=guidance_scale, num_images=2)))
            assert happened == ["waited", "waited"]
            denoiser.step(drawings)
            assert happened[2:] == ["called", "waited"]
            happened.clear()


@pytest.mark.parametrize("family", ["sdxl, consistency", "flux"])
def test_float16(tmp_path: Path, family: str) -> None:
    """Without inpainting, where the toys' latents are beyond it."""
    folder = str(WRITE[family](tmp_path / "model"))
    whole, half = (identify(folder, dtype=dtype, samplers=SAMPLERS) for dtype in ("float32", "float16"))
    jobs = [asked for asked in jobs_of(whole) if asked.mask is None][::2]
    for there, here in zip(drawn(half, PRETENDED, jobs), drawn(whole, CPU, jobs), strict=True):
        assert psnr_db(there, here) >= HALF_DB


@pytest.fixture(scope="module")
def adapted(tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Path:
    """A model with two adapters and two ControlNets."""
    root = tmp_path_factory.mktemp("adapted")
    stock = families.load_stock(write_tiny(root / "model"))
    parts = {"unet": stock.unet, "text_encoder": stock.text_encoder}
    write_diffusers(root / "loras/ink.safetensors", make_factors(parts, 1, ATTENTION + TEXT))
    write_kohya(root / "loras/paper.safetensors", make_factors({"unet": stock.unet}, 2, ATTENTION + CONVOLUTIONS))
    for seed, name in enumerate(("one", "two")):
        write_controlnet(root / "nets" / name, root / "model", seed)
    return root


@pytest.mark.parametrize("kept", [{}, {"weights_dtype": "float8_e4m3fn"}, {"offload": "model"}], ids=str)
def test_what_is_loaded_beside_a_model(adapted: Path, kept: dict[str, str]) -> None:
    room: dict[str, Any] = {"free_bytes": 1 << 40, "cpu_bytes": 1 << 40} if "offload" in kept else {}
    checkpoint = identify(str(adapted / "model"), dtype="float32", samplers=SAMPLERS, **kept, **room)
    checkpoint = checkpoint.with_loras(adapted / "loras", 10**9).with_controls(adapted / "nets")
    ink, paper = LoraParams("ink", 0.6), LoraParams("paper", -0.4)
    first, second = control("one", scale=0.8, end=0.7), control("two", start=0.3, preprocessor=Preprocessor.CANNY)
    jobs = [
        guided(first, second, loras=(ink, paper), steps=3),
        guided(first, seed=2, loras=(paper,), task=Task.INPAINTING, steps=3),
        guided(seed=4, loras=(ink,), steps=3),
    ]
    assert_same(checkpoint, jobs)


def test_exact_numerics(adapted: Path) -> None:
    checkpoint = identify(str(adapted / "model"), dtype="float32", samplers=SAMPLERS)
    assert_same(checkpoint, jobs_of(checkpoint)[:3], fixed_rows=8)


def test_an_upscaler(tmp_path: Path) -> None:
    files.write(tmp_path / "dense.safetensors", files.dense(3), files.numbered)
    checkpoint = identify("builtin", dtype="float32", samplers=SAMPLERS).with_upscalers(tmp_path)
    asked = from_image(task=Task.UPSCALE, image=scene(48, 40), upscale=UpscaleParams(4, "dense", tiles=1))
    pictures: list[Pixels] = []
    for device in (PRETENDED, CPU):
        with pretended_device() if device is PRETENDED else nullcontext():
            enlarger = Enlarger(lambda name, to=device: checkpoint.load_upscaler(name, to))  # type: ignore[misc]
            [drawing] = enlarger.open(asked)
            while not drawing.done:
                enlarger.step([drawing])
            pictures.append(enlarger.finish(drawing))
    assert psnr_db(*pictures) >= SAME_DB


@torch.inference_mode()
def test_a_safety_checker(tmp_path: Path) -> None:
    checker = SafetyFolder.at(write_safety_checker(tmp_path / "checker", ALWAYS))
    with pretended_device() as device:
        assert checker.load(device)(np.zeros((32, 32, 3), np.uint8))
