"""Convolutions with fewer products: the same output, a row's same bits in any company, and small ones as before."""

from __future__ import annotations

import platform
from collections.abc import Callable

import pytest
import torch
from torch import nn

from tests.models.layers import in_two_places, made
from worker.models import winograd
from worker.models.packing import PackedConv2d, PackedWinograd, lay_out
from worker.models.unfolding import UnfoldedConv2d, UnfoldedWinograd
from worker.models.winograd import Winograd

HERE = torch.backends.cpu.get_cpu_capability()
KINDS = {"AVX512": (PackedWinograd, PackedConv2d), "AVX2": (UnfoldedWinograd, UnfoldedConv2d)}
CASES = {
    "usual": (lambda: nn.Conv2d(256, 256, 3, padding=1), (4, 256, 32, 32)),
    "of sides that differ": (lambda: nn.Conv2d(256, 288, 3, padding=1), (3, 256, 46, 33)),
    "without bias": (lambda: nn.Conv2d(272, 256, 3, padding=1, bias=False), (1, 272, 64, 64)),
    "of one line of tiles": (lambda: nn.Conv2d(256, 256, 3, padding=1), (2, 256, 3, 600)),
    "of one column of tiles": (lambda: nn.Conv2d(256, 256, 3, padding=1), (1, 256, 1100, 4)),
    "of kernels in parts": (lambda: nn.Conv2d(1024, 768, 3, padding=1), (8, 1024, 24, 24)),
}
Make = Callable[[], nn.Module]

pytestmark = pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64") or not torch.backends.mkl.is_available(),
    reason="the kernels are those of x86 processors",
)
cases = pytest.mark.parametrize(("make", "shape"), CASES.values(), ids=CASES)


@pytest.fixture(autouse=True, params=KINDS)
def capability(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What is computed is the same on every processor, however long it takes."""
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: request.param)
    torch.manual_seed(0)
    return str(request.param)


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[torch.Size]:
    """What was computed with fewer products."""
    shapes: list[torch.Size] = []
    convolved = winograd._convolved

    def told(pixels: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        shapes.append(pixels.shape)
        return convolved(pixels, weight, bias)

    monkeypatch.setattr(winograd, "_convolved", told)
    return shapes


@pytest.mark.parametrize("channels_last", [False, True])
@cases
def test_it_gives_what_it_gave_before(
    make: Make, shape: tuple[int, ...], channels_last: bool, capability: str, computed: list[torch.Size]
) -> None:
    layer, x = made(make), torch.randn(shape)
    if channels_last:
        x = x.to(memory_format=torch.channels_last)
    before, names = layer(x), list(layer.state_dict())
    exact = nn.functional.conv2d(x[:1].double(), layer.weight.double(), padding=1)
    exact += 0.0 if layer.bias is None else layer.bias[:, None, None]

    assert lay_out(layer) is layer
    assert type(layer) is KINDS[capability][0]
    after = layer(x)
    assert len(computed) == 1
    torch.testing.assert_close(after, before, atol=1e-4, rtol=1e-4)
    assert (after[:1] - exact).norm() < 1e-5 * exact.norm(), "in fp32, not in some half precision"
    assert after.is_contiguous(memory_format=torch.channels_last)
    assert list(layer.state_dict()) == names


@cases
def test_with_the_same_number_of_rows_a_row_is_the_same_in_any_place_and_company(
    make: Make, shape: tuple[int, ...], capability: str, computed: list[torch.Size]
) -> None:
    if capability != HERE:
        pytest.skip("a promise of the kernels that it is for")
    first, last = in_two_places(lay_out(made(make)), shape)
    assert len(computed) == 2
    assert torch.equal(first, last)


def test_what_is_no_number_in_one_row_is_in_no_other() -> None:
    layer, x = lay_out(made(lambda: nn.Conv2d(256, 256, 3, padding=1))), torch.randn(4, 256, 32, 32)
    clean = layer(x)
    x[1, 7, 5, 9] = torch.nan
    found = layer(x)
    assert found[1].isnan().any()
    others = [0, 2, 3]
    assert torch.equal(found[others], clean[others])


@pytest.mark.parametrize(
    ("rows", "height", "width"), [(1, 8, 8), (300, 2, 2), (64, 5, 5)], ids=["few tiles", "half a tile", "cut tiles"]
)
def test_what_would_not_pay_is_computed_as_before(
    rows: int, height: int, width: int, computed: list[torch.Size]
) -> None:
    layer, x = made(lambda: nn.Conv2d(256, 256, 3, padding=1)), torch.randn(rows, 256, height, width)
    before = layer(x)
    torch.testing.assert_close(lay_out(layer)(x), before, atol=1e-5, rtol=1e-5)
    assert not computed


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.Conv2d(256, 256, 3, padding=1, stride=2),
        lambda: nn.Conv2d(256, 256, 3),
        lambda: nn.Conv2d(256, 256, 3, padding=1, dilation=1, groups=2),
        lambda: nn.Conv2d(256, 256, 3, padding=2, dilation=2),
        lambda: nn.Conv2d(256, 256, 5, padding=1),
        lambda: nn.Conv2d(256, 4, 3, padding=1),
        lambda: nn.Conv2d(64, 256, 3, padding=1),
    ],
    ids=["strided", "without padding", "in groups", "dilated", "larger", "of few outputs", "of few inputs"],
)
def test_other_layers_are_computed_as_before(make: Make) -> None:
    layer, x = made(make), torch.randn(1, make().in_channels, 64, 64)
    before = layer(x)
    assert not isinstance(lay_out(layer), Winograd)
    torch.testing.assert_close(layer(x), before, atol=1e-5, rtol=1e-5)


def test_a_change_of_dtype_loses_nothing(computed: list[torch.Size], capability: str) -> None:
    layer, x = lay_out(made(lambda: nn.Conv2d(256, 256, 3, padding=1))), torch.randn(2, 256, 64, 64)
    before = layer(x)
    layer.to(torch.float64)
    torch.testing.assert_close(layer(x.double()).float(), before, atol=1e-4, rtol=1e-4)
    assert len(computed) == 1
    lay_out(layer.to(torch.float32))
    assert torch.equal(layer(x), before)
    assert len(computed) == 2
    if torch.ops.mkldnn._is_mkldnn_bf16_supported():
        layer.to(torch.bfloat16)
        assert layer(x.bfloat16()).dtype == torch.bfloat16
        assert len(computed) == 2
