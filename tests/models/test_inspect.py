"""What `inspect` says of files and folders, as lines and as JSON, with torch left alone."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.models.files import write_zeros
from tests.models.published import write_published
from tests.models.upscalers.files import compact
from worker.models.inspect import main
from worker.models.registry import DEFAULTS_FILE

ATTENTION = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k"


def said(capsys: pytest.CaptureFixture[str], *arguments: object) -> Any:
    assert main([str(each) for each in (*arguments, "--json")]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    return json.loads(printed.out)


def lora(file: Path, width: int = 768, rank: int = 8, metadata: dict[str, str] | None = None, **more: Any) -> Path:
    shapes = {f"{ATTENTION}.lora_down.weight": (rank, width), f"{ATTENTION}.lora_up.weight": (320, rank)}
    return write_zeros(file, shapes | more, metadata=metadata)


def test_the_built_in_model(capsys: pytest.CaptureFixture[str]) -> None:
    told = said(capsys, "builtin")
    assert (told["kind"], told["family"], told["layout"]) == ("checkpoint", "sd", "diffusers folder")
    assert (told["prediction_type"], told["types"], told["served"]) == ("v_prediction", ["F16"], True)
    assert (told["defaults"]["width"], told["defaults"]["steps"], told["defaults"]["guidance_scale"]) == (128, 20, 2.5)
    assert set(told["parameters"]) == {"text_encoder", "unet", "vae"}


def test_a_published_checkpoint_in_one_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = {"modelspec.title": "A \x1b[31mmodel", "modelspec.license": "CreativeML Open RAIL++-M"}
    file = write_published(tmp_path / "x.safetensors", "sdxl", metadata=spec)
    told = said(capsys, file)
    assert (told["family"], told["variant"], told["layout"], told["types"]) == (
        "sdxl",
        "base",
        "one file",
        ["F16", "I64"],
    )
    assert told["configuration"] == "configuration and tokenizer: shipped (sdxl)"
    assert told["parameters"]["unet"] == 2_567_463_684
    assert told["metadata"] == {"title": "A [31mmodel", "license": "CreativeML Open RAIL++-M"}
    assert told["bytes"] == file.stat().st_size
    assert said(capsys, file, "--model-config", "sdxl-turbo")["variant"] == "few steps"


def test_lines_for_people(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write_published(tmp_path / "x.safetensors", "sd2")
    assert main([str(file)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("x.safetensors: checkpoint (sd 2.x, v-prediction), 2.6")
    assert "  prediction type: v_prediction" in lines
    assert "  configuration and tokenizer: shipped (sd2)" in lines
    assert "  defaults: width 768, height 768, multiple 64, steps 25, guidance scale 7.5, sampler dpmpp_2m" in lines
    assert "  served: yes" in lines


def test_why_a_checkpoint_is_not_served(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = Path(shutil.copytree(tiny, tmp_path / "model"))
    (folder / "unet/diffusion_pytorch_model.safetensors").unlink()
    told = said(capsys, folder)
    assert (told["served"], told["why_not"]) == (False, "the model has no safetensors weights for its unet")
    scheduler = folder / "scheduler/scheduler_config.json"
    scheduler.write_text(scheduler.read_text(encoding="utf-8").replace("scaled_linear", "wavy"), encoding="utf-8")
    told = said(capsys, folder)
    why_not = "the model's scheduler configuration is not supported: beta_schedule 'wavy'"
    assert (told["served"], told["why_not"]) == (False, why_not)
    (folder / "vae/hook.py").write_text("")
    assert "hook.py" in said(capsys, folder)["why_not"]


@pytest.mark.parametrize("defaults", [{"sampler": "flow_euler"}, {"steps": 151}, {"guidance_scale": float("inf")}])
def test_defaults_that_mean_nothing_are_told_and_not_shown(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], defaults: dict[str, object]
) -> None:
    folder = Path(shutil.copytree(tiny, tmp_path / "model"))
    (folder / DEFAULTS_FILE).write_text(json.dumps({"width": 96, "sampler": "lms"}), encoding="utf-8")
    told = said(capsys, folder)
    assert (told["served"], told["defaults"]["width"], told["defaults"]["sampler"]) == (True, 96, "lms")
    (folder / DEFAULTS_FILE).write_text(json.dumps(defaults), encoding="utf-8")
    told, (name,) = said(capsys, folder), defaults
    assert (told["served"], told["why_not"]) == (False, f"{DEFAULTS_FILE}: {name!r} is no default that can be used")
    assert (told["defaults"]["steps"], told["defaults"]["sampler"]) == (25, "dpmpp_2m")


@pytest.mark.parametrize(("width", "family"), [(768, "sd"), (1024, "sd"), (2048, "sdxl"), (5, None)])
def test_a_lora_of_kohya(tmp_path: Path, capsys: pytest.CaptureFixture[str], width: int, family: str | None) -> None:
    metadata = {
        "modelspec.trigger_phrase": "sks style, by sks",
        "ss_tag_frequency": json.dumps({"10_sks": {"sks style": 40, "tree": 7}, "5_more": {"tree": 2}}),
    }
    text = {"lora_te_text_model_encoder_layers_0_mlp_fc1.lora_down.weight": (4, 768)}
    told = said(capsys, lora(tmp_path / "x.safetensors", width, metadata=metadata, **text))
    assert (told["kind"], told["family"], told["layout"], told["ranks"]) == ("LoRA", family, "kohya", [4, 8])
    assert told["text_encoder"] is True
    assert told["trigger_words"] == ["sks style", "by sks"]
    assert told["frequent_tags"] == ["sks style", "tree"]


@pytest.mark.parametrize(
    ("names", "family", "layout"),
    [
        (
            {"unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k.lora_A.weight": (8, 2048)},
            "sdxl",
            "diffusers",
        ),
        ({"transformer.single_transformer_blocks.0.attn.to_q.lora_A.weight": (16, 3072)}, "flux", "diffusers"),
        ({"transformer.transformer_blocks.0.attn.to_q.lora_A.weight": (16, 3072)}, "flux", "diffusers"),
        ({"transformer.transformer_blocks.0.attn.to_q.lora_A.weight": (16, 1536)}, "sd3", "diffusers"),
        ({"lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight": (16, 3072)}, "flux", "kohya"),
        ({"lora_te2_text_model_encoder_layers_0_mlp_fc1.lora_down.weight": (16, 1280)}, "sdxl", "kohya"),
        ({"lora_unet_mid_block_resnets_0_conv1.lora_down.weight": (16, 1280, 3, 3)}, None, "kohya"),
        (
            {"text_encoder.text_model.encoder.layers.0.mlp.fc1.lora_linear_layer.down.weight": (8, 768)},
            None,
            "diffusers",
        ),
        ({"lora_unet_mid_block_x.hada_w1_a": (640, 16), "lora_unet_mid_block_x.hada_w1_b": (16, 640)}, None, "LyCORIS"),
    ],
)
def test_what_a_lora_is_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], names: Any, family: str | None, layout: str
) -> None:
    told = said(capsys, write_zeros(tmp_path / "x.safetensors", names))
    assert (told["kind"], told["family"], told["layout"]) == ("LoRA", family, layout)
    assert told["ranks"] in ([8], [16])


@pytest.mark.parametrize(
    ("key", "text", "family"),
    [
        ("ss_base_model_version", "sd_v1", "sd"),
        ("ss_base_model_version", "sdxl_base_v1-0", "sdxl"),
        ("ss_base_model_version", "flux1", "flux"),
        ("ss_base_model_version", "sd3m", "sd3"),
        ("modelspec.architecture", "stable-diffusion-v1/lora", "sd"),
        ("modelspec.architecture", "stable-diffusion-xl-v1-base/lora", "sdxl"),
        ("modelspec.architecture", "flux-1-dev/lora", "flux"),
        ("modelspec.architecture", "a poem", None),
    ],
)
def test_what_its_trainer_wrote_down_helps_where_shapes_do_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], key: str, text: str, family: str | None
) -> None:
    names = {"lora_unet_mid_block_resnets_0_conv1.lora_down.weight": (16, 1280, 3, 3)}
    told = said(capsys, write_zeros(tmp_path / "x.safetensors", names, metadata={key: text}))
    assert told["family"] == family


@pytest.mark.parametrize("tags", ["{", "[]", '{"a": 1}', '{"a": {"b": "c"}}', '{"a": {"b": 1e999}}', "null"])
def test_tags_that_mean_nothing_are_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str], tags: str) -> None:
    assert said(capsys, lora(tmp_path / "x.safetensors", metadata={"ss_tag_frequency": tags}))["frequent_tags"] == []


def test_controlnets(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    key = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight"
    names = {"controlnet_cond_embedding.conv_in.weight": (16, 3, 3, 3), key: (320, 768)}
    told = said(capsys, write_zeros(tmp_path / "x.safetensors", names))
    assert (told["kind"], told["family"], told["parameters"]) == ("ControlNet", "sd", {"file": 432 + 245_760})
    small = names | {"add_embedding.linear_1.weight": (2, 2)}
    assert said(capsys, write_zeros(tmp_path / "y.safetensors", small))["family"] == "sdxl"
    folder = tmp_path / "canny"
    write_zeros(folder / "diffusion_pytorch_model.safetensors", names)
    config = {"_class_name": "ControlNetModel", "cross_attention_dim": 768}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    told = said(capsys, folder)
    assert (told["kind"], told["family"], told["layout"]) == ("ControlNet", "sd", "diffusers folder")
    (folder / "config.json").write_text(json.dumps({"_class_name": "BertModel"}), encoding="utf-8")
    assert main([str(folder)]) == 2
    assert capsys.readouterr().err == (
        "inspect: a folder with the configuration of 'BertModel', which is not known here\n"
    )


def test_other_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write_zeros(tmp_path / "x.safetensors", {"emb_params": (4, 768)})
    assert said(capsys, file)["vectors"] == 4
    for shapes, vectors in (
        ({"my-style": (3, 768)}, 3),
        ({"<word>": (768,)}, 1),
        ({"clip_l": (2, 8), "clip_g": (2, 9)}, 2),
    ):
        told = said(capsys, write_zeros(file, shapes))
        assert (told["kind"], told["vectors"]) == ("textual inversion", vectors)
    file = write_zeros(file, {"encoder.conv_in.weight": (2, 3, 3, 3), "decoder.conv_in.weight": (2, 4, 3, 3)})
    assert said(capsys, file)["kind"] == "VAE"
    file = write_zeros(file, {"joint_blocks.0.x_block.mlp.fc1.weight": (2, 2)})
    assert said(capsys, file)["kind"] == "SD 3 in one file"
    file = write_zeros(file, {name: tuple(tensor.shape) for name, tensor in compact(scale=2).items()})
    told = said(capsys, file)
    assert (told["kind"], told["network"], told["scale"]) == ("upscaler", "Real-ESRGAN, compact", 2)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"GGUF" + bytes(60), "the file is a GGUF file; only safetensors is served"),
        (b"\x80\x02}q\x00." + bytes(60), "the file is pickled weights; only safetensors is served"),
        (b"\x40\0\0\0\0\0\0\0{", "the file is no safetensors file: it is too short for one"),
    ],
)
def test_a_file_that_cannot_be_told_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes, told: str
) -> None:
    file = tmp_path / "model.ckpt"
    file.write_bytes(content)
    assert main([str(file)], "sd-worker-cpu inspect") == 2
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", f"sd-worker-cpu inspect: {told}\n")


def test_nothing_known_and_nothing_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(write_zeros(tmp_path / "x.safetensors", {"a": (1,), "b": (1,)}))]) == 2
    assert "of nothing that is known here" in capsys.readouterr().err
    assert main([str(tmp_path / "nowhere")]) == 2
    assert "model_index.json is not there" in capsys.readouterr().err


def test_the_checksum_is_what_serving_asks_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = lora(tmp_path / "x.safetensors")
    assert said(capsys, file, "--sha256")["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert len(said(capsys, "builtin", "--sha256")["sha256"]) == 64
