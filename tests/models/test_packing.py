"""Packed weights: the same output, a row's same bits in any company, and plain weights again where those are wanted."""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from shared_worker.device import Device, find_device
from tests.models.layers import in_two_places, made
from tests.models.tiny import write_tiny
from worker.models.packing import PackedConv2d, PackedLinear, PackedPointwise, lay_out
from worker.models.registry import identify

X86 = ("x86_64", "AMD64")
MAPS = Path("/proc/self/maps")

pytestmark = pytest.mark.skipif(platform.machine() not in X86, reason="the kernels are those of x86 processors")

CASES = {
    "linear": (lambda: nn.Linear(96, 80), (3, 77, 96), PackedLinear),
    "linear without bias": (lambda: nn.Linear(96, 80, bias=False), (5, 96), PackedLinear),
    "convolution": (lambda: nn.Conv2d(64, 96, 3, padding=1), (2, 64, 16, 24), PackedConv2d),
    "strided": (lambda: nn.Conv2d(64, 96, 3, stride=2, padding=1, bias=False), (3, 64, 9, 7), PackedConv2d),
    "in groups": (lambda: nn.Conv2d(128, 128, 3, padding=2, dilation=2, groups=2), (1, 128, 8, 8), PackedConv2d),
    "of one pixel": (lambda: nn.Conv2d(256, 192, 1), (2, 256, 5, 4), PackedPointwise),
    "of one pixel, strided": (lambda: nn.Conv2d(256, 192, 1, stride=2), (2, 256, 8, 8), PackedConv2d),
}
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}
cases = pytest.mark.parametrize(("make", "shape", "packed"), CASES.values(), ids=CASES)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def packs(monkeypatch: pytest.MonkeyPatch) -> None:
    """What packed layers compute is the same with every processor's kernels, however long those take."""
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("channels_last", [False, True])
@cases
def test_a_packed_layer_gives_what_it_gave_before(
    make: Callable[[], nn.Module], shape: tuple[int, ...], packed: type, channels_last: bool, dtype: torch.dtype
) -> None:
    if dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("the processor has no kernels for bfloat16")
    layer, x = made(make, dtype), torch.randn(shape).to(dtype)
    if channels_last and x.ndim == 4:
        x = x.to(memory_format=torch.channels_last)
    before = layer(x)

    assert lay_out(layer) is layer
    assert type(layer) is packed
    after = layer(x)
    assert (after.dtype, after.shape) == (before.dtype, before.shape)
    torch.testing.assert_close(after, before, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])
    if after.ndim == 4:
        assert after.is_contiguous(memory_format=torch.channels_last)


@cases
def test_with_the_same_number_of_rows_a_row_is_the_same_in_any_place_and_company(
    make: Callable[[], nn.Module], shape: tuple[int, ...], packed: type
) -> None:
    first, last = in_two_places(lay_out(made(make)), shape)
    assert torch.equal(first, last)


@cases
def test_a_change_of_dtype_lays_weights_out_anew_and_loses_nothing(
    make: Callable[[], nn.Module], shape: tuple[int, ...], packed: type
) -> None:
    layer, x = made(make), torch.randn(shape)
    weights = {name: tensor.to(torch.bfloat16) for name, tensor in layer.state_dict().items()}
    lay_out(layer)
    layer.to(torch.float16)  # no kernels
    assert type(layer) in (nn.Linear, nn.Conv2d)
    layer.load_state_dict(weights)
    layer.to(torch.float32)
    plain = layer(x)
    lay_out(layer)
    assert type(layer) is packed
    layer.to(torch.float64)
    layer.to(torch.float32)
    assert torch.equal(layer(x), plain), "weights came back as they were"


def test_what_changes_nothing_leaves_weights_where_they_lie() -> None:
    layer = lay_out(made(lambda: nn.Conv2d(64, 96, 3)))
    weight = layer.weight
    layer.to("cpu").to(torch.float32).to(memory_format=torch.channels_last)
    assert layer.weight is weight


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 64, 3),
        nn.Conv2d(64, 96, 3, padding="same"),
        nn.Conv2d(64, 96, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(64, 96, 3).to(torch.float16),
    ],
    ids=["small", "padded to the same", "mirrored", "half"],
)
def test_what_cannot_be_packed_becomes_channels_last(layer: nn.Conv2d) -> None:
    assert lay_out(nn.Sequential(layer.requires_grad_(False)))
    assert type(layer) is nn.Conv2d
    assert layer.weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("capability", ["DEFAULT", "SVE256"])
def test_on_other_processors_nothing_is_packed(monkeypatch: pytest.MonkeyPatch, capability: str) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    net = lay_out(nn.Sequential(nn.Linear(8, 8), nn.Conv2d(64, 96, 3)))
    assert [type(layer) for layer in net] == [nn.Linear, nn.Conv2d]
    assert net[1].weight.is_contiguous(memory_format=torch.channels_last)


def test_subclasses_keep_what_they_do() -> None:
    class Doubled(nn.Linear):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(input)

    layer, x = Doubled(8, 8), torch.randn(2, 8)
    before = layer(x)
    assert torch.equal(lay_out(layer)(x), before)


@pytest.mark.parametrize(
    ("changes", "packed"),
    [
        ({}, True),
        ({"compile": "default"}, False),
        ({"weights_dtype": "float8_e4m3fn"}, False),
        ({"dtype": "float16"}, False),
    ],
    ids=["usual", "for a compiler", "in 8 bits", "in half"],
)
def test_a_model_on_the_cpu_is_packed_where_nothing_else_wants_its_weights(
    changes: dict[str, Any], packed: bool
) -> None:
    checkpoint = identify("builtin", dtype=None, samplers=("dpmpp_2m",))
    checkpoint = replace(checkpoint, facts=replace(checkpoint.facts, **changes))
    model = checkpoint.load(find_device("cpu"), lambda share: None)
    kinds = {PackedLinear, PackedConv2d, PackedPointwise}
    for part in (model._unet, model._vae._vae, model._text_encoder):  # type: ignore[attr-defined]
        assert bool(kinds & {type(layer) for layer in part.modules()}) is packed


@pytest.mark.parametrize("compile", [None, "default"])
def test_elsewhere_only_what_is_compiled_is_laid_out_and_never_packed(compile: str | None) -> None:
    checkpoint = identify("builtin", dtype="float32", samplers=("dpmpp_2m",))
    checkpoint = replace(checkpoint, facts=replace(checkpoint.facts, compile=compile))
    model: Any = checkpoint.load(Device("cuda", "cpu:0", "a device that is the CPU"), lambda share: None)

    def channels_last(part: nn.Module) -> set[bool]:
        found = [layer for layer in part.modules() if type(layer) is nn.Conv2d and layer.kernel_size == (3, 3)]
        assert found
        return {layer.weight.is_contiguous(memory_format=torch.channels_last) for layer in found}

    assert channels_last(model._unet) == {compile is not None}
    assert channels_last(model._vae._vae) == {False}, "which is never compiled"


@pytest.mark.skipif(not MAPS.exists(), reason="only Linux tells what is mapped")
def test_what_is_packed_does_not_stay_in_memory_as_it_was_read(tmp_path: Path) -> None:
    checkpoint = identify(str(write_tiny(tmp_path / "model")), dtype="float32", samplers=("ddim",))
    model = checkpoint.load(find_device("cpu"), lambda share: None)
    assert model.dtype == torch.float32
    assert str(tmp_path) not in MAPS.read_text(encoding="utf-8")
