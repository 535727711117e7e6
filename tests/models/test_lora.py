"""Parity of LoRA adapters: what the stock pipelines draw with them, alone, and beside jobs with others or none."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from shared_worker.device import find_device
from tests.models import families
from tests.models.lora_files import ATTENTION, CONVOLUTIONS, TEXT, adapted, make_factors, write_diffusers, write_kohya
from tests.models.test_sd import ALONE_DB, IN_COMPANY_DB, draw, one_thread
from tests.models.tiny import by_stock, job, psnr_db
from tests.schedulers import FLOWS, SCHEDULERS
from worker.engine.denoiser import Denoiser
from worker.engine.runner import Pixels
from worker.errors import InvalidInput
from worker.jobs.params import JobParams, LoraParams
from worker.models.registry import identify

__all__ = ["one_thread"]

FAMILIES: dict[str, tuple[Callable[[Path], Path], tuple[str, ...]]] = {
    "sdxl": (families.write_sdxl, ("unet", "text_encoder", "text_encoder_2")),
    "sd3": (families.write_sd3, ("transformer", "text_encoder", "text_encoder_2")),
    "flux": (families.write_flux, ("transformer", "text_encoder")),
}


def load(
    model: Path,
    loras: Path | None = None,
    *,
    cache_bytes: int = 10**9,
    rows: int | None = None,
    dtype: str = "float32",
    on_prompt: Callable[[bool], None] = lambda hit: None,
) -> Denoiser:
    checkpoint = identify(str(model), dtype=dtype, samplers=tuple(SCHEDULERS | FLOWS))
    if loras is not None:
        checkpoint = checkpoint.with_loras(loras, cache_bytes)
        assert all(one.fits for one in checkpoint.facts.loras), checkpoint.facts.loras
    loaded = Denoiser(lambda report: checkpoint.load(find_device("cpu"), report), fixed_rows=rows, on_prompt=on_prompt)
    loaded.load(lambda share: None)
    return loaded


def parts_of(stock: Any, *names: str) -> dict[str, Any]:
    return {name: getattr(stock, name) for name in names}


def wearing(*loras: tuple[str, float], **changes: object) -> JobParams:
    return job(loras=tuple(LoraParams(*one) for one in loras), **changes)


@pytest.fixture(scope="module")
def loras(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Names say layout and what is changed."""
    folder = tmp_path_factory.mktemp("loras")
    parts = parts_of(families.load_stock(tiny), "unet", "text_encoder")
    unet, both = {"unet": parts["unet"]}, parts
    write_diffusers(folder / "diffusers-unet.safetensors", make_factors(unet, 1, ATTENTION))
    write_diffusers(folder / "diffusers-both.safetensors", make_factors(both, 2, ATTENTION + TEXT, rank=2))
    write_kohya(folder / "kohya-both.safetensors", make_factors(both, 3, ATTENTION + TEXT), alpha=1.0, te="lora_te")
    write_kohya(folder / "styles/kohya-locon.safetensors", make_factors(unet, 4, ATTENTION + CONVOLUTIONS), alpha=2.0)
    write_diffusers(folder / "text.safetensors", make_factors({"text_encoder": parts["text_encoder"]}, 5, TEXT))
    return folder


@pytest.fixture(scope="module")
def denoiser(tiny: Path, loras: Path) -> Denoiser:
    return load(tiny, loras)


@pytest.fixture(scope="module")
def expected(tiny: Path, loras: Path) -> Callable[[JobParams], Pixels]:
    """The stock pipeline's picture with a job's adapters."""
    pipelines: dict[tuple[LoraParams, ...], Any] = {}

    def drawn(asked: JobParams) -> Pixels:
        if asked.loras not in pipelines:
            pipelines[asked.loras] = adapted(families.load_stock(tiny), loras, asked)
        return by_stock(pipelines[asked.loras], asked)

    return drawn


NAMES = ("diffusers-unet", "diffusers-both", "kohya-both", "styles/kohya-locon", "text")


@pytest.mark.parametrize("name", NAMES)
def test_a_job_with_an_adapter_is_the_stock_pipelines_picture(
    denoiser: Denoiser, expected: Callable[[JobParams], Pixels], name: str
) -> None:
    plain = expected(job())
    asked = wearing((name, 0.7), negative_prompt="green")
    [[picture]] = draw(denoiser, asked)
    assert psnr_db(picture, expected(asked)) >= ALONE_DB
    assert psnr_db(picture, plain) < 35, "else parity would prove nothing"


def test_several_adapters_add_up(denoiser: Denoiser, expected: Callable[[JobParams], Pixels]) -> None:
    asked = wearing(("kohya-both", 0.6), ("diffusers-both", -0.4), ("styles/kohya-locon", 0.3))
    [[picture]] = draw(denoiser, asked)
    assert psnr_db(picture, expected(asked)) >= ALONE_DB
    assert not next(denoiser.open(asked)).warnings


@pytest.mark.parametrize("join_every", [0, 1])
def test_jobs_with_other_adapters_and_with_none_share_their_calls(
    denoiser: Denoiser, expected: Callable[[JobParams], Pixels], join_every: int
) -> None:
    jobs = [
        wearing(("kohya-both", 0.8), seed=1, sampler="euler"),
        job(seed=2, sampler="ddim", steps=8),
        wearing(("diffusers-both", 1.0), ("text", 0.5), seed=3, guidance_scale=1.0, sampler="dpmpp_2m"),
        wearing(("kohya-both", -0.5), ("styles/kohya-locon", 0.7), seed=4, sampler="euler_a"),
        job(seed=5, guidance_scale=1.0),
    ]
    for asked, [picture] in zip(jobs, draw(denoiser, *jobs, join_every=join_every), strict=True):
        assert psnr_db(picture, expected(asked)) >= IN_COMPANY_DB, asked.loras


def test_a_job_without_adapters_keeps_every_bit(tiny: Path, loras: Path) -> None:
    """In calls of as many rows as on a worker that knows no adapter."""
    bare, worker = load(tiny), load(tiny, loras)
    plain, beside = job(seed=1), job(seed=2, prompt="a blue star")
    [[alone]], [[company], _] = draw(bare, plain), draw(bare, plain, beside)
    adapted = wearing(("kohya-both", 1.0), ("styles/kohya-locon", 1.0), seed=2, prompt="a blue star")
    for asked in (plain, wearing(("kohya-both", 0.0), seed=1)):
        assert np.array_equal(draw(worker, asked, adapted)[0][0], company)
        assert np.array_equal(draw(worker, asked)[0][0], alone)


def test_in_exact_numerics_bytes_do_not_depend_on_company(tiny: Path, loras: Path) -> None:
    worker = load(tiny, loras, rows=8)
    jobs = [
        wearing(("kohya-both", 1.0), seed=1),
        job(seed=2),
        wearing(("kohya-both", 1.0), seed=3, guidance_scale=1.0),
        wearing(("diffusers-unet", 1.0), seed=4),
    ]
    alone = [draw(worker, asked)[0][0] for asked in jobs]
    opened = [next(worker.open(asked)) for asked in jobs]
    while waiting := [one for one in opened if not one.done]:
        worker.step([one for one in waiting if one.key == waiting[0].key])
    for drawing, expected in zip(opened, alone, strict=True):
        assert np.array_equal(worker.finish(drawing), expected)
    [[bare]] = draw(load(tiny, rows=8), jobs[1])
    assert np.array_equal(bare, alone[1])


def test_what_peft_wrote_down_of_its_training_counts(tiny: Path, tmp_path: Path) -> None:
    stock = families.load_stock(tiny)
    factors = make_factors({"unet": stock.unet}, 6, ("to_q", "to_k"))
    trained = {
        "r": 4,
        "lora_alpha": 2,
        "alpha_pattern": {"attn2.to_k": 6},
        "use_rslora": True,
        "target_modules": ["to_q", "to_k"],
    }
    metadata = {
        "format": "pt",
        "lora_adapter_metadata": json.dumps({f"unet.{key}": one for key, one in trained.items()}),
    }
    write_diffusers(tmp_path / "a.safetensors", factors, metadata)
    write_diffusers(tmp_path / "b.safetensors", factors)
    worker = load(tiny, tmp_path)
    asked = wearing(("a", 1.0))
    expected = by_stock(adapted(stock, tmp_path, asked), asked)
    assert psnr_db(draw(worker, asked)[0][0], expected) >= ALONE_DB
    assert psnr_db(draw(worker, wearing(("b", 1.0)))[0][0], expected) < 35


@pytest.mark.parametrize(
    ("pattern", "counts"), [("attn2\\.to_k$", True), ("^attn2.to_k", False), ("(([a-z0-9_.])+)+!", None)]
)
def test_a_pattern_is_a_layers_name_and_nothing_that_is_run(
    tiny: Path, tmp_path: Path, pattern: str, counts: bool | None
) -> None:
    factors = make_factors({"unet": families.load_stock(tiny).unet}, 6, ("to_q", "to_k"))
    for name, alphas in (("a", {pattern: 6}), ("b", {"attn2.to_k": 6})):
        trained = {"unet.r": 4, "unet.lora_alpha": 2, "unet.alpha_pattern": alphas}
        metadata = {"format": "pt", "lora_adapter_metadata": json.dumps(trained)}
        write_diffusers(tmp_path / f"{name}.safetensors", factors, metadata)
    worker = load(tiny, tmp_path)
    if counts is None:
        with pytest.raises(InvalidInput, match="The LoRA a does not fit the model"):
            draw(worker, wearing(("a", 1.0)))
        return
    one, other = (draw(worker, wearing((name, 1.0)))[0][0] for name in "ab")
    assert np.array_equal(one, other) is counts, "what begins with ^ is a whole name"


def test_sdxl_layers_by_their_original_names(tmp_path: Path) -> None:
    model = families.write_sdxl(tmp_path / "model")
    stock = families.load_stock(model)
    factors = make_factors({"unet": stock.unet}, 7, ("to_q", "to_v", "conv1"))
    write_kohya(tmp_path / "loras/a.safetensors", factors)
    file = write_kohya(tmp_path / "loras/b.safetensors", factors)
    renamed = {original_name(name): tensor for name, tensor in load_file(file).items()}
    assert renamed.keys() & load_file(file).keys() == set()
    save_file(renamed, file)
    worker = load(model, tmp_path / "loras")
    one, other = (draw(worker, wearing((name, 1.0)))[0][0] for name in ("a", "b"))
    assert np.array_equal(one, other)
    assert psnr_db(one, by_stock(adapted(stock, tmp_path / "loras", wearing(("b", 1.0))), wearing())) >= ALONE_DB


def original_name(name: str) -> str:
    """As the UNet of SDXL is called by those who made it, where a level has one layer as the toy's has."""
    levels = {
        r"down_blocks_0_resnets_0": "input_blocks_1_0",
        r"down_blocks_1_resnets_0": "input_blocks_3_0",
        r"down_blocks_1_attentions_0": "input_blocks_3_1",
        r"mid_block_resnets_0": "middle_block_0",
        r"mid_block_attentions_0": "middle_block_1",
        r"mid_block_resnets_1": "middle_block_2",
        r"up_blocks_0_resnets_(\d)": r"output_blocks_\1_0",
        r"up_blocks_0_attentions_(\d)": r"output_blocks_\1_1",
        r"up_blocks_1_resnets_0": "output_blocks_2_0",
        r"up_blocks_1_resnets_1": "output_blocks_3_0",
    }
    for level, original in levels.items():
        name = re.sub(level, original, name)
    return name.replace("_conv1.", "_in_layers_2.")


@pytest.mark.parametrize(
    ("family", "layout"),
    [("sdxl", "diffusers"), ("sdxl", "kohya"), ("sd3", "diffusers"), ("flux", "diffusers"), ("flux", "kohya")],
)
def test_other_families(tmp_path: Path, family: str, layout: str) -> None:
    """For FLUX kohya's own names hold sizes that no toy has; those of `lora_transformer_…` do not."""
    write, names = FAMILIES[family]
    model = write(tmp_path / "model")
    parts = parts_of(families.load_stock(model), *names)
    for number, name in enumerate(("one", "two")):
        factors = make_factors(parts, number, ATTENTION[:4] + TEXT, strength=0.5)
        file = tmp_path / f"loras/{name}.safetensors"
        if layout == "kohya":
            write_kohya(file, factors, alpha=2.0)
        else:
            write_diffusers(file, factors)
    worker = load(model, tmp_path / "loras")
    sampler = worker._model.facts.sampler
    jobs = [wearing(("one", 0.7), seed=1, sampler=sampler), job(seed=2, sampler=sampler)]
    jobs.append(wearing(("two", 1.0), ("one", 0.3), seed=3, sampler=sampler))
    length = {"max_sequence_length": 512} if family == "flux" else {}
    plain = by_stock(families.load_stock(model), job(seed=1, sampler=sampler), **length)
    for asked, [in_company] in zip(jobs, draw(worker, *jobs), strict=True):
        expected = by_stock(adapted(families.load_stock(model), tmp_path / "loras", asked), asked, **length)
        assert psnr_db(in_company, expected) >= IN_COMPANY_DB
        assert psnr_db(draw(worker, asked)[0][0], expected) >= ALONE_DB
    assert psnr_db(draw(worker, jobs[0])[0][0], plain) < 35
