"""A folder of LoRA files, read by their headers: names, words, and why one does not fit."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.models.files import write_zeros
from worker.errors import ConfigurationError, InvalidInput
from worker.jobs.facts import LoraFacts
from worker.models.loras.folder import Fit, Loras

TO_K = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
TO_Q = "lora_te_text_model_encoder_layers_0_self_attn_q_proj"
SD = Fit("sd", 768, {"text_encoder": 768})
SDXL = Fit("sdxl", 2048, {"text_encoder": 768, "text_encoder_2": 1280})


def kohya(name: str, width: int, rank: int = 4) -> dict[str, tuple[int, ...]]:
    return {f"{name}.lora_down.weight": (rank, width), f"{name}.lora_up.weight": (320, rank), f"{name}.alpha": ()}


def test_a_file_tells_its_name_its_words_and_its_base(tmp_path: Path) -> None:
    words = {"modelspec.trigger_phrase": "crayon drawing, by hand"}
    written = write_zeros(tmp_path / "styles/crayon.v2.safetensors", kohya(TO_K, 768), metadata=words)
    tags = {"ss_tag_frequency": json.dumps({"10_dog": {"dog": 9, "grass": 4}})}
    write_zeros(tmp_path / "dog.safetensors", kohya(TO_K, 768), metadata=tags)
    one, other = Loras.in_folder(tmp_path, SD).facts
    assert (one.name, one.trigger_words) == ("dog", ("dog", "grass"))
    assert other == LoraFacts(
        "styles/crayon.v2", ("crayon drawing", "by hand"), "sd", True, None, written.stat().st_size
    )


@pytest.mark.parametrize(
    ("fit", "shapes", "reason"),
    [
        (SD, kohya(TO_K, 2048), "it was made for sdxl, and the model is sd"),
        (SDXL, kohya(TO_K, 768), "it was made for sd, and the model is sdxl"),
        (SD, kohya(TO_K, 1024), "it reads text 1024 wide, and the model's is 768"),
        (SD, kohya(TO_Q, 1024), "its text_encoder is 1024 wide, and the model's is 768"),
        (
            SDXL,
            {"text_encoder_2.text_model.encoder.layers.0.mlp.fc1.lora_A.weight": (4, 768)},
            "its text_encoder_2 is 768 wide, and the model's is 1280",
        ),
        (
            SD,
            {"transformer.single_transformer_blocks.0.attn.to_q.lora_A.weight": (4, 3072)},
            "it was made for flux, and the model is sd",
        ),
        (SD, {f"{TO_K}.hada_w1_a": (320, 4), f"{TO_K}.hada_w1_b": (4, 768)}, "LyCORIS"),
        (SD, kohya(TO_K, 768) | {f"{TO_K}.dora_scale": (320, 1)}, "DoRA"),
        (SD, kohya(TO_K, 768) | {f"{TO_K}.lora_mid.weight": (4, 4, 3, 3)}, "Tucker"),
        (SD, kohya(TO_K, 768) | {f"{TO_K}.diff_b": (320,)}, "whole weights"),
        (SD, kohya(TO_K, 768) | {"lora_unet_conv_norm_out.w_norm": (320,)}, "whole weights"),
        (Fit("sd3", None), kohya("lora_unet_joint_blocks_0_x_block_attn_proj", 1536), "kohya's layout"),
    ],
)
def test_what_does_not_fit_is_told_with_its_reason(
    tmp_path: Path, fit: Fit, shapes: dict[str, tuple[int, ...]], reason: str
) -> None:
    write_zeros(tmp_path / "one.safetensors", shapes)
    loras = Loras.in_folder(tmp_path, fit)
    [facts] = loras.facts
    assert not facts.fits
    assert reason in str(facts.reason)
    with pytest.raises(InvalidInput, match=f"^The LoRA one does not fit the model: .*{reason}"):
        loras.get("one")


def test_weights_that_nothing_computes_with_do_not_fit(tmp_path: Path) -> None:
    write_zeros(tmp_path / "one.safetensors", kohya(TO_K, 768), dtype="F8_E4M3")
    assert Loras.in_folder(tmp_path, SD).facts[0].reason == "its weights are of type F8_E4M3, which is not served"


def test_a_whole_number_for_an_alpha_is_one(tmp_path: Path) -> None:
    tensors = {f"{TO_K}.lora_down.weight": torch.zeros(4, 768), f"{TO_K}.lora_up.weight": torch.zeros(320, 4)}
    save_file(tensors | {f"{TO_K}.alpha": torch.tensor(4)}, tmp_path / "one.safetensors")
    assert Loras.in_folder(tmp_path, SD).facts[0].fits


def test_what_tells_nothing_may_fit(tmp_path: Path) -> None:
    write_zeros(tmp_path / "one.safetensors", kohya("lora_unet_conv_in", 4))
    [facts] = Loras.in_folder(tmp_path, SD).facts
    assert facts.fits
    assert facts.base_model is None


def test_what_is_no_lora_is_left_out_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_zeros(tmp_path / "vae.safetensors", {"decoder.conv_in.weight": (4, 4)})
    (tmp_path / "broken.safetensors").write_bytes(b"\x80pickle, and more of it than a header")
    (tmp_path / "notes.txt").write_text("x")
    with caplog.at_level(logging.WARNING):
        loras = Loras.in_folder(tmp_path, SD)
    assert loras.facts == ()
    assert "vae in --lora-dir is not used: it is no LoRA" in caplog.text
    assert "in --lora-dir, broken is no safetensors file" in caplog.text
    assert str(tmp_path) not in caplog.text
    with pytest.raises(InvalidInput, match=r"^There is no LoRA of the name 'vae'$"):
        loras.get("vae")


def test_there_must_be_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"^--lora-dir is no folder$"):
        Loras.in_folder(tmp_path / "nowhere", SD)
