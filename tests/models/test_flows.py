"""What Stable Diffusion 3 and FLUX have that the others have not, against the stock pipelines."""

from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import FluxPipeline

from shared_worker.device import find_device
from tests.models import families
from tests.models.parity import ALONE_DB, IN_COMPANY_DB, Loaded
from tests.models.test_sd import one_thread
from tests.models.tiny import half_mask, job, psnr_db, scene
from worker.engine.denoiser import Denoiser
from worker.errors import ModelUnusable
from worker.jobs.estimates import load_of
from worker.jobs.facts import Guidance
from worker.jobs.params import JobParams, Task
from worker.models.flux import pack, positions, unpack
from worker.models.prompts.t5 import NO_WEIGHTS
from worker.models.registry import DEFAULTS_FILE, identify

__all__ = ["one_thread"]

LONG = "a large red circle on the left, " * 12
LONG_CHUNKS = ("a large red circle on the left, " * 9, "a large red circle on the left, " * 3)


def flow(**changes: object) -> JobParams:
    return job(**{"sampler": "flow_euler"} | changes)


@pytest.fixture(scope="module")
def sd3(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    return Loaded.of(families.write_sd3(tmp_path_factory.mktemp("sd3") / "tiny"))


@pytest.fixture(scope="module")
def dev(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    return Loaded.of(families.write_flux(tmp_path_factory.mktemp("flux") / "tiny"))


# Stable Diffusion 3


@pytest.mark.parametrize("size", [(32, 32), (48, 20)])
@pytest.mark.parametrize("guidance_scale", [1.0, 5.0])
def test_sd3_alone(sd3: Loaded, size: tuple[int, int], guidance_scale: float) -> None:
    asked = flow(width=size[0], height=size[1], guidance_scale=guidance_scale, negative_prompt="green, blurry")
    [[drawn]] = sd3.draw(asked)
    assert psnr_db(drawn, sd3.stock(Task.TEXT_TO_IMAGE)(asked)) >= ALONE_DB


def test_sd3_with_a_shift_that_grows(tmp_path: Path) -> None:
    own = Loaded.of(families.write_sd3(tmp_path / "tiny", newer=True, **families.GROWING_SCHEDULER))
    for width in (32, 48):
        asked = flow(width=width)
        [[drawn]] = own.draw(asked)
        assert psnr_db(drawn, own.stock(Task.TEXT_TO_IMAGE)(asked)) >= ALONE_DB


def test_sd3_in_company(sd3: Loaded) -> None:
    jobs = [
        flow(prompt="a red circle", seed=1, num_images=2),
        flow(prompt="a star", seed=2, steps=9, guidance_scale=2.5, negative_prompt="blue"),
        flow(prompt="", seed=3, steps=4, guidance_scale=1.0),
        flow(prompt="the ring on the left", seed=4, task=Task.IMAGE_TO_IMAGE, image=scene(), strength=0.5),
        flow(seed=5, task=Task.INPAINTING, image=scene(), mask=half_mask(), strength=0.5),
    ]
    for asked, pictures in zip(jobs, sd3.draw(*jobs, join_every=2), strict=True):
        stock = sd3.stock(asked.task)
        for index, picture in enumerate(pictures):
            assert psnr_db(picture, stock(asked, index)) >= IN_COMPANY_DB, asked


def test_sd3s_long_prompt_is_its_chunks_before_t5s_tokens(sd3: Loaded) -> None:
    pipeline = families.load_stock(sd3.folder)
    encoded = [pipeline.encode_prompt(one, None, None, torch.device("cpu")) for one in LONG_CHUNKS]
    ours = sd3.denoiser._model.encode_prompt(LONG)
    width = ours.tensors["clip"].shape[-1]
    expected = torch.cat([one[0][:, :77, :width] for one in encoded], dim=1)
    assert torch.allclose(ours.tensors["clip"], expected, atol=1e-5)
    assert torch.allclose(ours.tensors["pooled_projections"], encoded[0][2], atol=1e-5)
    assert torch.allclose(ours.tensors["t5"], pipeline._get_t5_prompt_embeds(LONG), atol=1e-5)
    [[drawn]] = sd3.draw(flow(prompt=LONG, negative_prompt="green"))
    assert drawn.std() > 20


def test_what_t5_cannot_take_is_told(sd3: Loaded) -> None:
    model = sd3.denoiser._model
    assert model.encode_prompt("a (red:1.3) circle").warnings == (NO_WEIGHTS,)
    [told] = model.encode_prompt("red " * 300).warnings
    assert told.startswith("300 tokens are more than the text encoder takes; the last 45")


def test_without_a_t5_its_tokens_are_nought(tmp_path: Path) -> None:
    own = Loaded.of(families.write_sd3(tmp_path / "tiny", with_t5=False))
    conditioning = own.denoiser._model.encode_prompt("a (red:1.3) circle")
    assert conditioning.tensors["t5"].shape == (1, 256, 80)
    assert not conditioning.tensors["t5"].any()
    assert conditioning.warnings == (), "its CLIPs know weights"


# Both


@pytest.mark.parametrize("asked", [(7, 0.6), (5, 0.5), (6, 0.05)], ids=["7 x 0.6", "5 x 0.5", "less than a step"])
@pytest.mark.parametrize("task", [Task.IMAGE_TO_IMAGE, Task.INPAINTING])
@pytest.mark.parametrize("family", ["sd3", "flux"])
def test_steps_that_strength_does_not_give_whole(
    sd3: Loaded, dev: Loaded, family: str, task: Task, asked: tuple[int, float]
) -> None:
    loaded = {"sd3": sd3, "flux": dev}[family]
    (steps, strength), mask = asked, half_mask() if task is Task.INPAINTING else None
    wanted = flow(task=task, image=scene(), mask=mask, steps=steps, strength=strength, guidance_scale=3.0)
    [[drawn]] = loaded.draw(wanted)
    assert psnr_db(drawn, loaded.stock(task)(wanted)) >= ALONE_DB


# FLUX


@pytest.mark.parametrize("size", [(32, 32), (48, 20), (64, 64)])
def test_flux_alone(dev: Loaded, size: tuple[int, int]) -> None:
    asked = flow(width=size[0], height=size[1], guidance_scale=3.5)
    [[drawn]] = dev.draw(asked)
    assert psnr_db(drawn, dev.stock(Task.TEXT_TO_IMAGE)(asked)) >= ALONE_DB


def test_flux_in_company_with_a_guidance_for_each_row(dev: Loaded) -> None:
    jobs = [
        flow(prompt="a red circle", seed=1, num_images=2, guidance_scale=3.5),
        flow(prompt="a star", seed=2, steps=9, guidance_scale=1.0),
        flow(prompt="", seed=3, steps=4, guidance_scale=7.0),
        flow(seed=4, guidance_scale=0.0, task=Task.IMAGE_TO_IMAGE, image=scene(), strength=0.5),
        flow(seed=5, guidance_scale=3.0, task=Task.INPAINTING, image=scene(), mask=half_mask(), strength=0.5),
    ]
    assert all(drawing.rows == 1 for drawing in dev.denoiser.open(jobs[0]))
    for asked, pictures in zip(jobs, dev.draw(*jobs, join_every=2), strict=True):
        stock = dev.stock(asked.task)
        for index, picture in enumerate(pictures):
            assert psnr_db(picture, stock(asked, index)) >= IN_COMPANY_DB, asked


def test_flux_without_its_t5_is_refused(tmp_path: Path) -> None:
    folder = families.write_flux(tmp_path / "tiny")
    index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    index |= {"text_encoder_2": [None, None], "tokenizer_2": [None, None]}
    (folder / "model_index.json").write_text(json.dumps(index), encoding="utf-8")
    shutil.rmtree(folder / "text_encoder_2")
    with pytest.raises(ModelUnusable) as refused:
        identify(str(folder), dtype="float32", samplers=("flow_euler",))
    assert refused.value.detail == "no diffusers model folder: text_encoder_2/config.json is not there"


def test_the_lengths_of_text(dev: Loaded, tmp_path: Path) -> None:
    schnell = Loaded.of(families.write_flux(tmp_path / "tiny", dev=False))
    for loaded, length in ((dev, 512), (schnell, 256)):
        assert loaded.denoiser._model.encode_prompt("a star").tensors["encoder_hidden_states"].shape[1] == length


def test_schnell_knows_no_guidance(tmp_path: Path) -> None:
    folder = families.write_flux(tmp_path / "tiny", dev=False)
    schnell = Loaded.of(folder)
    [[one]], [[other]] = schnell.draw(flow(guidance_scale=0.0)), schnell.draw(flow(guidance_scale=7.0))
    assert np.array_equal(one, other)
    assert psnr_db(one, schnell.stock(Task.TEXT_TO_IMAGE)(flow(guidance_scale=0.0))) >= ALONE_DB
    assert schnell.checkpoint.facts.guidance is Guidance.NONE, "so that more is refused"
    for usable in (1.0, 1.1):
        (folder / DEFAULTS_FILE).write_text(json.dumps({"guidance_scale": usable}), encoding="utf-8")
        with pytest.raises(ModelUnusable, match="'guidance_scale'") if usable > 1 else contextlib.nullcontext():
            identify(str(folder), dtype="float32", samplers=("flow_euler",))


@pytest.mark.parametrize("guidance_scale", [0.0, 1.0, 3.5])
@pytest.mark.parametrize("family", ["sd3", "flux"])
def test_rows_are_foreseen(sd3: Loaded, dev: Loaded, family: str, guidance_scale: float) -> None:
    loaded = {"sd3": sd3, "flux": dev}[family]
    asked = flow(num_images=2, guidance_scale=guidance_scale)
    drawings = list(loaded.denoiser.open(asked))
    assert load_of(asked, loaded.checkpoint.facts.guidance).rows == sum(one.rows for one in drawings)


def test_tokens_are_packed_as_the_stock_pipeline_packs_them() -> None:
    latents = torch.randn(2, 16, 6, 10)
    tokens = pack(latents)
    assert torch.equal(tokens, FluxPipeline._pack_latents(latents, 2, 16, 6, 10))
    assert torch.equal(unpack(tokens, 6, 10), latents)
    cpu = torch.device("cpu")
    assert torch.equal(positions(3, 5, cpu), FluxPipeline._prepare_latent_image_ids(1, 3, 5, cpu, torch.float32))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("family", ["sd3", "flux"])
def test_half_precision_draws_about_the_same(sd3: Loaded, dev: Loaded, family: str, dtype: str) -> None:
    loaded = {"sd3": sd3, "flux": dev}[family]
    checkpoint = identify(str(loaded.folder), dtype=dtype, samplers=("flow_euler",))
    half = Denoiser(lambda report: checkpoint.load(find_device("cpu"), report))
    half.load(lambda share: None)
    asked = flow(steps=4, guidance_scale=2.0)
    [[picture]] = Loaded(loaded.folder, checkpoint, half).draw(asked)
    [[precise]] = loaded.draw(asked)
    assert psnr_db(picture, precise) > 20
