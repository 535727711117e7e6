"""A doubling and its convolution as one: the same output, a row's same bits in any company, own weights untouched."""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from diffusers.models.upsampling import Upsample2D
from torch import nn

from shared_worker.device import find_device
from tests.models.layers import in_two_places, made
from worker.models.loras.layers import LowRank, Rows
from worker.models.packing import lay_out
from worker.models.registry import identify
from worker.models.upsampling import UpsamplingConv2d, by_parity, doubled, transposed

HERE = torch.backends.cpu.get_cpu_capability()
CASES = {
    "usual": (lambda: Upsample2D(64, use_conv=True), (2, 64, 16, 24)),
    "of sides that differ": (lambda: Upsample2D(96, use_conv=True, out_channels=80), (3, 96, 9, 7)),
    "without bias": (lambda: Upsample2D(48, use_conv=True, bias=False), (1, 48, 8, 8)),
    "small": (lambda: Upsample2D(12, use_conv=True, out_channels=4), (2, 12, 5, 4)),
    "of one pixel": (lambda: Upsample2D(32, use_conv=True), (1, 32, 1, 1)),
}
OTHERS = {
    "without a convolution": lambda: Upsample2D(8),
    "transposed already": lambda: Upsample2D(8, use_conv=True, use_conv_transpose=True),
    "that doubles nothing": lambda: Upsample2D(8, use_conv=True, interpolate=False),
    "of another kernel": lambda: Upsample2D(8, use_conv=True, kernel_size=5, padding=2),
    "under another name": lambda: Upsample2D(8, use_conv=True, name="Conv2d_0"),
}
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}
Make = Callable[[], nn.Module]

pytestmark = pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64") or not torch.backends.mkl.is_available(),
    reason="the kernels are those of x86 processors",
)
cases = pytest.mark.parametrize(("make", "shape"), CASES.values(), ids=CASES)


@pytest.fixture(autouse=True, params=["AVX512", "AVX2"])
def capability(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What is computed is the same on every processor, however long it takes."""
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: request.param)
    torch.manual_seed(0)
    return str(request.param)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("channels_last", [False, True])
@cases
def test_it_gives_what_it_gave_before(
    make: Make, shape: tuple[int, ...], channels_last: bool, dtype: torch.dtype, capability: str
) -> None:
    if dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("the processor has no kernels for bfloat16")
    layer, x = made(make, dtype), torch.randn(shape).to(dtype)
    if channels_last:
        x = x.to(memory_format=torch.channels_last)
    before, names = layer(x), list(layer.state_dict())

    assert lay_out(layer) is layer
    assert (type(layer.conv) is UpsamplingConv2d) is (dtype == torch.float32 or capability == "AVX512")
    after = layer(x)
    assert after.dtype == dtype
    torch.testing.assert_close(after, before, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])
    assert after.is_contiguous(memory_format=torch.channels_last)
    assert list(layer.state_dict()) == names


@cases
def test_with_the_same_number_of_rows_a_row_is_the_same_in_any_place_and_company(
    make: Make, shape: tuple[int, ...], capability: str
) -> None:
    if capability != HERE:
        pytest.skip("a promise of the kernels that it is for")
    first, last = in_two_places(lay_out(made(make)), shape)
    assert torch.equal(first, last)


@cases
def test_a_change_of_dtype_adds_weights_up_anew_and_loses_nothing(make: Make, shape: tuple[int, ...]) -> None:
    layer, x = lay_out(made(make)), torch.randn(shape)
    weight, before = layer.conv.weight.clone(), layer(x)
    doubles = made(make, torch.float64)
    doubles.load_state_dict(layer.state_dict())
    layer.to(torch.float64)  # no kernels
    torch.testing.assert_close(layer(x.double()), doubles(x.double()))
    layer.to(torch.float32)
    assert torch.equal(layer.conv.weight, weight)
    assert torch.equal(layer(x), before)
    layer.conv.weight.data.zero_()
    layer.to(torch.bfloat16).to(torch.float32)
    bias = 0.0 if layer.conv.bias is None else layer.conv.bias[:, None, None]
    assert torch.equal(layer(x), torch.zeros_like(before) + bias), "sums are those of the weights as they are now"


def test_what_changes_nothing_adds_nothing_up() -> None:
    layer = lay_out(made(lambda: Upsample2D(8, use_conv=True)))
    folded = layer.conv.folded
    layer.to("cpu").to(torch.float32)
    assert layer.conv.folded is folded is not None


@pytest.mark.parametrize("make", OTHERS.values(), ids=OTHERS)
def test_other_layers_stay_what_they_are(make: Make) -> None:
    layer, x = made(make), torch.randn(1, 8, 6, 6)
    before = layer(x)
    lay_out(layer)
    assert not any(type(one) is UpsamplingConv2d for one in layer.modules())
    torch.testing.assert_close(layer(x), before, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("other", ["DEFAULT", "SVE256"])
def test_on_other_processors_layers_stay_what_they_are(monkeypatch: pytest.MonkeyPatch, other: str) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: other)
    layer = lay_out(made(lambda: Upsample2D(8, use_conv=True)))
    assert layer.interpolate
    assert type(layer.conv) is nn.Conv2d


def test_both_sums_are_of_the_same_nine_weights() -> None:
    weight, x = torch.randn(6, 5, 3, 3, dtype=torch.float32), torch.randn(2, 5, 7, 4)
    wanted = nn.functional.conv2d(doubled(x), weight, padding=1)
    torch.testing.assert_close(nn.functional.conv_transpose2d(x, transposed(weight), stride=2, padding=1), wanted)
    for row in (0, 1):
        for column in (0, 1):
            sums = by_parity(weight)[row, column]
            found = nn.functional.conv2d(x, sums, padding=1)[:, :, row : row + 7, column : column + 4]
            torch.testing.assert_close(found, wanted[:, :, row::2, column::2])


@pytest.mark.parametrize("which", [None, [1]])
def test_a_lora_is_added_as_if_pixels_were_doubled_first(which: list[int] | None) -> None:
    layer, x = made(lambda: Upsample2D(16, use_conv=True)), torch.randn(2, 16, 6, 5)
    lora = LowRank(torch.randn(4, 16, 3, 3), torch.randn(16, 4, 1, 1))
    rows = Rows(None if which is None else torch.tensor(which), 0.7)

    def added(conv: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        return lora.add(conv, inputs[0], output, rows)  # type: ignore[arg-type]

    layer.conv.register_forward_hook(added)
    before = layer(x)
    lay_out(layer)
    assert type(layer.conv) is UpsamplingConv2d
    torch.testing.assert_close(layer(x), before, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("compiled", [False, True])
def test_a_model_on_the_cpu_is_drawn_so_unless_a_compiler_reads_it(compiled: bool) -> None:
    checkpoint = identify("builtin", dtype=None, samplers=("dpmpp_2m",))
    if compiled:
        checkpoint = replace(checkpoint, facts=replace(checkpoint.facts, compile="default"))
    model = checkpoint.load(find_device("cpu"), lambda share: None)
    for part in (model._unet, model._vae._vae):  # type: ignore[attr-defined]
        upsampling = [layer for layer in part.modules() if isinstance(layer, Upsample2D)]
        assert upsampling
        assert all((type(layer.conv) is UpsamplingConv2d) is not compiled for layer in upsampling)
