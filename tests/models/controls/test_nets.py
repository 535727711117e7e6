"""ControlNets in memory: loaded when they are asked for, let go of when nobody uses them, never while somebody does."""

from __future__ import annotations

import shutil
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.models.controls.nets import control, lines, make_controlnet, write_controlnet
from tests.models.controls.test_parity import guided, load
from tests.models.families import WIDTH, write_sdxl
from tests.models.original import original_controlnet
from tests.models.test_sd import one_thread
from tests.models.tiny import job, psnr_db
from worker.errors import InvalidInput
from worker.models.controls.catalogue import Catalogue, Controlled
from worker.models.controls.nets import ControlNets
from worker.models.folder import DiffusersFolder

__all__ = ["one_thread"]

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def folder(tiny: Path, tmp_path: Path) -> Path:
    """Three nets."""
    write_controlnet(tmp_path / "a", tiny)
    for name in "bc":
        shutil.copytree(tmp_path / "a", tmp_path / name)
    return tmp_path


def keeping(folder: Path, tiny: Path, kept: int) -> ControlNets:
    source = DiffusersFolder(tiny)
    unet = source.config("unet")
    catalogue = Catalogue.in_folder(folder, Controlled("sd", unet, source.config("vae"), "float32"))
    return ControlNets(catalogue, unet, torch.device("cpu"), torch.float32, kept=kept)


def in_memory(nets: ControlNets) -> list[str]:
    return list(nets._loaded)


def test_the_one_that_was_not_used_for_longest_goes_first(folder: Path, tiny: Path) -> None:
    nets = keeping(folder, tiny, kept=2)
    for name in ("a", "b", "a", "c"):
        nets.hold(name)
    assert in_memory(nets) == ["a", "c"]


def test_one_that_is_kept_is_not_read_again(folder: Path, tiny: Path) -> None:
    nets = keeping(folder, tiny, kept=2)
    nets.hold("a")
    shutil.rmtree(folder / "a")
    nets.hold("a")
    assert in_memory(nets) == ["a"]


def test_one_in_use_stays_whatever_the_bound(folder: Path, tiny: Path) -> None:
    nets = keeping(folder, tiny, kept=1)
    first, again = nets.hold("a"), nets.hold("a")
    second = nets.hold("b")
    assert in_memory(nets) == ["a", "b"]
    del first
    nets.hold("c")
    assert in_memory(nets) == ["a", "b", "c"], "another job still uses it"
    del again
    nets.hold("b")
    nets.hold("c")
    assert in_memory(nets) == ["a", "b", "c"], "room is made when something is loaded"
    net = weakref.ref(nets._loaded["a"])
    del nets._loaded["c"]
    nets.hold("c")
    assert (in_memory(nets), net()) == (["b", "c"], None)
    assert second is nets.hold("b")


def test_those_that_nobody_uses_are_let_go_of(folder: Path, tiny: Path) -> None:
    nets = keeping(folder, tiny, kept=3)
    held = nets.hold("a")
    nets.hold("b")
    assert nets.let_go()
    assert in_memory(nets) == ["a"]
    assert not nets.let_go()
    del held
    assert nets.let_go()


@pytest.mark.parametrize("spoil", ["gone", "cut", "another"])
def test_a_net_that_was_spoilt_since_the_start_fails_its_own_job(folder: Path, tiny: Path, spoil: str) -> None:
    ours = load(tiny, folder)
    file = folder / "a" / WEIGHTS
    match spoil:
        case "gone":
            shutil.rmtree(folder / "a")
        case "cut":
            file.write_bytes(file.read_bytes()[:5000])
        case "another":
            tensors = load_file(file)
            del tensors["controlnet_mid_block.weight"]
            save_file(tensors, file, metadata={"format": "pt"})
    before = ours.draw(job())
    with pytest.raises(InvalidInput) as refused:
        list(ours.denoiser.open(guided(control("a"))))
    assert refused.value.detail.startswith("The ControlNet a cannot be loaded (")
    assert str(folder) not in refused.value.detail
    assert np.array_equal(ours.draw(job()), before)
    assert ours.draw(guided(control("b"))), "and others can be had"


def test_a_name_that_is_not_offered(folder: Path, tiny: Path) -> None:
    with pytest.raises(InvalidInput, match="No ControlNet of the name"):
        list(load(tiny, folder).denoiser.open(guided(control("../a"))))


@pytest.mark.parametrize("layout", ["diffusers", "original", "with a model around it"])
@pytest.mark.parametrize(("family", "atol"), [("sd", 1e-5), ("sdxl", 1e-4)])
def test_a_single_file_is_the_folders_net(tiny: Path, tmp_path: Path, family: str, atol: float, layout: str) -> None:
    """Original files are always made for pictures eight times as large as the latent; so here the picture is."""
    config: dict[str, Any] = {"conditioning_embedding_out_channels": (4, 8, 12, 16)}
    model = tiny if family == "sd" else write_sdxl(tmp_path / "model")
    net = make_controlnet(model, **config)
    (folder := tmp_path / "nets").mkdir()
    if layout == "diffusers":
        save_file(net.state_dict(), folder / "net.safetensors")
    else:
        prefix = "" if layout == "original" else "control_model."
        tensors = original_controlnet(net.state_dict(), net.config)
        written = {prefix + name: tensor.contiguous() for name, tensor in tensors.items()}
        save_file(written, folder / "net.safetensors")
    source = DiffusersFolder(model)
    unet, vae = source.config("unet"), {"latent_channels": 4, "block_out_channels": (8, 8, 8, 8)}
    catalogue = Catalogue.in_folder(folder, Controlled(family, unet, vae, "float32"))
    nets = ControlNets(catalogue, unet, torch.device("cpu"), torch.float32)
    held = nets.hold("net")
    generator = torch.Generator().manual_seed(1)
    text = torch.randn(2, 77, unet["cross_attention_dim"], generator=generator)
    latents = torch.randn(2, 4, 8, 8, generator=generator)
    picture, scale = torch.rand(2, 3, 64, 64, generator=generator), torch.tensor([1.0, 0.5])
    timesteps = torch.tensor([900.0, 100.0])
    added = None
    if family == "sdxl":
        added = {"text_embeds": torch.randn(2, WIDTH, generator=generator), "time_ids": torch.full((2, 6), 64.0)}
    seen = {"control.0.net": picture, "control_scale.0.net": scale}
    ours = nets.residuals(seen, latents, timesteps, text, added)
    down, middle = net(
        latents, timesteps, text, picture, scale[:, None, None, None], added_cond_kwargs=added, return_dict=False
    )
    assert middle.abs().mean() > 0.01
    assert torch.allclose(ours["mid_block_additional_residual"], middle, atol=atol)
    for one, other in zip(ours["down_block_additional_residuals"], down, strict=True):
        assert torch.allclose(one, other, atol=atol)
    assert held is nets.hold("net")


def test_a_net_without_attention_is_built_by_its_configuration(tiny: Path, tmp_path: Path) -> None:
    write_controlnet(tmp_path / "small", tiny, rebuilt={"down_block_types": ("DownBlock2D", "DownBlock2D")})
    ours = load(tiny, tmp_path)
    [[one]], [[other]] = (ours.draw(guided(control("small", image=picture))) for picture in (lines(), lines(every=5)))
    assert 20 < psnr_db(one, other) < 40


def test_half_precision_draws_about_the_same(folder: Path, tiny: Path) -> None:
    asked = guided(control("a", scale=0.8), steps=4, guidance_scale=2.0)
    [[precise]] = load(tiny, folder).draw(asked)
    [[half]] = load(tiny, folder, dtype="bfloat16").draw(asked)
    assert psnr_db(half, precise) > 20
