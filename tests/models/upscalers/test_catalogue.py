"""What an upscaler is told by, in every way it is written down, and what is not one."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from shared_worker.device import find_device
from tests.models.upscalers import files
from tests.models.upscalers.files import Weights, write
from worker.errors import ConfigurationError, InvalidInput
from worker.jobs.facts import UpscalerFacts
from worker.models.offload import OnDevice
from worker.models.upscalers.catalogue import Upscalers

CPU = find_device("cpu")
LAYOUTS: dict[str, Callable[[Weights], Weights]] = {
    "real-esrgan": dict,
    "numbered": files.numbered,
    "trunk": files.trunk,
    "params": files.below_params,
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("doublings", "folded", "scale"), [(2, 1, 4), (1, 1, 2), (2, 2, 2)])
def test_every_layout_is_the_same_network(tmp_path: Path, layout: str, doublings: int, folded: int, scale: int) -> None:
    weights = files.dense(1, doublings=doublings, folded=folded)
    write(tmp_path / "one.safetensors", weights, LAYOUTS[layout])
    found = Upscalers.in_folder(tmp_path)
    assert found.facts == (UpscalerFacts("one", scale),)
    picture = torch.rand(1, 3, 10, 14, generator=torch.Generator().manual_seed(2))
    larger = found.load("one", CPU, OnDevice(), "unet").enlarge(picture)
    assert larger.shape == (1, 3, 10 * scale, 14 * scale)
    torch.testing.assert_close(larger, files.dense_by_hand(weights, picture, folded), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("scale", [2, 4])
def test_the_compact_network(tmp_path: Path, scale: int) -> None:
    weights = files.compact(1, scale=scale)
    write(tmp_path / "below" / "small.safetensors", weights)
    found = Upscalers.in_folder(tmp_path)
    assert found.facts == (UpscalerFacts("small", scale),)
    picture = torch.rand(1, 3, 9, 7, generator=torch.Generator().manual_seed(2))
    expected = files.compact_by_hand(weights, picture, scale)
    torch.testing.assert_close(
        found.load("small", CPU, OnDevice(), "unet").enlarge(picture), expected, rtol=1e-4, atol=1e-4
    )


def test_sides_that_cannot_be_folded_evenly(tmp_path: Path) -> None:
    weights = files.dense(1, folded=2)
    write(tmp_path / "one.safetensors", weights)
    picture = torch.rand(1, 3, 9, 7, generator=torch.Generator().manual_seed(2))
    larger = Upscalers.in_folder(tmp_path).load("one", CPU, OnDevice(), "unet").enlarge(picture)
    assert larger.shape == (1, 3, 18, 14)
    even = torch.nn.functional.pad(picture, (0, 1, 0, 1), mode="replicate")
    expected = files.dense_by_hand(weights, even, 2)[:, :, :18, :14]
    torch.testing.assert_close(larger, expected, rtol=1e-4, atol=1e-4)


def without_one(weights: Weights) -> Weights:
    return {name: tensor for name, tensor in weights.items() if name != "body.1.rdb2.conv3.bias"}


def with_one_more(weights: Weights) -> Weights:
    return weights | {"body.0.rdb1.conv1x1.weight": torch.zeros(4, 8, 1, 1)}


@pytest.mark.parametrize(
    ("weights", "told"),
    [
        (without_one(files.dense()), "it is no upscaler that is known"),
        (with_one_more(files.dense()), "it is no upscaler that is known"),
        (files.dense(doublings=3), "it multiplies sides by 8; by 2 or 4 is served"),
        (files.dense(folded=4), "it multiplies sides by 1; by 2 or 4 is served"),
        (files.compact(scale=3), "it multiplies sides by 3; by 2 or 4 is served"),
        ({"lora_unet.lora_down.weight": torch.zeros(4, 8)}, "it is no upscaler that is known"),
        ({"body.0.weight": torch.zeros(())}, "it is no upscaler that is known"),
        ({"conv_first.weight": torch.zeros(8)}, "it is no upscaler that is known"),
        ({name: tensor.to(torch.int8) for name, tensor in files.dense().items()}, "are of type I8"),
    ],
)
def test_other_files_are_not_used_and_the_log_says_why(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, weights: Weights, told: str
) -> None:
    save_file(weights, tmp_path / "odd.safetensors")
    with caplog.at_level(logging.WARNING):
        assert Upscalers.in_folder(tmp_path).facts == ()
    (record,) = caplog.records
    assert record.getMessage().startswith("odd.safetensors in --upscaler-dir is not used: ")
    assert told in record.getMessage()


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("4x.pth", b"PK\x03\x04" + bytes(100), "a pickle can run code; save its weights as safetensors"),
        ("4x.safetensors", b"PK\x03\x04" + bytes(100), "pickled weights in a zip file"),
        ("4x.safetensors", b"\x10\x00\x00\x00\x00\x00\x00\x00{}", "damaged safetensors file"),
        ("4x.safetensors", b"", "too short"),
    ],
)
def test_what_is_no_safetensors_file(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, content: bytes, told: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with caplog.at_level(logging.WARNING):
        assert Upscalers.in_folder(tmp_path).facts == ()
    assert told in caplog.text
    assert str(tmp_path) not in caplog.text


def test_a_file_that_is_cut_short(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = write(tmp_path / "one.safetensors", files.dense())
    file.write_bytes(file.read_bytes()[:-1])
    assert Upscalers.in_folder(tmp_path).facts == ()
    assert "beyond the end of the file, which is cut short" in caplog.text


def test_names_that_are_taken(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path / "a" / "one.safetensors", files.dense())
    write(tmp_path / "b" / "one.safetensors", files.compact(scale=2))
    write(tmp_path / "latent.safetensors", files.dense())
    assert Upscalers.in_folder(tmp_path).facts == (UpscalerFacts("one", 4),)
    assert "one is twice in --upscaler-dir; the second is not used" in caplog.text
    assert "its name is that of the loaded model's own upscaler" in caplog.text


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="--upscaler-dir is no folder"):
        Upscalers.in_folder(tmp_path / "no")


def test_a_file_that_changed_or_went_since(tmp_path: Path) -> None:
    file = write(tmp_path / "one.safetensors", files.dense())
    found = Upscalers.in_folder(tmp_path)
    write(file, files.compact())
    with pytest.raises(InvalidInput, match="has changed since the worker started"):
        found.load("one", CPU, OnDevice(), "unet")
    file.unlink()
    with pytest.raises(InvalidInput, match="has changed since the worker started"):
        found.load("one", CPU, OnDevice(), "unet")
    with pytest.raises(InvalidInput, match="There is no upscaler of the name 'two'"):
        found.load("two", CPU, OnDevice(), "unet")


@pytest.mark.parametrize(
    "weights", [files.compact(1), files.dense(1), files.dense(1, folded=2)], ids=["compact", "dense", "folded"]
)
def test_what_lies_beyond_the_margin_changes_little_or_nothing(tmp_path: Path, weights: Weights) -> None:
    write(tmp_path / "one.safetensors", weights)
    network = Upscalers.in_folder(tmp_path).load("one", CPU, OnDevice(), "unet")
    picture = torch.rand(1, 3, 1, 120, generator=torch.Generator().manual_seed(2)).expand(1, 3, 8, 120).clone()
    other = picture.clone()
    other[..., 60 + network.margin :] = 0.0
    seen = [network.enlarge(one)[..., : 60 * network.scale] for one in (picture, other)]
    assert (seen[0] - seen[1]).abs().max() < 1 / 255
