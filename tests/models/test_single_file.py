"""Checkpoints in one file: told by what is in them, drawn as the folder is, refused in one line."""

from __future__ import annotations

import hashlib
import json
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from shared_worker.device import find_device
from tests.models.drawing import draw
from tests.models.files import write_zeros
from tests.models.original import original_clip, original_open_clip, write_original
from tests.models.published import shapes, write_published
from tests.models.tiny import psnr_db
from tests.schedulers import SCHEDULERS
from worker.errors import ModelUnusable
from worker.models.checkpoint import Checkpoint
from worker.models.conversion import convert_part
from worker.models.parts import load_tokenizer
from worker.models.registry import family_of, identify, open_source
from worker.models.single_file import OPEN_CLIP, XL_CLIP, XL_OPEN_CLIP, SingleFile

SAMPLERS = tuple(SCHEDULERS)
FIRST = "model.diffusion_model.input_blocks.0.0.weight"
SAME_DB = 60


@pytest.fixture(scope="module")
def single(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model in one file; nobody changes it."""
    return write_original(tiny, tmp_path_factory.mktemp("single") / "anything.safetensors")


@pytest.fixture
def spoilt(single: Path, tmp_path: Path) -> Callable[[Callable[[dict[str, torch.Tensor]], object]], Path]:
    """A copy of it whose tensors a test changes."""

    def spoil(change: Callable[[dict[str, torch.Tensor]], object]) -> Path:
        tensors = load_file(single)
        change(tensors)
        save_file(tensors, file := tmp_path / "spoilt.safetensors")
        return file

    return spoil


def recognise(file: Path, config: Path | str | None = None, **how: Any) -> Checkpoint:
    return identify(str(file), dtype="float32", samplers=SAMPLERS, config=str(config) if config else None, **how)


def load(file: Path, config: Path) -> None:
    recognise(file, config).load(find_device("cpu"), lambda share: None)


def refusal(attempt: Callable[..., object], *arguments: Any) -> str:
    with pytest.raises(ModelUnusable) as refused:
        attempt(*arguments)
    told = refused.value.detail
    assert "\n" not in told
    assert "/tmp" not in told  # noqa: S108 - looked for, not written to
    return told


# Loaded


def test_a_file_draws_what_the_folder_draws(tiny: Path, single: Path) -> None:
    of_folder, of_file = recognise(tiny), recognise(single, tiny)
    assert of_file.facts.id == "anything"
    assert of_file.source.told == f"configuration and tokenizer: from --model-config ({tiny.name})"
    picture = draw(of_folder)
    assert picture.std() > 50
    assert psnr_db(picture, draw(of_file)) >= SAME_DB


def test_it_is_loaded_without_a_network(
    tiny: Path, single: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def refuse(*arguments: object, **options: object) -> NoReturn:
        asked.append(str(arguments))
        raise OSError("there is no network")

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    assert draw(recognise(single, tiny)).std() > 50
    shipped = recognise(write_published(tmp_path / "x.safetensors", "sd1"))
    assert len(load_tokenizer(shipped, "tokenizer", CLIPTokenizer)) == 49408
    assert asked == []


def test_what_a_file_keeps_beside_the_model_is_not_read(tiny: Path, spoilt: Any) -> None:
    """Averages of training, a loss's own weights: nothing of that is the model."""

    def add(tensors: dict[str, torch.Tensor]) -> None:
        tensors["model_ema.diffusion_modelinput_blocks00weight"] = torch.full((4,), float("nan"))
        tensors["loss.logvar"] = torch.tensor(0.0)
        tensors["global_step"] = torch.tensor(470_000)

    assert psnr_db(draw(recognise(tiny)), draw(recognise(spoilt(add), tiny))) >= SAME_DB


@pytest.mark.parametrize(
    ("part", "cls", "prefix", "write"),
    [
        ("text_encoder", CLIPTextModel, XL_CLIP, original_clip),
        ("text_encoder", CLIPTextModel, OPEN_CLIP, original_open_clip),
        ("text_encoder_2", CLIPTextModelWithProjection, XL_OPEN_CLIP, original_open_clip),
    ],
)
def test_every_text_encoder_says_the_same_from_a_file(
    tmp_path: Path, tiny: Path, single: Path, part: str, cls: Any, prefix: str, write: Any
) -> None:
    config = CLIPTextConfig(
        vocab_size=99,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        projection_dim=32,
        bos_token_id=97,
        eos_token_id=98,
        pad_token_id=0,
    )
    with torch.random.fork_rng():
        torch.manual_seed(7)
        encoder = cls(config).eval()
    folder = Path(shutil.copytree(tiny, tmp_path / "configs"))
    encoder.save_pretrained(folder / part)
    unet = {name: one for name, one in load_file(single).items() if name.startswith("model.")}
    written = {name: one.contiguous() for name, one in write(encoder.state_dict(), prefix).items()}
    save_file(unet | written, file := tmp_path / "x.safetensors")
    loaded, missing = convert_part(SingleFile(file, str(folder)), part, cls, torch.float32)
    assert not missing
    tokens = torch.tensor([[97, 5, 6, 7, 98, 0, 0]])
    with torch.inference_mode():
        for mine, its in zip(loaded(tokens).to_tuple(), encoder(tokens).to_tuple(), strict=True):
            assert torch.equal(mine, its)


# Told by what is in it


@pytest.mark.parametrize(
    ("kind", "family", "variant", "side"),
    [
        ("sd1", "sd", "1.x", 512),
        ("sd1-inpainting", "sd", "inpainting", 512),
        ("sd2", "sd", "2.x, v-prediction", 768),
        ("sd2-inpainting", "sd", "inpainting", 512),
        ("sdxl", "sdxl", "base", 1024),
        ("sdxl-inpainting", "sdxl", "inpainting", 1024),
    ],
)
def test_a_published_file_is_known_by_its_header(
    tmp_path: Path, kind: str, family: str, variant: str, side: int
) -> None:
    source = open_source(str(write_published(tmp_path / "no name.safetensors", kind)))
    found = family_of(source)
    assert (found.name, found.variant) == (family, variant)
    assert source.told == f"configuration and tokenizer: shipped ({kind})"
    facts = recognise(tmp_path / "no name.safetensors").facts
    assert (facts.id, facts.family, facts.width) == ("no name", family, side)


@pytest.mark.parametrize("link", ["current", "current.safetensors"])
def test_behind_a_link_it_has_its_own_name(tmp_path: Path, link: str) -> None:
    (tmp_path / link).symlink_to(write_published(tmp_path / "its own.safetensors", "sd1").name)
    assert recognise(tmp_path / link).facts.id == "its own"


def test_what_a_link_with_the_ending_leads_to_needs_none(tmp_path: Path) -> None:
    """As in the cache of Hugging Face."""
    (tmp_path / "model.safetensors").symlink_to(write_published(tmp_path / "0123abcd", "sd1").name)
    assert recognise(tmp_path / "model.safetensors").facts.id == "model"


@pytest.mark.parametrize(
    ("kind", "widths"),
    [
        ("sd1", {"text_encoder": 768}),
        ("sd2", {"text_encoder": 1024}),
        ("sdxl", {"text_encoder": 768, "text_encoder_2": 1280}),
    ],
)
def test_embeddings_and_loras_are_held_against_its_text_encoders(
    tmp_path: Path, kind: str, widths: dict[str, int]
) -> None:
    keys = ("emb_params",) if len(widths) == 1 else ("clip_l", "clip_g")
    for name, more in (("fits", 0), ("wider", 8)):
        shapes = {key: (2, width + more) for key, width in zip(keys, widths.values(), strict=True)}
        write_zeros(tmp_path / f"embeddings/{name}.safetensors", shapes)
    for part, width in widths.items():
        down = f"{part}.text_model.encoder.layers.0.mlp.fc1.lora_A.weight"
        write_zeros(tmp_path / f"loras/{part}.safetensors", {down: (4, width)})
        write_zeros(tmp_path / f"loras/{part} wider.safetensors", {down: (4, width + 8)})
    checkpoint = recognise(write_published(tmp_path / "x.safetensors", kind))
    embeddings = checkpoint.with_embeddings(tmp_path / "embeddings").facts.embeddings
    assert [(one.name, one.fits) for one in embeddings] == [("fits", True), ("wider", False)]
    reasons = {one.name: one.reason for one in checkpoint.with_loras(tmp_path / "loras", 0).facts.loras}
    for part, width in widths.items():
        assert reasons[part] is None
        assert reasons[f"{part} wider"] == f"its {part} is {width + 8} wide, and the model's is {width}"


def test_what_the_file_says_of_its_prediction_is_heeded(tmp_path: Path) -> None:
    def prediction(kind: str, **how: Any) -> tuple[str, Any, Any]:
        source = open_source(str(write_published(tmp_path / "x.safetensors", kind, **how)))
        scheduler = source.config("scheduler")
        return source.told[-9:], scheduler["prediction_type"], scheduler.get("rescale_betas_zero_snr")

    assert prediction("sd2") == ("ped (sd2)", "v_prediction", None)
    said = {"modelspec.prediction_type": "epsilon"}
    assert prediction("sd2", metadata=said) == ("(sd2-base)"[-9:], "epsilon", None)
    assert prediction("sdxl") == ("ed (sdxl)", "epsilon", None)
    assert prediction("sdxl", metadata={"modelspec.prediction_type": "v"}) == ("ed (sdxl)", "v_prediction", None)
    assert prediction("sdxl", more={"v_pred": (0,)}) == ("ed (sdxl)", "v_prediction", None)
    assert prediction("sdxl", more={"v_pred": (0,), "ztsnr": (0,)}) == ("ed (sdxl)", "v_prediction", True)
    named = open_source(str(tmp_path / "x.safetensors"), "sdxl")
    assert named.config("scheduler")["prediction_type"] == "v_prediction", "also of a kind that the operator names"


def test_it_wins_over_a_folder_of_configurations(tiny: Path, spoilt: Any) -> None:
    def mark(*names: str) -> Callable[[dict[str, torch.Tensor]], object]:
        return lambda tensors: tensors.update({name: torch.zeros(1) for name in names})

    assert "prediction_type" not in recognise(spoilt(mark()), tiny).config("scheduler")
    marked = recognise(spoilt(mark("v_pred", "ztsnr")), tiny).config("scheduler")
    assert (marked["prediction_type"], marked["rescale_betas_zero_snr"]) == ("v_prediction", True)
    assert (marked["timestep_spacing"], marked["beta_end"]) == ("trailing", 0.012), "and the folder's is all else"


@pytest.mark.parametrize("mark", ["edm_mean", "edm_vpred.sigma_max"])
def test_a_file_on_another_kind_of_noise_is_refused(tmp_path: Path, mark: str) -> None:
    file = write_published(tmp_path / "x.safetensors", "sdxl", more={mark: (1,)})
    assert refusal(open_source, file) == "the file is of a model on EDM's noise, which is not served"


def test_few_steps_are_the_operators_word(tmp_path: Path) -> None:
    """No header tells a distilled model from what it was distilled from."""
    file = write_published(tmp_path / "sd_xl_turbo.safetensors", "sdxl")
    assert recognise(file).facts.steps == 30
    facts = recognise(file, "sdxl-turbo").facts
    assert (facts.width, facts.steps, facts.guidance_scale, facts.sampler) == (512, 4, 1.0, "euler_a")


def test_numbers_are_counted_in_what_is_computed_in(tmp_path: Path) -> None:
    file = write_published(tmp_path / "x.safetensors", "sd1")
    recognise(file, free_bytes=4_300_000_000)
    told = refusal(lambda: recognise(file, free_bytes=4_200_000_000))
    assert told == "not enough memory: the model's weights take 4.3 GB in float32, and 4.2 GB are free"
    identify(str(file), dtype="bfloat16", samplers=SAMPLERS, free_bytes=2_200_000_000)


# Refused


def test_a_file_of_shapes_that_do_not_ship_needs_its_configurations(single: Path) -> None:
    assert refusal(recognise, single) == (
        "the file's shapes are those of no configuration that ships with the worker; "
        "name a folder with its configurations by --model-config"
    )


@pytest.mark.parametrize(("kind", "attentions"), [("sd1", 16), ("sdxl", 70)])
def test_so_does_one_of_fewer_layers(tmp_path: Path, kind: str, attentions: int) -> None:
    """As SSD-1B, Segmind-Vega and small-sd are, whose other sizes are those of what they were distilled from."""
    gone = "model.diffusion_model.middle_block.1."
    rest = {name: shape for name, shape in shapes(kind).items() if not name.startswith(gone)}
    types = {name: "I64" for name in rest if name.endswith("position_ids")}
    file = write_zeros(tmp_path / "x.safetensors", rest, types=types)
    assert refusal(recognise, file).startswith("the file's shapes are those of no configuration that ships")
    less = attentions - sum(name.startswith(gone) and name.endswith("attn2.to_k.weight") for name in shapes(kind))
    told = f"the configuration is of another model: its attentions is {attentions}, the file's {less}"
    assert refusal(recognise, file, kind) == told


def test_configurations_of_another_model_are_refused(tiny: Path, single: Path, tmp_path: Path) -> None:
    told = refusal(recognise, single, "sd1")
    assert told == "the configuration is of another model: its model_channels is 320, the file's 32"
    folder = Path(shutil.copytree(tiny, tmp_path / "configs"))
    config = json.loads((folder / "unet/config.json").read_text(encoding="utf-8"))
    (folder / "unet/config.json").write_text(json.dumps(config | {"in_channels": 9}), encoding="utf-8")
    assert refusal(recognise, single, folder) == (
        "the configuration is of another model: its in_channels is 9, the file's 4"
    )


def test_configurations_that_are_not_there_are_refused(single: Path, tmp_path: Path) -> None:
    told = "--model-config names neither a folder nor a kind that ships: sd1, sd1-inpainting, "
    assert refusal(recognise, single, tmp_path / "nowhere").startswith(told)
    assert refusal(recognise, single, "sd9").startswith(told)
    assert refusal(recognise, single, tmp_path) == "no diffusers model folder: unet/config.json is not there"


def test_code_beside_the_configurations_is_refused(tiny: Path, single: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny, tmp_path / "configs"))
    (folder / "unet/modeling.py").write_text("raise SystemExit")
    assert "modeling.py" in refusal(recognise, single, folder)


@pytest.mark.parametrize("ending", [".ckpt", ".pt", ".bin", ".pth", ".pkl", ""])
def test_a_file_of_another_ending_is_refused(single: Path, tmp_path: Path, ending: str) -> None:
    file = Path(shutil.copy(single, tmp_path / f"x{ending}"))
    assert refusal(recognise, file) == "the file is no safetensors file by its name; only safetensors is served"


def test_pickle_under_a_safe_name_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    torch.save({"state_dict": {FIRST: torch.zeros(4)}}, file)
    assert refusal(recognise, file).startswith("the file is pickled weights in a zip file")
    torch.save({FIRST: torch.zeros(4)}, file, _use_new_zipfile_serialization=False)
    assert refusal(recognise, file) == "the file is pickled weights; only safetensors is served"


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("lora_unet_down_blocks_0_attentions_0.lora_down.weight", "is a LoRA, which changes a model and is none"),
        ("unet.down_blocks.0.attn1.to_q.lora_A.weight", "is a LoRA, which changes a model and is none"),
        ("control_model.input_blocks.0.0.weight", "is a ControlNet, which changes a model and is none"),
        ("controlnet_cond_embedding.conv_in.weight", "is a ControlNet, which changes a model and is none"),
        ("emb_params", "is a textual inversion, which changes a model and is none"),
        ("conditioner.embedders.0.model.ln_final.weight", "is a refiner, which draws no pictures of its own"),
        (
            "joint_blocks.0.x_block.attn.qkv.weight",
            "is SD 3 in one file; that family is served from a diffusers folder",
        ),
        (
            "model.diffusion_model.double_blocks.0.img_attn.norm.key_norm.scale",
            "is FLUX in one file; that family is served from a diffusers folder",
        ),
        ("transformer_blocks.0.attn.to_q.weight", "is a transformer alone; a whole model is a diffusers folder or a"),
        ("text_model.encoder.layers.0.mlp.fc1.weight", "is a text encoder alone; a whole model is a diffusers folder"),
        ("conv1.weight", "is no checkpoint that this worker knows"),
    ],
)
def test_another_kind_of_file_is_called_by_its_name(tmp_path: Path, name: str, told: str) -> None:
    assert refusal(recognise, write_zeros(tmp_path / "x.safetensors", {name: (2, 2)})).startswith(f"the file {told}")


@pytest.mark.parametrize(
    ("prefix", "told"),
    [
        ("first_stage_model.", "the file has no weights for its vae"),
        ("cond_stage_model.", "the file has no text encoder of Stable Diffusion 1.x, 2.x or XL"),
    ],
)
def test_a_file_without_one_of_its_parts_is_refused(tmp_path: Path, prefix: str, told: str) -> None:
    rest = {name: shape for name, shape in shapes("sd1").items() if not name.startswith(prefix)}
    types = {name: "I64" for name in rest if name.endswith("position_ids")}
    assert refusal(recognise, write_zeros(tmp_path / "x.safetensors", rest, types=types)) == told


@pytest.mark.parametrize("dtype", ["F8_E4M3", "F8_E5M2", "I8"])
def test_weights_that_cannot_be_computed_with_are_refused(tmp_path: Path, dtype: str) -> None:
    file = write_published(tmp_path / "x.safetensors", "sd1", types={FIRST: dtype})
    assert refusal(recognise, file) == (
        f"the weights of unet are of type {dtype} ({FIRST}); only F16, BF16, F32, F64 can be computed with"
    )


def test_a_unet_of_other_layers_is_refused(tmp_path: Path) -> None:
    file = write_zeros(tmp_path / "x.safetensors", {FIRST: (320, 4, 3, 3), "cond_stage_model.transformer.x": (2,)})
    assert refusal(recognise, file) == "the file's UNet has other layers than Stable Diffusion's"


def test_a_missing_weight_is_refused_and_not_made_up(tiny: Path, spoilt: Any) -> None:
    for name, part, told in (
        ("model.diffusion_model.out.2.bias", "unet", "conv_out.bias"),
        ("first_stage_model.quant_conv.bias", "vae", "quant_conv.bias"),
        (
            "cond_stage_model.transformer.text_model.final_layer_norm.bias",
            "text_encoder",
            "final_layer_norm.bias",
        ),
    ):
        file = spoilt(lambda tensors, name=name: tensors.pop(name))
        assert refusal(load, file, tiny) == f"the model's {part} lacks weights: {told}"


def test_a_weight_of_another_shape_is_refused(tiny: Path, spoilt: Any) -> None:
    file = spoilt(lambda tensors: tensors.update({"model.diffusion_model.out.2.bias": torch.zeros(5)}))
    assert "weights cannot be loaded" in refusal(load, file, tiny)


def test_the_checksum_of_a_file_is_that_of_its_bytes(tiny: Path, single: Path) -> None:
    pinned = hashlib.sha256(single.read_bytes()).hexdigest()
    assert recognise(single, tiny, sha256=pinned.upper())
    assert refusal(lambda: recognise(single, tiny, sha256="0" * 64)) == (
        f"the model is not the one that --model-sha256 names: its checksum is {pinned}"
    )
