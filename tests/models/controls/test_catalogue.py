"""Which of an operator's ControlNets are offered, told before a weight is read; and what is said of the others."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.models.controls.nets import make_controlnet, write_controlnet
from tests.models.families import write_sd3, write_sdxl
from tests.models.files import write_zeros
from tests.models.original import original_controlnet
from worker.engine import sampling
from worker.errors import ConfigurationError
from worker.jobs.facts import ControlFacts
from worker.models.checkpoint import Checkpoint
from worker.models.registry import identify

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def written(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one net that fits; nobody changes it."""
    nets = tmp_path_factory.mktemp("nets")
    write_controlnet(nets / "edges", tiny)
    return nets


@pytest.fixture
def nets(written: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return Path(shutil.copytree(written, tmp_path / "nets"))


def offered(model: Path, nets: Path) -> dict[str, ControlFacts]:
    checkpoint: Checkpoint = identify(str(model), dtype="float32", samplers=tuple(sampling.SAMPLERS))
    facts = checkpoint.with_controls(nets).facts.controls
    assert [one.name for one in facts] == sorted(one.name for one in facts)
    for one in facts:
        assert one.fits == (one.reason is None)
        assert str(nets.parent) not in (one.reason or ""), "no place is told"
    return {one.name: one for one in facts}


def reason(model: Path, nets: Path, name: str = "edges") -> str:
    told = offered(model, nets)[name].reason
    assert told is not None
    return told


def change(nets: Path, **changes: Any) -> None:
    file = nets / "edges/config.json"
    file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | changes), encoding="utf-8")


def test_folders_and_files_wherever_they_lie(tiny: Path, nets: Path) -> None:
    write_controlnet(nets / "sd/below/depth", tiny)
    shutil.copy(nets / "edges" / WEIGHTS, nets / "sd/lines.v1.safetensors")
    facts = offered(tiny, nets)
    assert list(facts) == ["depth", "edges", "lines.v1"]
    assert all(one.fits for one in facts.values())


def test_no_folder(tiny: Path, nets: Path) -> None:
    for wrong in (nets / "none", nets / "edges/config.json"):
        with pytest.raises(ConfigurationError, match=r"^--control-dir is no folder$"):
            offered(tiny, wrong)


def test_the_original_layout_with_a_model_around_it_or_not(tiny: Path, tmp_path: Path) -> None:
    net = make_controlnet(tiny, conditioning_embedding_out_channels=(4, 8))
    tensors = original_controlnet(net.state_dict(), net.config)
    save_file(tensors, tmp_path / "plain.safetensors")
    around = {f"control_model.{name}": tensor for name, tensor in tensors.items()}
    first = next(iter(tensors.values()))
    save_file(around | {"model.diffusion_model.out.2.bias": first.clone()}, tmp_path / "whole.safetensors")
    assert all(one.fits for one in offered(tiny, tmp_path).values())


def test_what_is_no_whole_net_or_pools_by_its_name(tiny: Path, nets: Path) -> None:
    weights = nets / "edges" / WEIGHTS
    for name in ("control_v11e_sd15_shuffle", "control_v11e_sd15_shuffle_fp16"):
        shutil.copy(weights, nets / f"{name}.safetensors")
        told = "by its name it pools over the whole picture (global_pool_conditions), which is not served"
        assert reason(tiny, nets, name) == told
    net = make_controlnet(tiny, conditioning_embedding_out_channels=(4, 8))
    tensors = {f"control_model.{name}": one for name, one in original_controlnet(net.state_dict(), net.config).items()}
    save_file(tensors | {"difference": torch.zeros(1)}, nets / "less.safetensors")
    assert reason(tiny, nets, "less") == (
        "its weights are differences from those of a model (a difference ControlNet); not served"
    )


def test_of_another_family(tiny: Path, nets: Path, tmp_path: Path) -> None:
    sdxl = write_sdxl(tmp_path / "sdxl")
    write_controlnet(nets / "large", sdxl)
    told = offered(tiny, nets)
    assert (told["large"].family, told["large"].reason) == (
        "sdxl",
        "it reads texts of width 64, and the model's have 32",
    )
    assert reason(sdxl, nets) == "it reads texts of width 32, and the model's have 64"
    assert offered(sdxl, nets)["large"].fits
    sd3 = write_sd3(tmp_path / "sd3", with_t5=False)
    assert reason(sd3, nets) == "ControlNets for models of the family sd3 are not served"


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (
            {"conditioning_embedding_out_channels": (8, 8, 16)},
            "it makes its picture 4 times smaller, and the model's VAE 2 times",
        ),
        ({"conditioning_channels": 6}, "it reads pictures of 6 channels"),
    ],
)
def test_of_another_shape(tiny: Path, tmp_path: Path, config: dict[str, Any], expected: str) -> None:
    write_controlnet(tmp_path / "edges", tiny, **config)
    assert reason(tiny, tmp_path) == expected


def test_made_for_the_nine_channels_of_an_inpainting_model(tiny: Path, tiny_inpainting: Path, nets: Path) -> None:
    assert offered(tiny_inpainting, nets)["edges"].fits, "it sees the latent alone"
    write_controlnet(nets / "nine", tiny_inpainting)
    assert reason(tiny, nets, "nine") == "it reads latents of 9 channels, and the model's have 4"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"_class_name": "ControlNetUnionModel"}, "it is of the class 'ControlNetUnionModel', which is not served"),
        ({"_class_name": "FluxControlNetModel"}, "it is of the class 'FluxControlNetModel', which is not served"),
        (
            {"global_pool_conditions": True},
            "it pools over the whole picture (global_pool_conditions), which is not served",
        ),
        ({"class_embed_type": "timestep"}, "its configuration is that of another kind of model's ControlNet"),
        ({"addition_embed_type": "text_image"}, "its configuration is that of another kind of model's ControlNet"),
    ],
)
def test_classes_and_settings_that_are_not_served(
    tiny: Path, nets: Path, changes: dict[str, Any], expected: str
) -> None:
    change(nets, **changes)
    assert reason(tiny, nets) == expected
    assert offered(tiny, nets)["edges"].family == ("flux" if "Flux" in str(changes) else None)


def test_pickles_and_code_and_nothing(tiny: Path, nets: Path) -> None:
    (nets / "edges/control_net.py").touch()
    assert "holds code or pickled weights (control_net.py)" in reason(tiny, nets)
    (nets / "edges/control_net.py").unlink()
    (nets / "edges" / WEIGHTS).unlink()
    assert reason(tiny, nets) == "its folder holds no safetensors weights"


def test_damaged_weights(tiny: Path, nets: Path) -> None:
    file = nets / "edges" / WEIGHTS
    file.write_bytes(file.read_bytes()[:-1])
    assert reason(tiny, nets).endswith("ends beyond the end of the file, which is cut short")


def test_layers_that_are_missing_or_too_many(tiny: Path, nets: Path) -> None:
    file = nets / "edges" / WEIGHTS
    tensors = load_file(file)
    save_file(tensors | {"task_embedding": tensors["conv_in.bias"].clone()}, file)
    assert reason(tiny, nets) == "it holds what an ordinary ControlNet does not: task_embedding"
    save_file({name: one for name, one in tensors.items() if "controlnet_mid_block" not in name}, file)
    assert reason(tiny, nets) == "it lacks layers that every ControlNet has"
    save_file({name: one for name, one in tensors.items() if name != "controlnet_down_blocks.3.weight"}, file)
    assert reason(tiny, nets) == "its layers have other sizes than those of the model's UNet"


def test_a_file_that_is_built_otherwise_takes_a_configuration(tiny: Path, tmp_path: Path) -> None:
    config = {"transformer_layers_per_block": 2, "down_block_types": ("DownBlock2D", "DownBlock2D")}
    small = write_controlnet(tmp_path / "small", tiny, rebuilt=config)
    shutil.copy(small / WEIGHTS, tmp_path / "file.safetensors")
    facts = offered(tiny, tmp_path)
    assert facts["small"].fits
    assert (
        facts["file"].reason == "it is built otherwise than the model's UNet; that takes a folder with its config.json"
    )


def test_what_is_no_controlnet_is_named_in_the_log_and_left_out(
    tiny: Path, nets: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(tiny / "vae", nets / "vae")
    write_zeros(nets / "style.safetensors", {"lora_unet_x.lora_down.weight": (4, 4)})
    (nets / "torn.safetensors").write_bytes(b"\x80\x04")
    (nets / "broken").mkdir()
    (nets / "broken/config.json").write_text("{", encoding="utf-8")
    write_controlnet(nets / "again/edges", tiny)
    with caplog.at_level(logging.WARNING):
        assert list(offered(tiny, nets)) == ["edges"]
    said = sorted(record.getMessage() for record in caplog.records if "--control-dir" in record.getMessage())
    assert said == [
        "broken in --control-dir is not used: config.json cannot be read as JSON",
        "edges is twice in --control-dir; the second is not used",
        "style.safetensors in --control-dir is not used: it is of the kind: LoRA",
        "torn.safetensors in --control-dir is not used: it is pickled weights; only safetensors is served",
        "vae in --control-dir is not used: its configuration is of the class 'AutoencoderKL'",
    ]
