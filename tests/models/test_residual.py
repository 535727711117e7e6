"""Blocks with fewer passes: the same output, a row's same bits in any company, and what others read left alone."""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from diffusers.models.resnet import ResnetBlock2D
from torch import nn

from shared_worker.device import find_device
from tests.models.layers import made
from worker.models.loras.layers import LowRank, Rows
from worker.models.packing import lay_out
from worker.models.registry import identify
from worker.models.residual import LeanResnetBlock2D

HERE = torch.backends.cpu.get_cpu_capability()
TIME = 48
"""Channels of a time's embedding."""
Make = Callable[[], nn.Module]


def block(inside: int = 64, **changes: Any) -> Make:
    """Makes one of diffusers' blocks."""
    return lambda: ResnetBlock2D(in_channels=inside, **{"temb_channels": TIME, "groups": 8, **changes})


CASES = {
    "usual": (block(), (2, 64, 16, 12)),
    "to other channels": (block(out_channels=96), (3, 64, 9, 7)),
    "scaled and shifted": (block(time_embedding_norm="scale_shift"), (2, 64, 8, 8)),
    "of time activated already": (block(skip_time_act=True), (2, 64, 8, 8)),
    "of no time": (block(temb_channels=None), (1, 64, 16, 16)),
    "large": (block(256, out_channels=256), (4, 256, 32, 32)),
    "small": (block(16), (2, 16, 8, 8)),
}
OTHERS = {
    "that doubles": (block(up=True), (2, 64, 8, 8)),
    "that halves": (block(down=True), (2, 64, 8, 8)),
    "that scales": (block(output_scale_factor=2**0.5), (2, 64, 8, 8)),
    "with another activation": (block(non_linearity="gelu"), (2, 64, 8, 8)),
}
TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 3e-2, torch.float16: 4e-3}

pytestmark = pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64") or not torch.backends.mkl.is_available(),
    reason="the kernels are those of x86 processors",
)
cases = pytest.mark.parametrize(("make", "shape"), CASES.values(), ids=CASES)


@pytest.fixture(autouse=True, params=["AVX512", "AVX2", "DEFAULT"])
def capability(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What is computed is the same on every processor, however long it takes."""
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: request.param)
    torch.manual_seed(0)
    return str(request.param)


def time_of(layer: nn.Module, rows: int) -> torch.Tensor | None:
    """An embedding for it, where it takes one.  # [rows, TIME]"""
    return None if layer.time_emb_proj is None else torch.randn(rows, TIME)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("channels_last", [False, True])
@cases
def test_it_gives_what_it_gave_before_and_leaves_what_it_was_given(
    make: Make, shape: tuple[int, ...], channels_last: bool, dtype: torch.dtype
) -> None:
    if dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("the processor has no kernels for bfloat16")
    layer, x = made(make, dtype), torch.randn(shape).to(dtype)
    if channels_last:
        x = x.to(memory_format=torch.channels_last)
    time = time_of(layer, shape[0])
    time = None if time is None else time.to(dtype)
    given = [one.clone() for one in (x, time) if one is not None]
    before, names = layer(x, time), list(layer.state_dict())

    assert lay_out(layer) is layer
    assert type(layer) is LeanResnetBlock2D
    after = layer(x, time)
    assert after.dtype == dtype
    torch.testing.assert_close(after, before, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])
    assert after.is_contiguous(memory_format=torch.channels_last)
    assert list(layer.state_dict()) == names
    for kept, one in zip(given, [one for one in (x, time) if one is not None], strict=True):
        assert torch.equal(kept, one)


@cases
def test_with_the_same_number_of_rows_a_row_is_the_same_in_any_place_and_company(
    make: Make, shape: tuple[int, ...], capability: str
) -> None:
    if capability != HERE:
        pytest.skip("a promise of the kernels that it is for")
    layer = lay_out(made(make))
    row, others = torch.randn(1, *shape[1:]), torch.randn(2, 7, *shape[1:])
    time = time_of(layer, 15)
    parts = (None,) * 3 if time is None else time.split([1, 7, 7])
    first = layer(torch.cat([row, others[0]]), None if time is None else torch.cat([parts[0], parts[1]]))[:1]
    last = layer(torch.cat([others[1], row]), None if time is None else torch.cat([parts[2], parts[0]]))[-1:]
    assert torch.equal(first, last)


@cases
def test_a_change_of_dtype_loses_nothing(make: Make, shape: tuple[int, ...]) -> None:
    plain, x = made(make), torch.randn(shape)
    layer = made(make)
    layer.load_state_dict(plain.state_dict())
    time = time_of(layer, shape[0])
    lay_out(layer).to(torch.float64)
    wanted = plain.double()(x.double(), None if time is None else time.double())
    torch.testing.assert_close(layer(x.double(), None if time is None else time.double()), wanted)


@pytest.mark.parametrize("which", ["conv1", "conv2"])
@pytest.mark.parametrize("some", [False, True], ids=["all rows", "some rows"])
def test_an_adapter_acts_on_its_convolutions_as_before(which: str, some: bool) -> None:
    plain, layer, x, time = made(block()), made(block()), torch.randn(3, 64, 8, 8), torch.randn(3, TIME)
    layer.load_state_dict(plain.state_dict())
    alone = lay_out(layer)(x, time)
    adapter = LowRank(torch.randn(4, 64, 3, 3) / 24, torch.randn(64, 4, 1, 1) / 2)
    rows = Rows(torch.tensor([2]), torch.tensor([0.5])) if some else Rows(None, 0.5)
    getattr(layer, which).register_forward_hook(lambda conv, inputs, out: adapter.add(conv, inputs[0], out, rows))
    adapted = layer(x, time)
    getattr(plain, which).weight += 0.5 * torch.einsum("or,rikl->oikl", adapter.up[:, :, 0, 0], adapter.down)
    wanted = plain(x, time)
    if some:
        assert torch.equal(adapted[:2], alone[:2]), "rows that the adapter is not for keep every bit"
        adapted, wanted = adapted[2:], wanted[2:]
    torch.testing.assert_close(adapted, wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("make", "shape"), OTHERS.values(), ids=OTHERS)
def test_other_blocks_stay_what_they_are(make: Make, shape: tuple[int, ...]) -> None:
    layer, x, time = made(make), torch.randn(shape), torch.randn(shape[0], TIME)
    before = layer(x, time)
    assert type(lay_out(layer)) is ResnetBlock2D
    torch.testing.assert_close(layer(x, time), before, atol=2e-5, rtol=2e-5)


def test_what_is_being_trained_stays_what_it_is() -> None:
    assert type(lay_out(block()().requires_grad_(False))) is ResnetBlock2D


@pytest.mark.parametrize("compile", [None, "default"])
def test_a_models_blocks_are_lean_unless_it_is_compiled(compile: str | None) -> None:
    checkpoint = identify("builtin", dtype="float32", samplers=("dpmpp_2m",))
    checkpoint = replace(checkpoint, facts=replace(checkpoint.facts, compile=compile))
    model: Any = checkpoint.load(find_device("cpu"), lambda share: None)
    for part in (model._unet, model._vae._vae):
        kinds = {type(layer) for layer in part.modules() if isinstance(layer, ResnetBlock2D)}
        assert kinds == {ResnetBlock2D if compile else LeanResnetBlock2D}
