"""Diffusers folders as they are found: in shards, in halves, incomplete; and what is refused of them."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from shared_worker.device import find_device
from tests.models.drawing import draw
from tests.models.files import write_zeros
from tests.models.tiny import psnr_db
from tests.schedulers import SCHEDULERS
from worker.errors import ModelUnusable
from worker.jobs.params import Task
from worker.models.checkpoint import Checkpoint
from worker.models.folder import DiffusersFolder
from worker.models.registry import identify

STEMS = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "model"}


@pytest.fixture
def folder(tiny: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(tiny, tmp_path / "copied model"))


def recognise(folder: Path, dtype: str = "float32") -> Checkpoint:
    return identify(str(folder), dtype=dtype, samplers=tuple(SCHEDULERS))


def refusal(attempt: Callable[[Path], object], folder: Path) -> str:
    with pytest.raises(ModelUnusable) as refused:
        attempt(folder)
    told = refused.value.detail
    assert "\n" not in told
    assert folder.name not in told
    return told


def shard(folder: Path, part: str, mark: str = "") -> Path:
    """Split the weights of a part in two, as `save_pretrained` does with large ones; returns the index."""
    stem = STEMS[part]
    whole = folder / part / f"{stem}.safetensors"
    tensors = load_file(whole)
    names = sorted(tensors)
    files = [f"{stem}{mark}-{place:05}-of-00002.safetensors" for place in (1, 2)]
    places = {name: files[place * 2 // len(names)] for place, name in enumerate(names)}
    for file in files:
        save_file({n: t for n, t in tensors.items() if places[n] == file}, folder / part / file, {"format": "pt"})
    whole.unlink()
    index = folder / part / f"{stem}.safetensors.index{mark}.json"
    total = sum(tensor.nbytes for tensor in tensors.values())
    index.write_text(json.dumps({"metadata": {"total_size": total}, "weight_map": places}), encoding="utf-8")
    return index


def halve(folder: Path, part: str, *, keep: bool, dtype: torch.dtype = torch.float16, mark: str = "fp16") -> None:
    """Write a part's weights in half precision beside the full ones, or in their place."""
    whole = folder / part / f"{STEMS[part]}.safetensors"
    halves = {name: tensor.to(dtype) for name, tensor in load_file(whole).items()}
    save_file(halves, folder / part / f"{STEMS[part]}.{mark}.safetensors", {"format": "pt"})
    if not keep:
        whole.unlink()


def test_shards_are_drawn_as_the_whole(tiny: Path, folder: Path) -> None:
    for part in STEMS:
        shard(folder, part)
    assert psnr_db(draw(recognise(tiny)), draw(recognise(folder))) >= 60


def test_halves_alone_are_drawn(tiny: Path, folder: Path) -> None:
    for part in STEMS:
        halve(folder, part, keep=False)
    assert psnr_db(draw(recognise(tiny)), draw(recognise(folder))) >= 40


def test_halves_in_shards_are_drawn(tiny: Path, folder: Path) -> None:
    for part in STEMS:
        shard(folder, part, mark=".fp16")
    assert psnr_db(draw(recognise(tiny)), draw(recognise(folder))) >= 60


@pytest.mark.parametrize(
    ("dtype", "there", "read"),
    [
        ("float32", ("", "fp16", "bf16"), ""),
        ("float16", ("", "fp16", "bf16"), "fp16"),
        ("bfloat16", ("", "fp16", "bf16"), "bf16"),
        ("bfloat16", ("", "fp16"), ""),
        ("bfloat16", ("fp16",), "fp16"),
        ("float16", ("",), ""),
        ("float32", ("fp16",), "fp16"),
    ],
)
def test_the_precision_that_is_read_fits_what_is_computed_in(
    tmp_path: Path, dtype: str, there: tuple[str, ...], read: str
) -> None:
    for mark in there:
        name = "diffusion_pytorch_model" + (f".{mark}" if mark else "")
        write_zeros(tmp_path / "unet" / f"{name}.safetensors", {"w": (2, len(mark))})
    source = DiffusersFolder(tmp_path)
    assert source.variant("unet", dtype) == read
    assert source.tensors("unet", dtype)["w"].shape == (2, len(read))


@pytest.mark.parametrize("part", STEMS)
def test_a_shard_that_is_not_there_is_refused_by_name(folder: Path, part: str) -> None:
    index = shard(folder, part)
    missing = f"{STEMS[part]}-00002-of-00002.safetensors"
    (folder / part / missing).unlink()
    assert refusal(recognise, folder) == f"{part}/{index.name} names {missing}, which is not there"


@pytest.mark.parametrize(
    ("index", "told"),
    [
        ({"weight_map": {}}, "does not say which file holds which weight"),
        ({"weight_map": {"w": 7}}, "does not say which file holds which weight"),
        ({"weights": {}}, "does not say which file holds which weight"),
        (
            {"weight_map": {"w": "../vae/diffusion_pytorch_model.safetensors"}},
            "names a file that is no safetensors file",
        ),
        ({"weight_map": {"w": "weights.bin"}}, "names a file that is no safetensors file"),
    ],
)
def test_an_index_that_leads_nowhere_is_refused(folder: Path, index: object, told: str) -> None:
    shard(folder, "unet").write_text(json.dumps(index), encoding="utf-8")
    assert told in refusal(recognise, folder)


def test_pickle_under_a_safe_name_is_refused(folder: Path) -> None:
    torch.save({"w": torch.zeros(4)}, folder / "unet/diffusion_pytorch_model.safetensors")
    assert refusal(recognise, folder) == (
        "unet/diffusion_pytorch_model.safetensors is pickled weights in a zip file (PyTorch's format); "
        "only safetensors is served"
    )


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.int8])
def test_weights_that_cannot_be_computed_with_are_refused(folder: Path, dtype: torch.dtype) -> None:
    file = folder / "unet/diffusion_pytorch_model.safetensors"
    save_file({name: tensor.to(dtype) for name, tensor in load_file(file).items()}, file)
    assert refusal(recognise, folder).startswith("the weights of unet are of type ")


def change(file: Path, **changes: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | changes), encoding="utf-8")


@pytest.mark.parametrize(
    ("part", "library", "name"),
    [
        ("unet", "my_unet", "MyUNet"),
        ("unet", "diffusers", "UNetMotionModel"),
        ("vae", "diffusers", "AutoencoderTiny"),
        ("text_encoder", "transformers", "XLMRobertaModel"),
        ("tokenizer", "transformers", "LlamaTokenizer"),
    ],
)
def test_a_part_of_an_unknown_class_is_refused_by_name(folder: Path, part: str, library: str, name: str) -> None:
    change(folder / "model_index.json", **{part: [library, name]})
    assert refusal(recognise, folder) == f"the model's {part} is of the class {name!r}, which is not served"


def test_quantised_weights_are_refused(folder: Path) -> None:
    change(folder / "unet/config.json", quantization_config={"quant_method": "bitsandbytes"})
    assert refusal(recognise, folder) == "the model's unet is quantised, which is not served"


def test_a_model_without_a_tokenizer_is_refused(folder: Path) -> None:
    shutil.rmtree(folder / "tokenizer")
    assert refusal(recognise, folder) == "the model has no tokenizer"


def test_a_named_part_that_is_not_there_is_refused(folder: Path) -> None:
    shutil.rmtree(folder / "text_encoder")
    assert "text_encoder/config.json is not there" in refusal(recognise, folder)


def test_a_part_that_the_index_leaves_out_is_not_there(folder: Path) -> None:
    shutil.copytree(folder / "text_encoder", folder / "text_encoder_3")
    change(folder / "model_index.json", text_encoder_3=[None, None])
    assert not recognise(folder).has("text_encoder_3")
    recognise(folder).load(find_device("cpu"), lambda share: None)


def test_an_inpainting_checkpoint_does_that_task_alone(folder: Path) -> None:
    assert recognise(folder).facts.tasks == tuple(Task)
    change(folder / "unet/config.json", in_channels=9)
    assert recognise(folder).facts.tasks == (Task.INPAINTING,)


def test_a_model_that_does_not_fit_is_refused_with_both_sizes(folder: Path) -> None:
    def into(free: int, dtype: str) -> Callable[[Path], object]:
        return lambda at: identify(str(at), dtype=dtype, samplers=tuple(SCHEDULERS), free_bytes=free)

    into(10**7, "float32")(folder)
    told = refusal(into(1000, "bfloat16"), folder)
    assert told.startswith("not enough memory: the model's weights take 0.00")
    assert told.endswith(" GB in bfloat16, and 0.0000 GB are free")


def test_the_checksum_of_a_folder_is_what_sha256sum_gives(folder: Path) -> None:
    lines = "find . -name '*.safetensors' -printf '%P\\n' | LC_ALL=C sort | xargs -d '\\n' sha256sum | sha256sum"
    printed = subprocess.run(["bash", "-c", lines], cwd=folder, capture_output=True, text=True, check=True).stdout  # noqa: S607
    pinned = printed.split()[0]
    assert DiffusersFolder(folder).checksum() == pinned

    def pin(at: Path) -> Checkpoint:
        return identify(str(at), dtype="float32", samplers=tuple(SCHEDULERS), sha256=pinned)

    assert pin(folder)
    write_zeros(folder / "extra.safetensors", {"w": (1,)})
    assert refusal(pin, folder).startswith("the model is not the one that --model-sha256 names: its checksum is ")


@pytest.mark.parametrize("text", ["", "abc", "g" * 64, hashlib.sha256().hexdigest() + "0"])
def test_what_is_no_checksum_is_refused(folder: Path, text: str) -> None:
    def pin(at: Path) -> Checkpoint:
        return identify(str(at), dtype="float32", samplers=tuple(SCHEDULERS), sha256=text)

    assert refusal(pin, folder) == "--model-sha256 is no SHA-256: that has 64 hexadecimal digits"
