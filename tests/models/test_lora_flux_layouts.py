"""LoRA for FLUX as kohya's scripts and XLabs write it: at the real model's sizes, of which no weight is made."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import FluxTransformer2DModel
from safetensors.torch import save_file

from worker.models.file_kind import FileKind, kind_of
from worker.models.lora_file import read_lora
from worker.models.loras.folder import Fit, Loras
from worker.models.loras.layers import Layer, LowRank
from worker.models.loras.weights import read_weights
from worker.models.safetensors_header import read_header

WIDTH, RANK, INPUTS = 3072, 2, 16
FUSED = {"qkv": 3 * WIDTH, "linear1": 3 * WIDTH + 4 * WIDTH}


@pytest.fixture(scope="module")
def transformer() -> FluxTransformer2DModel:
    """As published, on no device."""
    with torch.device("meta"):
        return FluxTransformer2DModel(guidance_embeds=True)


def factors(out: int, inside: int = WIDTH, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn((RANK, inside), generator=generator), torch.randn((out, RANK), generator=generator)


def read(folder: Path, transformer: FluxTransformer2DModel) -> dict[str, LowRank]:
    """What the file in the folder changes, by the layers' names."""
    loras = Loras.in_folder(folder, Fit("flux", None))
    [facts] = loras.facts
    assert (facts.base_model, facts.fits) == ("flux", True), facts
    parts = {"transformer": transformer}
    found, unknown = read_weights(loras.get(facts.name), "flux", parts, torch.device("cpu"), torch.float32)
    assert unknown == 0
    names: dict[Layer, str] = {one: name for name, one in transformer.named_modules() if isinstance(one, Layer)}
    return {names[layer]: weights for layer, weights in found["transformer"].items()}


def product(up: torch.Tensor, down: torch.Tensor) -> torch.Tensor:
    """What is added to the weights, of the first inputs alone: the whole takes seconds."""
    return up @ down[:, :INPUTS]


def test_kohya(tmp_path: Path, transformer: FluxTransformer2DModel) -> None:
    layers = {
        "double_blocks_3_img_attn_qkv": factors(FUSED["qkv"], seed=1),
        "double_blocks_3_txt_attn_qkv": factors(FUSED["qkv"], seed=2),
        "double_blocks_3_img_attn_proj": factors(WIDTH, seed=3),
        "double_blocks_3_img_mlp_0": factors(4 * WIDTH, seed=4),
        "double_blocks_3_img_mod_lin": factors(6 * WIDTH, seed=5),
        "single_blocks_7_linear1": factors(FUSED["linear1"], seed=6),
        "single_blocks_7_linear2": factors(WIDTH, 5 * WIDTH, seed=7),
    }
    tensors = {}
    for name, (down, up) in layers.items():
        alpha = torch.tensor(RANK / 2.0)  # which halves it
        place = f"lora_unet_{name}"
        tensors |= {f"{place}.lora_down.weight": down, f"{place}.lora_up.weight": up, f"{place}.alpha": alpha}
    save_file(tensors, tmp_path / "kohya.safetensors")
    found = read(tmp_path, transformer)
    half = {name: 0.5 * product(up, down) for name, (down, up) in layers.items()}

    def check(name: str, expected: torch.Tensor) -> None:
        weights = found.pop(name)
        assert torch.allclose(product(weights.up, weights.down), expected, atol=1e-4), name

    double, single = "transformer_blocks.3", "single_transformer_blocks.7"
    for fused, names in (("img", ("to_q", "to_k", "to_v")), ("txt", ("add_q_proj", "add_k_proj", "add_v_proj"))):
        for name, expected in zip(names, half[f"double_blocks_3_{fused}_attn_qkv"].split(WIDTH), strict=True):
            check(f"{double}.attn.{name}", expected)
    check(f"{double}.attn.to_out.0", half["double_blocks_3_img_attn_proj"])
    check(f"{double}.ff.net.0.proj", half["double_blocks_3_img_mlp_0"])
    check(f"{double}.norm1.linear", half["double_blocks_3_img_mod_lin"])
    *attention, mlp = half["single_blocks_7_linear1"].split([WIDTH, WIDTH, WIDTH, 4 * WIDTH])
    for name, expected in zip(("to_q", "to_k", "to_v"), attention, strict=True):
        check(f"{single}.attn.{name}", expected)
    check(f"{single}.proj_mlp", mlp)
    check(f"{single}.proj_out", half["single_blocks_7_linear2"])
    assert found == {}


def test_xlabs(tmp_path: Path, transformer: FluxTransformer2DModel) -> None:
    place = "double_blocks.5.processor"
    down, up = factors(FUSED["qkv"], seed=1)
    proj_down, proj_up = factors(WIDTH, seed=2)
    tensors = {
        f"{place}.qkv_lora1.down.weight": down,
        f"{place}.qkv_lora1.up.weight": up,
        f"{place}.proj_lora2.down.weight": proj_down,
        f"{place}.proj_lora2.up.weight": proj_up,
    }
    save_file(tensors, file := tmp_path / "xlabs.safetensors")
    header = read_header(file)
    assert kind_of(header) is FileKind.LORA, "and no FLUX, whose names begin so too"
    assert read_lora(header).layout == "XLabs"
    found = read(tmp_path, transformer)
    attention = "transformer_blocks.5.attn"
    expected = dict(zip(("to_q", "to_k", "to_v"), up.split(WIDTH), strict=True))
    for name, own in expected.items():
        weights = found.pop(f"{attention}.{name}")
        assert torch.equal(weights.up, own)
        assert torch.equal(weights.down, down)
    text = found.pop(f"{attention}.to_add_out")
    assert torch.equal(text.up, proj_up)
    assert torch.equal(text.down, proj_down)
    assert found == {}
