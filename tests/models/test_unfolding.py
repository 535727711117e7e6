"""Convolutions as products: the same output, a row's same bits in any company, and weights that stay what they are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import nn

from shared_worker.device import find_device
from tests.models.layers import in_two_places, made
from worker.models.packing import lay_out
from worker.models.registry import identify
from worker.models.unfolding import PIXELS, PointwiseConv2d, UnfoldedConv2d, UnfoldedWinograd
from worker.models.upsampling import UpsamplingConv2d

HERE = torch.backends.cpu.get_cpu_capability()
CASES = {
    "usual": (lambda: nn.Conv2d(64, 96, 3, padding=1), (2, 64, 4, 6), UnfoldedConv2d),
    "strided": (lambda: nn.Conv2d(8, 12, 3, stride=2, padding=1, bias=False), (3, 8, 9, 7), UnfoldedConv2d),
    "of sides that differ": (
        lambda: nn.Conv2d(4, 6, (3, 5), stride=(1, 2), padding=(2, 1), dilation=(2, 1)),
        (2, 4, 8, 11),
        UnfoldedConv2d,
    ),
    "without padding": (lambda: nn.Conv2d(8, 8, 3), (1, 8, 5, 5), UnfoldedConv2d),
    "of one pixel": (lambda: nn.Conv2d(24, 16, 1), (2, 24, 5, 4), PointwiseConv2d),
    "of one pixel, of many": (lambda: nn.Conv2d(24, 16, 1), (9, 24, 16, 16), PointwiseConv2d),
    "of one pixel, strided": (lambda: nn.Conv2d(24, 16, 1, stride=2), (2, 24, 7, 8), UnfoldedConv2d),
    "of as many pixels as it is for": (lambda: nn.Conv2d(8, 8, 3, padding=1), (2, 8, 16, 16), UnfoldedConv2d),
    "of more": (lambda: nn.Conv2d(8, 8, 3, padding=1), (3, 8, 16, 16), UnfoldedConv2d),
}
pytestmark = pytest.mark.skipif(not torch.backends.mkl.is_available(), reason="products are computed by MKL")
cases = pytest.mark.parametrize(("make", "shape", "kind"), CASES.values(), ids=CASES)


@pytest.fixture(autouse=True)
def avx2(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is computed is the same on every processor, however long it takes."""
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    torch.manual_seed(0)


@pytest.mark.parametrize("channels_last", [False, True])
@cases
def test_it_gives_what_it_gave_before(
    make: Callable[[], nn.Module], shape: tuple[int, ...], kind: type, channels_last: bool
) -> None:
    layer, x = made(make), torch.randn(shape)
    if channels_last:
        x = x.to(memory_format=torch.channels_last)
    before = layer(x)

    assert lay_out(layer) is layer
    assert type(layer) is kind
    after = layer(x)
    torch.testing.assert_close(after, before, atol=1e-5, rtol=1e-5)
    assert after.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.skipif(HERE != "AVX2", reason="a promise of the kernels that it is for")
@cases
def test_with_the_same_number_of_rows_a_row_is_the_same_in_any_place_and_company(
    make: Callable[[], nn.Module], shape: tuple[int, ...], kind: type
) -> None:
    first, last = in_two_places(lay_out(made(make)), shape)
    assert torch.equal(first, last)


def test_only_few_pixels_are_written_out(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = lay_out(made(lambda: nn.Conv2d(4, 4, 3, padding=1)))
    convolved = list[int]()

    def convolve(self: nn.Conv2d, input: torch.Tensor) -> torch.Tensor:
        convolved.append(input.shape[0])
        return torch.zeros(input.shape)

    monkeypatch.setattr(nn.Conv2d, "forward", convolve)
    for rows in (PIXELS // 64, PIXELS // 64 + 1):
        layer(torch.randn(rows, 4, 8, 8))
    assert convolved == [PIXELS // 64 + 1]


def test_weights_stay_where_and_what_they_are() -> None:
    layer = made(lambda: nn.Conv2d(4, 8, 3)).to(memory_format=torch.channels_last)
    weight, lies_at = layer.weight, layer.weight.data_ptr()
    lay_out(layer)
    assert layer.weight is weight
    assert layer.weight.data_ptr() == lies_at
    half = layer.to(torch.bfloat16)
    assert half(torch.randn(1, 4, 5, 5, dtype=torch.bfloat16)).dtype == torch.bfloat16


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 8, 3, groups=2),
        nn.Conv2d(4, 8, 3, padding="same"),
        nn.Conv2d(4, 8, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(4, 8, 3).to(torch.bfloat16),
    ],
    ids=["in groups", "padded to the same", "mirrored", "in bfloat16"],
)
def test_what_is_no_such_product_becomes_channels_last(layer: nn.Conv2d) -> None:
    lay_out(nn.Sequential(layer.requires_grad_(False)))
    assert type(layer) is nn.Conv2d
    assert layer.weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("compiled", [False, True])
def test_a_model_on_the_cpu_is_drawn_so_unless_a_compiler_reads_it(compiled: bool) -> None:
    checkpoint = identify("builtin", dtype=None, samplers=("dpmpp_2m",))
    if compiled:
        checkpoint = replace(checkpoint, facts=replace(checkpoint.facts, compile="default"))
    model = checkpoint.load(find_device("cpu"), lambda share: None)
    usual = {UnfoldedConv2d, PointwiseConv2d, UpsamplingConv2d}
    for part, drawn_by in (
        (model._unet, usual | {UnfoldedWinograd}),  # type: ignore[attr-defined]
        (model._vae._vae, usual),  # type: ignore[attr-defined]
    ):
        kinds = {type(layer) for layer in part.modules() if isinstance(layer, nn.Conv2d)}
        assert kinds == ({nn.Conv2d} if compiled else drawn_by)
