"""What SDXL has that Stable Diffusion has not, against the stock pipeline."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from shared_worker.device import find_device
from tests.models import families
from tests.models.parity import ALONE_DB, IN_COMPANY_DB, Loaded, consistency, few_steps
from tests.models.test_sd import one_thread
from tests.models.tiny import job, psnr_db
from tests.schedulers import SCHEDULERS
from worker.engine.denoiser import Denoiser
from worker.engine.runner import Pixels
from worker.jobs.params import Task
from worker.models.registry import identify

__all__ = ["one_thread"]

LONG = "a large red circle on the left, " * 12
LONG_CHUNKS = ("a large red circle on the left, " * 9, "a large red circle on the left, " * 3)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    return Loaded.of(families.write_sdxl(tmp_path_factory.mktemp("sdxl") / "tiny"))


@pytest.fixture(scope="module")
def stock(loaded: Loaded) -> Callable[..., Pixels]:
    return loaded.stock(Task.TEXT_TO_IMAGE)


@pytest.mark.parametrize("sampler", SCHEDULERS)
def test_every_sampler(loaded: Loaded, stock: Callable[..., Pixels], sampler: str) -> None:
    asked = job(sampler=sampler, steps=5, negative_prompt="green", width=48, height=24)
    [[drawn]] = loaded.draw(asked)
    assert drawn.shape == (24, 48, 3)
    assert psnr_db(drawn, stock(asked)) >= ALONE_DB


@pytest.mark.parametrize("zeros", [True, False])
def test_a_negative_prompt_that_is_not_given_is_zeros_where_the_checkpoint_says_so(tmp_path: Path, zeros: bool) -> None:
    own = Loaded.of(families.write_sdxl(tmp_path / "tiny", force_zeros_for_empty_prompt=zeros))
    [[absent]], [[empty]] = own.draw(job(negative_prompt=None)), own.draw(job(negative_prompt=""))
    stock = own.stock(Task.TEXT_TO_IMAGE)
    assert psnr_db(absent, stock(job(negative_prompt=None))) >= ALONE_DB
    assert psnr_db(empty, stock(job(negative_prompt=""))) >= ALONE_DB
    assert np.array_equal(absent, empty) != zeros


def test_the_size_is_part_of_what_the_model_is_told(loaded: Loaded) -> None:
    model = loaded.denoiser._model
    assert model.frame(48, 24, 5.0)["time_ids"].tolist() == [[24, 48, 0, 0, 24, 48]]


def test_a_long_prompt_is_its_chunks_through_both_encoders(loaded: Loaded) -> None:
    pipeline = families.load_stock(loaded.folder)
    encoded = [pipeline.encode_prompt(one, device=torch.device("cpu")) for one in LONG_CHUNKS]
    model = loaded.denoiser._model
    ours = model.encode_prompt(LONG).tensors
    assert torch.allclose(ours["encoder_hidden_states"], torch.cat([one[0] for one in encoded], dim=1), atol=1e-5)
    assert torch.allclose(ours["text_embeds"], encoded[0][2], atol=1e-5)
    nothing = model.encode_prompt(None).as_long_as(model.encode_prompt(LONG), model.encode_prompt(""))
    assert nothing.tensors["encoder_hidden_states"].shape[1] == 2 * 77
    assert not nothing.tensors["encoder_hidden_states"].any(), "longer zeros, as the stock pipeline has them"


def test_in_company_every_job_stays_what_it_is(loaded: Loaded, stock: Callable[..., Pixels]) -> None:
    jobs = [
        job(prompt="a red circle", sampler="euler", steps=5, seed=1, num_images=2),
        job(prompt="a star", sampler="ddim", steps=7, seed=2, guidance_scale=2.5, negative_prompt="blue"),
        job(prompt="", sampler="lcm", steps=4, seed=3, guidance_scale=1.0),
        job(prompt="ring " * 60, sampler="dpmpp_2m_sde", steps=6, seed=4, negative_prompt=""),
    ]
    for asked, pictures in zip(jobs, loaded.draw(*jobs, join_every=2), strict=True):
        for index, picture in enumerate(pictures):
            assert psnr_db(picture, stock(asked, index)) >= IN_COMPANY_DB, asked


def test_guidance_as_an_input_costs_no_second_row(tmp_path: Path) -> None:
    own = Loaded.of(consistency(tmp_path / "tiny"))
    facts = own.checkpoint.facts
    assert (facts.sampler, facts.steps, facts.guidance_scale) == ("lcm", 4, 8.0)
    strong, weak = job(sampler="lcm", guidance_scale=8.0, steps=4), job(sampler="lcm", guidance_scale=2.0, steps=4)
    assert [drawing.rows for drawing in own.denoiser.open(strong)] == [1]
    [first], [second] = own.draw(strong, weak)
    assert psnr_db(first, second) < 40, "it is not for nothing"
    stock = own.stock(Task.TEXT_TO_IMAGE)
    assert psnr_db(first, stock(strong)) >= IN_COMPANY_DB
    assert psnr_db(second, stock(weak)) >= IN_COMPANY_DB


def test_few_steps_are_not_guided_unless_asked(tmp_path: Path) -> None:
    own = Loaded.of(few_steps(tmp_path / "tiny"))
    facts = own.checkpoint.facts
    assert (facts.sampler, facts.steps, facts.guidance_scale) == ("euler", 4, 1.0)
    asked = job(sampler=facts.sampler, steps=facts.steps, guidance_scale=facts.guidance_scale)
    assert [drawing.rows for drawing in own.denoiser.open(asked)] == [1]
    [[drawn]] = own.draw(asked)
    assert psnr_db(drawn, own.stock(Task.TEXT_TO_IMAGE)(asked)) >= ALONE_DB


@pytest.mark.parametrize(("dtype", "overflows", "used"), [
    ("float16", True, torch.float32),
    ("float16", False, torch.float16),
    ("bfloat16", True, torch.bfloat16),
])  # fmt: skip
def test_a_vae_that_overflows_in_half_precision_decodes_in_full(
    tmp_path: Path, dtype: str, overflows: bool, used: torch.dtype
) -> None:
    folder = families.write_sdxl(tmp_path / "tiny", vae={"force_upcast": overflows})
    checkpoint = identify(str(folder), dtype=dtype, samplers=tuple(SCHEDULERS))
    model = checkpoint.load(find_device("cpu"), lambda share: None)
    vae = model._vae._vae
    seen: list[torch.dtype] = []
    handles = [
        part.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
        for part in (vae.encoder, vae.decoder)
    ]
    mean, _ = model.encode(torch.zeros(1, 3, 32, 32))
    model.decode(mean)
    assert seen == [used, used]
    model.decode(mean, precise=True)
    assert seen[-1] == torch.float32
    for handle in handles:
        handle.remove()
    assert vae.dtype == getattr(torch, dtype), "afterwards it is as it was"


def test_half_precision_draws_about_the_same(loaded: Loaded) -> None:
    checkpoint = identify(str(loaded.folder), dtype="bfloat16", samplers=tuple(SCHEDULERS))
    half = Denoiser(lambda report: checkpoint.load(find_device("cpu"), report))
    half.load(lambda share: None)
    asked = job(steps=4, guidance_scale=2.0)
    [[picture]] = Loaded(loaded.folder, checkpoint, half).draw(asked)
    [[precise]] = loaded.draw(asked)
    assert psnr_db(picture, precise) > 20
