"""Which folders are served, and what is said of the others: one line, without a path."""

from __future__ import annotations

import errno
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from shared_worker.device import find_device
from tests.models.tiny import load_stock
from worker.engine import sampling
from worker.errors import ModelUnusable
from worker.models.folder import CODE_OR_PICKLE, read_json
from worker.models.registry import DEFAULTS_FILE, Checkpoint, identify
from worker.models.schedulers import make_scheduler

SAMPLERS = tuple(name for name in sampling.SAMPLERS if not name.startswith("flow_"))
UNET = "unet/diffusion_pytorch_model.safetensors"
PARTS = (UNET, "vae/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors")


@pytest.fixture
def folder(tiny: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return Path(shutil.copytree(tiny, tmp_path / "copied model"))


def recognise(folder: Path) -> Checkpoint:
    return identify(str(folder), dtype="float32", samplers=SAMPLERS, read_noise=sampling.read_noise)


def load(folder: Path) -> None:
    recognise(folder).load(find_device("cpu"), lambda share: None)


def refusal(of: Callable[[Path], object], folder: Path) -> str:
    """What is told of a model that is refused."""
    with pytest.raises(ModelUnusable) as refused:
        of(folder)
    told = refused.value.detail
    assert "\n" not in told
    assert str(folder) not in told
    assert folder.name not in told
    assert "/tmp" not in told  # noqa: S108 - looked for, not written to
    return told


def change(file: Path, **changes: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | changes), encoding="utf-8")


# Before a weight is read


def test_what_a_folder_says_of_itself(folder: Path) -> None:
    facts = recognise(folder).facts
    assert (facts.id, facts.family, facts.dtype) == ("copied model", "sd", "float32")
    assert (facts.width, facts.height, facts.multiple) == (32, 32, 4)
    assert (facts.steps, facts.guidance_scale) == (25, 7.5)
    assert facts.sampler == "dpmpp_2m", "a scheduler that is not offered gives way to the family's"
    assert facts.samplers == SAMPLERS


@pytest.mark.parametrize(
    ("version", "side"), [("0.6.0", 128), ("0.8.0.dev0", 128), ("0.9.0.dev0", 32), ("0.10.2", 32), ("0.42.1", 32)]
)
@pytest.mark.filterwarnings("ignore:The configuration file of the unet:FutureWarning")
def test_a_size_that_stock_pipelines_correct_is_corrected(folder: Path, version: str, side: int) -> None:
    change(folder / "unet/config.json", _diffusers_version=version)
    stock = load_stock(folder)
    assert stock.unet.config.sample_size * stock.vae_scale_factor == recognise(folder).facts.width == side


@pytest.mark.parametrize(
    ("scheduler", "sampler"),
    [("DDIMScheduler", "ddim"), ("EulerDiscreteScheduler", "euler"), ("DPMSolverMultistepScheduler", "dpmpp_2m")],
)
def test_the_checkpoints_own_scheduler_is_the_default(folder: Path, scheduler: str, sampler: str) -> None:
    change(folder / "scheduler/scheduler_config.json", _class_name=scheduler)
    assert recognise(folder).facts.sampler == sampler


@pytest.mark.parametrize(
    ("changes", "sampler"),
    [({"use_karras_sigmas": True}, "dpmpp_2m_karras"), ({"algorithm_type": "sde-dpmsolver++"}, "dpmpp_2m_sde")],
)
def test_and_so_is_its_kind_of_it(folder: Path, changes: dict[str, object], sampler: str) -> None:
    change(folder / "scheduler/scheduler_config.json", _class_name="DPMSolverMultistepScheduler", **changes)
    checkpoint = identify(str(folder), dtype=None, samplers=(*SAMPLERS, "dpmpp_2m_karras", "dpmpp_2m_sde"))
    assert checkpoint.facts.sampler == sampler


@pytest.mark.parametrize(("changes", "most"), [({}, 50), ({"original_inference_steps": 100}, 100)])
def test_samplers_for_distilled_models_make_as_many_steps_as_those_had(
    folder: Path, changes: dict[str, object], most: int
) -> None:
    change(folder / "scheduler/scheduler_config.json", **changes)
    facts = identify(str(folder), dtype=None, samplers=(*SAMPLERS, "lcm", "tcd", "heun")).facts
    assert facts.most_steps == {"lcm": most, "tcd": most}
    for sampler, steps in facts.most_steps.items():
        scheduler = make_scheduler(sampler, read_json(folder, "scheduler/scheduler_config.json"))
        scheduler.set_timesteps(steps)
        with pytest.raises(ValueError, match="original"):
            scheduler.set_timesteps(steps + 1)


@pytest.mark.parametrize(
    "changes",
    [{"_class_name": "EDMEulerScheduler"}, {"timestep_type": "continuous", "prediction_type": "v_prediction"}],
)
def test_noise_that_networks_of_another_kind_were_made_for_is_refused(folder: Path, changes: dict[str, str]) -> None:
    change(folder / "scheduler/scheduler_config.json", **changes)
    assert re.fullmatch("a sd model with the scheduler '.*' is not served", refusal(recognise, folder))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"beta_schedule": "squaredcos_cap_v2"}, "beta_schedule 'squaredcos_cap_v2'"),
        ({"prediction_type": "flow_prediction"}, "prediction_type 'flow_prediction'"),
        ({"timestep_spacing": "wide"}, "timestep_spacing 'wide'"),
        ({"beta_start": "low"}, "could not convert string to float: 'low'"),
    ],
)
def test_a_noise_schedule_that_is_not_built_is_refused(folder: Path, changes: dict[str, object], told: str) -> None:
    change(folder / "scheduler/scheduler_config.json", **changes)
    assert refusal(recognise, folder) == f"the model's scheduler configuration is not supported: {told}"


def test_a_models_maker_sets_its_defaults(folder: Path) -> None:
    defaults = {"steps": 12, "guidance_scale": 3, "sampler": "ddim", "width": 96}
    (folder / DEFAULTS_FILE).write_text(json.dumps(defaults), encoding="utf-8")
    facts = recognise(folder).facts
    assert (facts.steps, facts.guidance_scale, facts.sampler, facts.width, facts.height) == (12, 3, "ddim", 96, 32)


def test_the_dtype_is_the_operators_or_the_makers_or_the_devices_usual_one(folder: Path) -> None:
    def dtype(asked: str | None) -> str:
        return identify(str(folder), dtype=asked, samplers=SAMPLERS, usual_dtype="float16").facts.dtype

    assert (dtype(None), dtype("float32")) == ("float16", "float32")
    (folder / DEFAULTS_FILE).write_text('{"dtype": "bfloat16"}', encoding="utf-8")
    assert (dtype(None), dtype("float32")) == ("bfloat16", "float32")


@pytest.mark.parametrize(
    "defaults",
    [
        {"steps": "12"},
        {"steps": True},
        {"steps": 0},
        {"steps": 151},
        {"width": 98},
        {"width": 0},
        {"height": 2052},
        {"guidance_scale": 30.5},
        {"guidance_scale": float("inf")},
        {"guidance_scale": float("nan")},
        {"sampler": "flow_euler"},
        {"sampler": "magic"},
        {"id": "x"},
        {"dtype": "int8"},
        {"colour": 1},
        [],
    ],
)
def test_defaults_that_mean_nothing_are_refused(folder: Path, defaults: object) -> None:
    (folder / DEFAULTS_FILE).write_text(json.dumps(defaults), encoding="utf-8")
    assert DEFAULTS_FILE in refusal(recognise, folder)


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    assert "model_index.json is not there" in refusal(recognise, tmp_path / "nowhere")


def test_a_file_is_no_folder(folder: Path) -> None:
    assert refusal(recognise, folder / UNET) == (
        "the file is a UNet alone; a whole model is a diffusers folder or a file in the original layout"
    )


def test_an_unknown_pipeline_is_refused_by_name(folder: Path) -> None:
    change(folder / "model_index.json", _class_name="AudioLDMPipeline")
    assert "AudioLDMPipeline" in refusal(recognise, folder)


@pytest.mark.parametrize("suffix", [*CODE_OR_PICKLE, ".PY"])
@pytest.mark.parametrize("where", ["", "unet", "a/b"])
def test_a_folder_with_code_or_pickles_is_refused(folder: Path, suffix: str, where: str) -> None:
    (folder / where).mkdir(parents=True, exist_ok=True)
    (folder / where / f"extra{suffix}").write_bytes(b"")
    assert f"extra{suffix}" in refusal(recognise, folder)


@pytest.mark.parametrize(
    "name", ["model_index.json", "unet/config.json", "vae/config.json", "scheduler/scheduler_config.json"]
)
@pytest.mark.parametrize("content", [None, b"", b'{"a": ', b"[]", b"\xff\xfe\x00", b'"text"'])
def test_broken_json_is_refused_by_its_name(folder: Path, name: str, content: bytes | None) -> None:
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_bytes(content)
    assert name in refusal(recognise, folder)


@pytest.mark.parametrize("changes", [{"sample_size": None}, {"sample_size": "wide"}, {"block_out_channels": 3}])
def test_a_configuration_without_sizes_is_refused(folder: Path, changes: dict[str, object]) -> None:
    change(folder / "unet/config.json", **changes)
    assert "sizes" in refusal(recognise, folder)


# Reading the weights


def test_loading_tells_how_far_it_is(folder: Path) -> None:
    shares: list[float] = []
    recognise(folder).load(find_device("cpu"), shares.append)
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1.0)
    assert len(shares) >= 3


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize(
    "spoil", [lambda data: data[: len(data) // 2], lambda data: b"\x80\x04garbage" * 9, lambda data: b""]
)
def test_spoilt_weights_are_refused(folder: Path, part: str, spoil: Callable[[bytes], bytes]) -> None:
    (folder / part).write_bytes(spoil((folder / part).read_bytes()))
    assert refusal(recognise, folder).startswith(f"{part} is ")


@pytest.mark.parametrize("part", PARTS)
def test_weights_that_are_not_there_are_refused(folder: Path, part: str) -> None:
    (folder / part).unlink()
    assert refusal(recognise, folder) == f"the model has no safetensors weights for its {part.split('/')[0]}"


@pytest.mark.parametrize("part", PARTS)
def test_a_single_missing_tensor_is_refused_and_not_made_up(folder: Path, part: str) -> None:
    tensors = load_file(folder / part)
    missing = sorted(tensors)[3]
    del tensors[missing]
    save_file(tensors, folder / part, metadata={"format": "pt"})
    assert refusal(load, folder) == f"the model's {part.split('/')[0]} lacks weights: {missing}"


def test_weights_of_another_shape_are_refused(folder: Path) -> None:
    tensors = load_file(folder / UNET)
    tensors[min(tensors)] = torch.zeros(3, 5)
    save_file(tensors, folder / UNET, metadata={"format": "pt"})
    assert "weights cannot be loaded" in refusal(load, folder)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda tokenizer: [file.unlink() for file in tokenizer.iterdir()],
        lambda tokenizer: shutil.rmtree(tokenizer),
        lambda tokenizer: (tokenizer / "tokenizer_config.json").unlink(),
        lambda tokenizer: (tokenizer / "tokenizer.json").write_bytes(b"{"),
    ],
)
def test_a_tokenizer_that_cannot_tell_words_is_refused(folder: Path, spoil: Callable[[Path], object]) -> None:
    spoil(folder / "tokenizer")
    refusal(load, folder)


def unopened() -> Exception:
    """What safetensors raises for a file that it cannot open, too many open ones among the reasons."""
    with pytest.raises(FileNotFoundError) as raised:
        safe_open("nowhere.safetensors", framework="pt")
    return raised.value


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
        OSError(errno.EIO, "a bad disk"),
        OSError(errno.ENOTCONN, "a share that is away"),
        unopened(),
    ],
)
def test_what_says_nothing_of_the_model_does_not_refuse_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """Another start may do, so that a supervisor should try."""

    def fails(*arguments: object) -> object:
        raise error

    monkeypatch.setattr("worker.models.parts.read_folder_part", fails)
    with pytest.raises(type(error)):
        load(folder)
