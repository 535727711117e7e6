"""Weights kept in 8 bits: fewer bytes, as many as were counted, and the picture of those weights at full precision."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FluxTransformer2DModel, SD3Transformer2DModel, UNet2DConditionModel
from safetensors.torch import load_file, save_file

from shared_worker.device import Device, find_device
from tests.models import families
from tests.models.controls.nets import Stock, control, write_controlnet
from tests.models.lora_files import ATTENTION, TEXT, adapted, make_factors, write_diffusers
from tests.models.original import write_original
from tests.models.parity import ALONE_DB, IN_COMPANY_DB, Loaded
from tests.models.test_offload import PRETENDED, Watched
from tests.models.test_sd import one_thread
from tests.models.tiny import by_stock, job, psnr_db
from worker.engine import sampling
from worker.engine.denoiser import Denoiser
from worker.errors import ConfigurationError, ModelUnusable
from worker.jobs.params import JobParams, LoraParams
from worker.models.casting import cast_layers, is_cast, weights_dtype_on
from worker.models.checkpoint import Checkpoint
from worker.models.folder import DiffusersFolder
from worker.models.registry import identify

__all__ = ["one_thread"]

FP8 = "float8_e4m3fn"
CPU = find_device("cpu")
PARTS = ("text_encoder", "text_encoder_2", "text_encoder_3", "unet", "transformer", "vae")
WRITE: dict[str, Callable[[Path], Path]] = {
    "sd2": families.write_sd2,
    "sdxl": families.write_sdxl,
    "sd3": families.write_sd3,
    "sd35": lambda folder: families.write_sd3(folder, newer=True),
    "flux": families.write_flux,
}


def recognised(model: Path | str, weights_dtype: str | None = FP8, dtype: str = "float32", **how: Any) -> Checkpoint:
    return identify(str(model), dtype=dtype, samplers=tuple(sampling.SAMPLERS), weights_dtype=weights_dtype, **how)


def loaded(checkpoint: Checkpoint, *, rows: int | None = None, device: Device = CPU) -> Loaded:
    denoiser = Denoiser(lambda report: checkpoint.load(device, report), fixed_rows=rows)
    denoiser.load(lambda share: None)
    return Loaded(Path(), checkpoint, denoiser)


def weights_of(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    """Of all parts, as they lie in memory; by part and name."""
    found: dict[str, torch.Tensor] = {}

    class Watching:
        def place(self, name: str, part: Any, device: str, *, beside: str | None = None) -> Any:
            saved = part.state_dict()
            buffers = {own: one for own, one in part.named_buffers() if own in saved}
            found.update({f"{name}.{own}": one for own, one in (dict(part.named_parameters()) | buffers).items()})
            return part.to(device)

    replace(checkpoint, placement=Watching()).load(CPU, lambda share: None)  # type: ignore[arg-type]
    return found


def rounded(pipeline: Any) -> Any:
    """The stock pipeline with those weights as 8 bits tell them, in full precision."""
    parts = {part: one for part in PARTS if (one := getattr(pipeline, part, None)) is not None}
    parts |= {
        f"net {k}": net for k, net in enumerate(pipeline.controlnet.nets if hasattr(pipeline, "controlnet") else ())
    }
    for part, module in parts.items():
        for name, weights in module.named_parameters():
            if is_cast(part, name):
                weights.data = weights.data.to(torch.float8_e4m3fn).float()
    return pipeline


# What is cast


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("family", WRITE)
def test_as_many_bytes_are_in_memory_as_were_counted(family: str, dtype: str, tmp_path: Path) -> None:
    checkpoint = recognised(WRITE[family](tmp_path / "tiny"), dtype=dtype)
    weights = weights_of(checkpoint)
    assert sum(one.nbytes for one in weights.values()) == checkpoint.weights_bytes == checkpoint.device_bytes
    whole = recognised(tmp_path / "tiny", None, dtype)
    assert checkpoint.weights_bytes < whole.weights_bytes == sum(one.nbytes for one in weights_of(whole).values())
    kept_in = {one.dtype for name, one in weights.items() if is_cast(*name.split(".", 1))}
    assert kept_in == {torch.float8_e4m3fn}


def test_of_one_file_too(tiny: Path, tmp_path: Path) -> None:
    checkpoint = recognised(write_original(tiny, tmp_path / "one.safetensors"), config=str(tiny))
    positions = 77 * 4  # a published file has them, and nobody reads them
    assert sum(one.nbytes for one in weights_of(checkpoint).values()) == checkpoint.weights_bytes - positions


def test_the_built_in_models_weights_take_about_half() -> None:
    full, kept = recognised("builtin", None, "bfloat16"), recognised("builtin", FP8, "bfloat16")
    unet = {name: one for name, one in weights_of(kept).items() if name.startswith("unet.")}
    whole = {name: one for name, one in weights_of(full).items() if name.startswith("unet.")}
    assert sum(one.nbytes for one in unet.values()) < 0.52 * sum(one.nbytes for one in whole.values())


@pytest.mark.parametrize("family", ["sd2", "sdxl", "sd3", "sd35", "flux"])
def test_what_the_library_leaves_whole_stays(family: str, tmp_path: Path) -> None:
    folder = WRITE[family](tmp_path / "tiny")
    part = "unet" if (folder / "unet").is_dir() else "transformer"
    cls = {"sd2": UNet2DConditionModel, "sdxl": UNet2DConditionModel, "flux": FluxTransformer2DModel}
    stock = cls.get(family, SD3Transformer2DModel).from_pretrained(folder / part)
    stock.enable_layerwise_casting(torch.float8_e4m3fn, torch.float32)
    whole = {name for name, one in stock.named_parameters() if one.dtype == torch.float32}
    assert whole
    assert [name for name in whole if is_cast(part, name)] == []


def test_norms_embeddings_and_the_vae_stay(tmp_path: Path) -> None:
    weights = weights_of(recognised(families.write_sd3(tmp_path / "tiny")))
    kept_in = {name: one.dtype for name, one in weights.items()}
    stay = [name for name in weights if "norm" in name or "embed" in name or name.startswith("vae.")]
    assert {kept_in[name] for name in stay} == {torch.float32}
    for layer in ("transformer_blocks.0.attn.to_q", "self_attn.q_proj", "DenseReluDense.wi_0"):
        assert torch.float8_e4m3fn in {kept_in[name] for name in weights if name.endswith(f"{layer}.weight")}


# What is drawn


@pytest.mark.parametrize("seed", [1, 2])
def test_the_picture_is_about_that_of_whole_weights(seed: int) -> None:
    full = loaded(recognised("builtin", None))
    facts = full.checkpoint.facts
    asked = job(width=facts.width, height=facts.height, steps=8, prompt="a blue star on the left", seed=seed)
    [[expected]], [[drawn]] = full.draw(asked), loaded(recognised("builtin")).draw(asked)
    assert 35 <= psnr_db(drawn, expected) < 99, "close, and not the same"


@pytest.mark.parametrize("family", WRITE)
def test_it_is_the_stock_pipelines_with_weights_so_rounded(family: str, tmp_path: Path) -> None:
    ours = loaded(recognised(WRITE[family](tmp_path / "tiny")))
    asked = job(sampler=ours.checkpoint.facts.sampler, guidance_scale=3.0)
    length = {"max_sequence_length": ours.checkpoint.family.text_length}
    whole = families.load_stock(tmp_path / "tiny")
    plain, expected = by_stock(whole, asked, **length), by_stock(rounded(whole), asked, **length)
    [[drawn]] = ours.draw(asked)
    assert psnr_db(drawn, expected) >= ALONE_DB
    assert psnr_db(expected, plain) < psnr_db(drawn, expected), "rounding shows"


@pytest.fixture(scope="module")
def dressed(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """A model with a LoRA and a ControlNet."""
    root = tmp_path_factory.mktemp("dressed")
    stock = families.load_stock(tiny)
    parts = {"unet": stock.unet, "text_encoder": stock.text_encoder}
    write_diffusers(root / "loras/style.safetensors", make_factors(parts, 1, ATTENTION + TEXT))
    write_controlnet(root / "nets/lines", tiny)
    return recognised(tiny).with_loras(root / "loras", 10**9).with_controls(root / "nets")


STYLE = (LoraParams("style", 0.7),)
JOBS = (
    job(seed=1, loras=STYLE),
    job(seed=2, sampler="euler"),
    job(seed=3, loras=STYLE, controls=(control("lines"),)),
    job(seed=4, controls=(control("lines"),)),
)


def of_stock(dressed: Checkpoint, asked: JobParams) -> Any:
    assert isinstance(dressed.source, DiffusersFolder)
    folder, loras = dressed.source.folder, dressed.loras.get("style").path.parent
    if not asked.controls:
        return by_stock(adapted(rounded(families.load_stock(folder)), loras, asked), asked)
    return Stock(folder, loras.parent / "nets", loras, rounded).draw(asked)


@pytest.mark.parametrize("number", range(len(JOBS)))
def test_adapters_and_controlnets_come_on_top(dressed: Checkpoint, number: int) -> None:
    asked = JOBS[number]
    [[drawn]] = loaded(dressed).draw(asked)
    assert psnr_db(drawn, of_stock(dressed, asked)) >= ALONE_DB


def test_in_exact_numerics_bytes_do_not_depend_on_company(dressed: Checkpoint) -> None:
    exact = loaded(dressed, rows=8)
    for pair in (JOBS[:2], JOBS[2:]):
        opened = [next(exact.denoiser.open(asked)) for asked in pair]
        while waiting := [one for one in opened if not one.done]:
            exact.denoiser.step([one for one in waiting if one.key == waiting[0].key])
        for asked, drawing in zip(pair, opened, strict=True):
            [[alone]] = loaded(dressed, rows=8).draw(asked)
            assert np.array_equal(exact.denoiser.finish(drawing), alone)


def test_in_company_it_is_about_the_picture_alone(dressed: Checkpoint) -> None:
    ours = loaded(dressed)
    for asked, [drawn] in zip(JOBS[:2], ours.draw(*JOBS[:2], join_every=1), strict=True):
        assert psnr_db(drawn, of_stock(dressed, asked)) >= IN_COMPANY_DB


def test_parts_that_are_moved_draw_the_same(dressed: Checkpoint) -> None:
    watched = Watched()
    moved, there = loaded(replace(dressed, placement=watched), device=PRETENDED), loaded(dressed, device=PRETENDED)
    for asked in JOBS:
        [[drawn]], [[expected]] = moved.draw(asked), there.draw(asked)
        assert np.array_equal(drawn, expected)
    moved.denoiser.step(list(moved.denoiser.open(JOBS[1])))
    assert watched.there == {"unet"}
    unet = moved.denoiser._model._unet
    assert watched.weights_bytes(0) == sum(one.nbytes for one in unet.parameters())
    assert torch.float8_e4m3fn in {one.dtype for one in unet.parameters()}


def test_a_controlnet_that_is_let_go_of_is_gone(dressed: Checkpoint) -> None:
    nets = loaded(dressed).denoiser._model._controls
    nets.hold("lines")
    layers = [weakref.ref(one) for one in nets._loaded["lines"].modules()]
    assert torch.float8_e4m3fn in {one.dtype for one in nets._loaded["lines"].parameters()}
    nets._drop_idle(0)
    assert [one() for one in layers if one() is not None] == [], "no layer waits for a collection of garbage"


# What is refused, and told


def test_mps_has_no_such_type() -> None:
    with pytest.raises(ConfigurationError, match="--weights-dtype float8_e4m3fn: MPS knows no such type"):
        weights_dtype_on("mps", FP8)
    assert [weights_dtype_on(backend, "auto") for backend in ("cpu", "cuda", "mps")] == [None] * 3
    assert [weights_dtype_on(backend, FP8) for backend in ("cpu", "cuda")] == [FP8] * 2


def test_weights_that_8_bits_cannot_tell_are_refused(tiny: Path, tmp_path: Path) -> None:
    families.write_sd2(tmp_path / "tiny")
    file = tmp_path / "tiny/unet/diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    tensors["mid_block.resnets.0.conv1.weight"][0, 0, 0, 0] = 500.0
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(ModelUnusable) as refused:
        loaded(recognised(tmp_path / "tiny"))
    assert refused.value.detail == (
        "the model's unet has weights above 448 (mid_block.resnets.0.conv1.weight), which float8_e4m3fn lacks"
    )
    loaded(recognised(tmp_path / "tiny", None))


def test_the_memory_check_counts_them(tiny: Path) -> None:
    full, kept = (recognised(tiny, dtype).weights_bytes for dtype in (None, FP8))
    recognised(tiny, free_bytes=kept)
    with pytest.raises(ModelUnusable, match="not enough memory"):
        recognised(tiny, free_bytes=kept - 1)
    with pytest.raises(ModelUnusable, match="not enough memory"):
        recognised(tiny, None, free_bytes=full - 1)


def test_rows_measured_with_them_are_kept_apart(tiny: Path) -> None:
    assert recognised(tiny).fingerprint != recognised(tiny, None).fingerprint


def test_without_the_flag_nothing_is_cast(tiny: Path) -> None:
    layer = torch.nn.Linear(2, 2)
    cast_layers("unet", layer, None)
    assert layer.weight.dtype == torch.float32
    assert {one.dtype for one in weights_of(recognised(tiny, None)).values()} == {torch.float32}
