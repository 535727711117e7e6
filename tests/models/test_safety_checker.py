"""The safety checker: its verdict is the stock pipeline's, and a folder that is none is refused in one line."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from safetensors.torch import load_file, save_file
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from shared_worker.device import find_device
from tests.fakes import paint
from tests.models.safety import ALWAYS, NEVER, write_safety_checker
from tests.models.test_sd import one_thread
from worker.engine.runner import Pixels
from worker.errors import ConfigurationError, ModelUnusable
from worker.models.safety_checker import SafetyChecker
from worker.models.safety_folder import PREPROCESSOR, SafetyFolder

__all__ = ["one_thread"]

CPU = find_device("cpu")
BORDER = 0.55
"""A threshold between the pictures below."""
SIZES = ((32, 32), (48, 32), (40, 97), (128, 96))


def pictures() -> list[Pixels]:
    """Of several sizes: dots, colours that run into each other, and one colour."""
    random = np.random.default_rng(5)
    drawn = []
    for width, height in SIZES:
        for seed in range(4):
            ramp = np.linspace(0, 255, width)[None, :, None] * random.random((1, 1, 3))
            even = np.full((height, width, 3), random.integers(0, 256, 3))
            drawn += [paint(seed, width, height), np.broadcast_to(ramp, even.shape).astype(np.uint8)]
            drawn.append(even.astype(np.uint8))
    return drawn


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_safety_checker(tmp_path_factory.mktemp("safety") / "checker", BORDER)


def verdicts(folder: Path) -> list[bool]:
    flags = SafetyFolder.at(folder).load(CPU)
    return [flags(picture) for picture in pictures()]


def stock_verdicts(tiny: Path, folder: Path) -> list[bool]:
    """Of the pipeline's own method, which takes pixels from 0 to 1."""
    pipeline = StableDiffusionPipeline.from_pretrained(
        tiny,
        safety_checker=StableDiffusionSafetyChecker.from_pretrained(folder),
        feature_extractor=CLIPImageProcessorPil.from_pretrained(folder),
        requires_safety_checker=True,
    )

    def verdict(picture: Pixels) -> bool:
        floats = picture[None].astype(np.float32) / 255.0
        return bool(pipeline.run_safety_checker(floats, torch.device("cpu"), torch.float32)[1][0])

    return [verdict(picture) for picture in pictures()]


def test_the_verdict_is_the_stock_pipelines(tiny: Path, folder: Path) -> None:
    ours = verdicts(folder)
    assert len(set(ours)) == 2, "some are flagged and some are not"
    assert ours == stock_verdicts(tiny, folder)


def test_convolutions_are_not_rounded_to_tf32(folder: Path) -> None:
    during: list[bool] = []

    def checker(clip_input: torch.Tensor, images: torch.Tensor) -> tuple[torch.Tensor, list[bool]]:
        during.append(torch.backends.cudnn.allow_tf32)
        return images, [False]

    before = torch.backends.cudnn.allow_tf32
    SafetyChecker(checker, CLIPImageProcessorPil.from_pretrained(folder), torch.device("cpu")).flags(pictures()[0])
    assert before, "or there is nothing to show"
    assert during == [False]
    assert torch.backends.cudnn.allow_tf32, "the model computes as before"


@pytest.mark.parametrize("threshold", [NEVER, ALWAYS])
def test_the_thresholds_decide(tmp_path: Path, threshold: float) -> None:
    assert set(verdicts(write_safety_checker(tmp_path / "checker", threshold))) == {threshold == ALWAYS}


def test_the_layout_of_published_checkers(folder: Path, tmp_path: Path) -> None:
    """Older files nest the vision model twice and keep positions; the preprocessor lies beside in a model's folder."""
    old = tmp_path / "model" / "safety_checker"
    old.mkdir(parents=True)
    (tmp_path / "model" / "feature_extractor").mkdir()
    (old / "config.json").write_text((folder / "config.json").read_text())
    (tmp_path / "model/feature_extractor" / PREPROCESSOR).write_text((folder / PREPROCESSOR).read_text())
    tensors = load_file(folder / "model.safetensors")
    renamed = {name.replace("vision_model.", "vision_model.vision_model."): one for name, one in tensors.items()}
    renamed["vision_model.vision_model.embeddings.position_ids"] = torch.arange(17)[None]
    save_file(renamed, old / "model.fp16.safetensors", metadata={"format": "pt"})
    assert verdicts(old) == verdicts(folder)


def refusal(place: Path) -> str:
    with pytest.raises(ConfigurationError) as refused:
        SafetyFolder.at(place)
    assert "\n" not in refused.value.detail
    return refused.value.detail


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    place = tmp_path / "checker"
    place.mkdir()
    for file in folder.iterdir():
        (place / file.name).write_bytes(file.read_bytes())
    return place


def test_no_folder(folder: Path, tmp_path: Path) -> None:
    assert refusal(tmp_path / "nowhere") == "--safety-checker is no folder"
    assert refusal(folder / "config.json") == "--safety-checker is no folder"
    assert refusal(tmp_path).startswith("--safety-checker: ")


def without_preprocessor(place: Path) -> None:
    (place / PREPROCESSOR).unlink()


def pickled(place: Path) -> None:
    (place / "pytorch_model.bin").write_bytes(b"")


def without_weights(place: Path) -> None:
    (place / "model.safetensors").unlink()


def cut_off(place: Path) -> None:
    (place / "model.safetensors").write_bytes((place / "model.safetensors").read_bytes()[:-9])


def of_another_kind(place: Path) -> None:
    (place / "config.json").write_text(json.dumps({"model_type": "bert"}))


def without_concepts(place: Path) -> None:
    tensors = load_file(place / "model.safetensors")
    del tensors["special_care_embeds"]
    save_file(tensors, place / "model.safetensors")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (without_preprocessor, "preprocessor_config.json is not there"),
        (pickled, "pytorch_model.bin"),
        (without_weights, "no safetensors weights"),
        (cut_off, "model.safetensors"),
        (of_another_kind, "not that of a CLIP model"),
        (without_concepts, "special_care_embeds is not as it must be"),
    ],
)
def test_a_folder_that_is_no_safety_checker(copy: Path, change: Callable[[Path], None], said: str) -> None:
    change(copy)
    told = refusal(copy)
    assert told.startswith("--safety-checker: ")
    assert said in told


def test_a_checker_that_lacks_a_weight_is_not_made_up(copy: Path) -> None:
    tensors = load_file(copy / "model.safetensors")
    lost = next(name for name in tensors if "layers.1" in name)
    del tensors[lost]
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelUnusable, match=lost.replace(".", r"\.")):
        SafetyFolder.at(copy).load(CPU)


@pytest.mark.parametrize("error", [MemoryError(), OSError(errno.EIO, "a bad disk")])
def test_what_says_nothing_of_the_checker_does_not_refuse_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fails(*arguments: object, **options: object) -> object:
        raise error

    monkeypatch.setattr(StableDiffusionSafetyChecker, "from_pretrained", fails)
    with pytest.raises(type(error)):
        SafetyFolder.at(folder).load(CPU)
