"""Every kind of model that is refused, at the launcher: one line, status 2, no path in it; and each is in the docs."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.models.files import write_zeros
from tests.models.published import write_published
from tests.test_main import Refusal, launch, model, refusal

__all__ = ["model", "refusal"]

UNET = "unet/diffusion_pytorch_model.safetensors"
FIRST = "model.diffusion_model.input_blocks.0.0.weight"
DOCS = (Path(__file__).parents[1] / "docs/checkpoints.md").read_text(encoding="utf-8")


def pickled(file: Path) -> Path:
    torch.save({"state_dict": {"w": torch.zeros(4)}}, file)
    return file


def cut(file: Path) -> Path:
    os.truncate(file, file.stat().st_size - 1)
    return file


def corrupted(file: Path) -> Path:
    with file.open("r+b") as stream:
        stream.seek(8)
        stream.write(b'{"')
        stream.write(b"\xff" * 6)
    return file


def of_class(folder: Path, name: str) -> None:
    index = {"_class_name": "StableDiffusionPipeline", "vae": ["diffusers", name]}
    (folder / "model_index.json").write_text(json.dumps(index), encoding="utf-8")


IN_FOLDER: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "pickle": (
        lambda folder: pickled(folder / "unet/diffusion_pytorch_model.bin"),
        r"the model folder holds code or pickled weights \(diffusion_pytorch_model.bin\); only safetensors is served",
        "the model folder holds code or pickled weights",
    ),
    "pickle under a safe name": (
        lambda folder: pickled(folder / UNET),
        rf"{UNET} is pickled weights in a zip file \(PyTorch's format\); only safetensors is served",
        "is pickled weights in a zip file (PyTorch's format)",
    ),
    "code": (
        lambda folder: (folder / "unet/modeling.py").write_text("raise SystemExit"),
        r"the model folder holds code or pickled weights \(modeling.py\); only safetensors is served",
        "the model folder holds code or pickled weights",
    ),
    "unknown pipeline": (
        lambda folder: (folder / "model_index.json").write_text('{"_class_name": "MyPipeline"}'),
        "'MyPipeline' is not a pipeline that this worker serves",
        "is not a pipeline that this worker serves",
    ),
    "unknown class": (
        lambda folder: of_class(folder, "MyVae"),
        "the model's vae is of the class 'MyVae', which is not served",
        "the model's vae is of the class",
    ),
    "truncated": (
        lambda folder: cut(folder / UNET),
        f"{UNET} is a damaged safetensors file: conv_in.weight ends beyond the end of the file, which is cut short",
        "is a damaged safetensors file: ",
    ),
    "corrupt": (
        lambda folder: corrupted(folder / UNET),
        f"{UNET} is a damaged safetensors file: its header is no UTF-8",
        "is a damaged safetensors file: ",
    ),
    "wrong type": (
        lambda folder: write_zeros(folder / UNET, {"conv_in.weight": (32, 4, 3, 3)}, dtype="F8_E4M3"),
        r"the weights of unet are of type F8_E4M3 \(conv_in.weight\); only F16, BF16, F32, F64 can be computed with",
        "the weights of unet are of type F8_E4M3",
    ),
    "too large": (
        lambda folder: write_zeros(folder / UNET, {"conv_in.weight": (10**6, 10**6)}, dtype="F32"),
        r"not enough memory: the model's weights take 4000\.0 GB in float32, and \d+\.\d GB are free",
        "not enough memory: the model's weights take",
    ),
}
IN_ONE_FILE: dict[str, tuple[Callable[[Path], Path], str, str]] = {
    "pickle": (
        lambda folder: pickled(folder / "model.ckpt"),
        "the file is no safetensors file by its name; only safetensors is served",
        "the file is no safetensors file by its name",
    ),
    "pickle under a safe name": (
        lambda folder: pickled(folder / "model.safetensors"),
        r"the file is pickled weights in a zip file \(PyTorch's format\); only safetensors is served",
        "is pickled weights in a zip file (PyTorch's format)",
    ),
    "unknown class": (
        lambda folder: write_zeros(folder / "model.safetensors", {"conv1.weight": (2, 2)}),
        "the file is no checkpoint that this worker knows",
        "the file is no checkpoint that this worker knows",
    ),
    "another kind": (
        lambda folder: write_zeros(folder / "model.safetensors", {"joint_blocks.0.x_block.attn.qkv.weight": (2, 2)}),
        "the file is SD 3 in one file; that family is served from a diffusers folder",
        "the file is SD 3 in one file; that family is served from a diffusers folder",
    ),
    "truncated": (
        lambda folder: cut(write_published(folder / "model.safetensors", "sd1")),
        "the file is a damaged safetensors file: .* ends beyond the end of the file, which is cut short",
        "is a damaged safetensors file: ",
    ),
    "corrupt": (
        lambda folder: corrupted(write_published(folder / "model.safetensors", "sd1")),
        "the file is a damaged safetensors file: its header is no UTF-8",
        "is a damaged safetensors file: ",
    ),
    "wrong type": (
        lambda folder: write_published(folder / "model.safetensors", "sd1", types={FIRST: "F8_E4M3"}),
        rf"the weights of unet are of type F8_E4M3 \({FIRST}\); only F16, BF16, F32, F64 can be computed with",
        "the weights of unet are of type F8_E4M3",
    ),
    "too large": (
        lambda folder: write_published(
            folder / "model.safetensors", "sd1", more={"model.diffusion_model.more.weight": (10**6, 10**6)}
        ),
        r"not enough memory: the model's weights take 40\d\d\.\d GB in float32, and \d+\.\d GB are free",
        "not enough memory: the model's weights take",
    ),
}


@pytest.mark.parametrize("what", IN_FOLDER)
def test_a_folder(refusal: Refusal, model: Path, what: str) -> None:
    spoil, line, documented = IN_FOLDER[what]
    spoil(model)
    said = refusal("--model", str(model), "--dtype", "float32")
    assert re.fullmatch(line, said), said
    assert str(model.parent) not in said
    assert documented in DOCS


@pytest.mark.parametrize("what", IN_ONE_FILE)
def test_one_file(refusal: Refusal, tmp_path: Path, what: str) -> None:
    make, line, documented = IN_ONE_FILE[what]
    said = refusal("--model", str(make(tmp_path)), "--dtype", "float32")
    assert re.fullmatch(line, said), said
    assert str(tmp_path) not in said
    assert documented in DOCS


def test_another_checksum(refusal: Refusal, model: Path) -> None:
    line = r"the model is not the one that --model-sha256 names: its checksum is [0-9a-f]{64}"
    assert re.fullmatch(line, refusal("--model", str(model), "--model-sha256", "0" * 64))
    assert "the model is not the one that --model-sha256 names" in DOCS


def test_what_only_shows_while_it_is_loaded(model: Path) -> None:
    status, out, err = launch("cpu", "--port", "0", "--model", str(model))
    _, last = err.splitlines()  # the first says where it listens
    assert (status, out) == (2, "")
    assert last == "sd-worker-cpu: the model's weights cannot be loaded (RuntimeError)"
    assert "the model's weights cannot be loaded" in DOCS
