"""Adapters in memory: loaded once, let go of within a bound, never while in use; and what of a file is refused."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.models.lora_files import ATTENTION, TEXT, make_factors, write_diffusers, write_kohya
from tests.models.test_lora import load, wearing
from tests.models.test_sd import draw, one_thread
from tests.models.tiny import job, load_stock
from worker.engine.denoiser import Denoiser
from worker.errors import InvalidInput
from worker.jobs.params import LoraParams
from worker.models.loras.adapters import Adapters
from worker.models.loras.folder import Fit, Loras
from worker.models.loras.layers import LowRank, Rows
from worker.models.loras.weights import read_weights

__all__ = ["one_thread"]

Spoil = Callable[[str, torch.Tensor], tuple[str, torch.Tensor]]
NAMES = ("a", "b", "c", "d")


@pytest.fixture(scope="module")
def loras(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four of one size; the last changes the text encoder alone."""
    folder = tmp_path_factory.mktemp("loras")
    stock = load_stock(tiny)
    for seed, name in enumerate(NAMES[:3]):
        write_kohya(folder / f"{name}.safetensors", make_factors({"unet": stock.unet}, seed, ATTENTION))
    write_diffusers(folder / "d.safetensors", make_factors({"text_encoder": stock.text_encoder}, 3, TEXT))
    return folder


def size_of(file: Path) -> int:
    return sum(tensor.nbytes for name, tensor in load_file(file).items() if not name.endswith(".alpha"))


def adapters_of(denoiser: Denoiser) -> Adapters:
    adapters = denoiser._model.adapters
    assert isinstance(adapters, Adapters)
    return adapters


def kept(denoiser: Denoiser) -> list[str]:
    return list(adapters_of(denoiser)._kept)


def hooks(denoiser: Denoiser) -> int:
    parts = (denoiser._model._unet, denoiser._model._text_encoder)
    return sum(len(layer._forward_hooks) for part in parts for layer in part.modules())


def test_the_least_recently_used_goes_first_and_leaves_nothing_behind(tiny: Path, loras: Path) -> None:
    denoiser = load(tiny, loras, cache_bytes=int(2.5 * size_of(loras / "a.safetensors")))
    assert hooks(denoiser) == 0
    for name in "aab":
        list(denoiser.open(wearing((name, 1.0))))
    assert kept(denoiser) == ["a", "b"]
    count, held = adapters_of(denoiser).held
    assert (count, held) == (2, 2 * size_of(loras / "a.safetensors"))
    both = hooks(denoiser)
    list(denoiser.open(wearing(("a", 0.3))))
    list(denoiser.open(wearing(("c", 1.0))))
    assert kept(denoiser) == ["a", "c"]
    assert hooks(denoiser) == both, "one behind each layer, however many adapters change it"


def test_what_a_drawing_uses_stays(tiny: Path, loras: Path) -> None:
    denoiser = load(tiny, loras, cache_bytes=0)
    drawings = list(denoiser.open(wearing(("a", 1.0), ("b", 1.0))))
    list(denoiser.open(wearing(("c", 1.0))))
    assert kept(denoiser) == ["a", "b", "c"]
    del drawings
    list(denoiser.open(wearing(("b", 1.0))))
    assert kept(denoiser) == ["b"]
    list(denoiser.open(job()))
    assert kept(denoiser) == []


def test_what_nobody_uses_is_let_go_of_where_memory_lacks(tiny: Path, loras: Path) -> None:
    denoiser = load(tiny, loras)
    drawings = list(denoiser.open(wearing(("a", 1.0))))
    list(denoiser.open(wearing(("b", 1.0))))
    assert denoiser.let_go()
    assert kept(denoiser) == ["a"]
    assert not denoiser.let_go()
    assert drawings


def test_a_picture_is_the_same_after_its_adapter_was_let_go_of(tiny: Path, loras: Path) -> None:
    denoiser = load(tiny, loras, cache_bytes=0)
    before = draw(denoiser, wearing(("a", 1.0)), job(seed=2))
    draw(denoiser, wearing(("b", 1.0)))
    after = draw(denoiser, wearing(("a", 1.0)), job(seed=2))
    assert all(np.array_equal(one, other) for [one], [other] in zip(before, after, strict=True))


def test_memory_is_flat_over_many_that_come_and_go(tiny: Path, loras: Path) -> None:
    denoiser = load(tiny, loras, cache_bytes=size_of(loras / "a.safetensors"))

    def tensors() -> int:
        gc.collect()
        return sum(issubclass(type(one), torch.Tensor) for one in gc.get_objects())

    def rounds(count: int) -> None:
        for k in range(count):
            one, other = NAMES[k % 4], NAMES[(k + 1) % 4]
            (drawing,) = denoiser.open(wearing((one, 1.0), (other, 0.5), steps=1))
            denoiser.step([drawing, *denoiser.open(job(steps=1))])

    rounds(8)
    there, behind = tensors(), hooks(denoiser)
    rounds(40)
    assert tensors() <= there
    assert hooks(denoiser) <= behind
    assert adapters_of(denoiser).held[0] <= 2


def test_prompts_are_encoded_anew_only_for_what_changes_them(tiny: Path, loras: Path) -> None:
    heard: list[bool] = []
    denoiser = load(tiny, loras, on_prompt=heard.append)
    for asked in (job(), wearing(("a", 1.0)), wearing(("d", 1.0)), wearing(("d", 0.5)), wearing(("a", 1), ("d", 1.0))):
        list(denoiser.open(asked))
    assert heard == [False, False, True, True, False, False, False, False, True, True]


def test_a_name_that_comes_twice_counts_by_the_sum(tiny: Path, loras: Path) -> None:
    denoiser = load(tiny, loras)
    [drawing] = denoiser.open(wearing(("b", 0.5), ("a", 1.0), ("b", 0.25)))
    assert drawing.adapters.loras == (LoraParams("a", 1.0), LoraParams("b", 0.75))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda name, tensor: (name, tensor[:, :-1] if "lora_down" in name else tensor),
            "does not fit the model: not at",
        ),
        (lambda name, tensor: (name.replace("_to_", "_of_"), tensor), "none of its layers is the model's"),
        (lambda name, tensor: (name.replace("lora_up", "lora_over"), tensor), "cannot be read"),
    ],
)
def test_a_file_that_fits_by_its_header_alone_fails_its_job_alone(
    tiny: Path, tmp_path: Path, spoil: Spoil, message: str
) -> None:
    stock = load_stock(tiny)
    file = write_kohya(tmp_path / "one.safetensors", make_factors({"unet": stock.unet}, 0, ("to_q", "to_v")))
    spoilt = dict(spoil(name, tensor) for name, tensor in load_file(file).items())
    save_file({name: tensor.contiguous() for name, tensor in spoilt.items()}, file)
    denoiser = load(tiny, tmp_path)
    with pytest.raises(InvalidInput, match=message) as raised:
        list(denoiser.open(wearing(("one", 1.0))))
    assert str(tmp_path) not in raised.value.detail
    assert kept(denoiser) == []
    assert hooks(denoiser) == 0
    draw(denoiser, job(steps=1))


def without_rank(name: str, tensor: torch.Tensor) -> tuple[str, torch.Tensor]:
    return name, tensor[:0] if "lora_A" in name else tensor[:, :0]


@pytest.mark.parametrize("spoil", [without_rank, lambda name, tensor: (name, tensor.flatten())])
@pytest.mark.parametrize("layer", ["to_q", "conv1"])
def test_factors_that_are_none_fail_their_job_alone(tiny: Path, tmp_path: Path, spoil: Spoil, layer: str) -> None:
    file = write_diffusers(tmp_path / "one.safetensors", make_factors({"unet": load_stock(tiny).unet}, 0, (layer,)))
    save_file(dict(spoil(name, tensor) for name, tensor in load_file(file).items()), file)
    with pytest.raises(InvalidInput, match="does not fit the model: not at"):
        list(load(tiny, tmp_path).open(wearing(("one", 1.0))))


def test_other_ways_to_write_an_adapter_down_are_the_same_adapter(tiny: Path, tmp_path: Path) -> None:
    """Of a text encoder some layers alone, beside what is no layer, a UNet's layers without its name."""
    stock = load_stock(tiny)
    text = make_factors({"text_encoder": stock.text_encoder}, 0, ("q_proj", "v_proj"))
    write_diffusers(tmp_path / "text.safetensors", text)
    write_kohya(tmp_path / "text other.safetensors", text, te="lora_te")
    unet = make_factors({"unet": stock.unet}, 1, ("to_q", "to_out.0"))
    file = write_diffusers(tmp_path / "unet.safetensors", unet)
    old = {old_name(name): tensor for name, tensor in load_file(file).items()}
    save_file(old, tmp_path / "unet other.safetensors")
    file = write_kohya(tmp_path / "unet packed.safetensors", unet)
    save_file(load_file(file) | {"bundle_emb.word.string_to_param.*": torch.ones(2, 4)}, file)
    denoiser = load(tiny, tmp_path)
    for name, *others in (("text", "text other"), ("unet", "unet other", "unet packed")):
        [[expected]] = draw(denoiser, wearing((name, 1.0)))
        for other in others:
            assert np.array_equal(draw(denoiser, wearing((other, 1.0)))[0][0], expected), other
            assert not next(denoiser.open(wearing((other, 1.0)))).warnings


def old_name(name: str) -> str:
    """As diffusers wrote it before peft, for an attention processor."""
    place, _, factor = name.removeprefix("unet.").removesuffix(".weight").rpartition(".lora_")
    attention, _, layer = place.removesuffix(".0").rpartition(".")
    return f"{attention}.processor.{layer}_lora.{'down' if factor == 'A' else 'up'}.weight"


def test_a_projection_alone_is_read(tmp_path: Path) -> None:
    down, up = torch.ones(2, 4), torch.ones(6, 2)
    place = "lora_te2_text_projection"
    save_file({f"{place}.lora_down.weight": down, f"{place}.lora_up.weight": up}, tmp_path / "one.safetensors")
    part = torch.nn.ModuleDict({"text_projection": torch.nn.Linear(4, 6)})
    lora = Loras.in_folder(tmp_path, Fit("sdxl", None)).get("one")
    found, unknown = read_weights(lora, "sdxl", {"text_encoder_2": part}, torch.device("cpu"), torch.float32)
    assert unknown == 0
    assert torch.equal(found["text_encoder_2"][part["text_projection"]].up, up)


def test_a_file_that_is_gone_fails_its_job_alone(tiny: Path, tmp_path: Path) -> None:
    stock = load_stock(tiny)
    file = write_diffusers(tmp_path / "one.safetensors", make_factors({"unet": stock.unet}, 0, ("to_q",)))
    denoiser = load(tiny, tmp_path)
    file.unlink()
    with pytest.raises(InvalidInput, match="cannot be read"):
        list(denoiser.open(wearing(("one", 1.0))))


def test_layers_that_the_model_lacks_are_told_of(tiny: Path, tmp_path: Path) -> None:
    stock = load_stock(tiny)
    file = write_diffusers(tmp_path / "one.safetensors", make_factors({"unet": stock.unet}, 0, ("to_q",)))
    more = {
        f"{part}.nowhere.lora_{factor}.weight": torch.ones(4, 4)
        for part in ("unet", "text_encoder_3")
        for factor in ("A", "B")
    }
    save_file(load_file(file) | more, file)
    [drawing] = load(tiny, tmp_path).open(wearing(("one", 1.0)))
    assert drawing.warnings == ("loras: one: 2 of its layers are not the model's and were not used",)


@pytest.mark.parametrize("which", [None, torch.tensor([1])])
def test_what_a_convolution_makes_keeps_its_place_in_memory(which: torch.Tensor | None) -> None:
    """Another memory format takes other kernels behind it, which round the rows of other jobs differently."""
    layer = torch.nn.Conv2d(4, 8, 3, padding=1).to(memory_format=torch.channels_last)
    x = torch.randn(2, 4, 5, 5).to(memory_format=torch.channels_last)
    output = layer(x).detach()
    factors = LowRank(torch.randn(2, 4, 3, 3), torch.randn(8, 2, 1, 1))
    added = factors.add(layer, x, output.clone(), Rows(which, 1.0 if which is None else torch.tensor([1.0])))
    assert added.stride() == output.stride() != output.contiguous().stride()
    assert torch.equal(added[0], output[0]) == (which is not None)
    assert not torch.equal(added[1], output[1])
