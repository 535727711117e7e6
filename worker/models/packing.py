"""Weights as the processor's kernels want them, laid out once at load instead of at every call. Imports torch.

torch keeps weights as they were read, and hands them to oneDNN, which lays them out anew in every call: for the deep
layers of a UNet that takes several times as long as computing with them. Linear layers in fp32 do not even go there but
to MKL, which computes at half the rate on some processors. The operators are those that torch.compile emits, which does
the same where it freezes weights.

With AVX-512 one layout of a convolution's weights fits whatever comes. The kernels for AVX2 want another for nearly
every number of rows and pixels, and weights in one layout are brought into another in every call, element by element:
calls took three times as long as with weights as they were read. There nothing is packed, and `unfolding` helps.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, Self, cast

import torch
from torch import nn

from worker.models.residual import make_lean
from worker.models.unfolding import pays_unfolded, unfold, unfolded_upsampling
from worker.models.upsampling import Folded, merge, transposed
from worker.models.winograd import Winograd, fits

CPU = "cpu"
SIDE = 32
"""Of the latents that a convolution's weights are laid out for. Kernels for other sizes take the same layout, but for
kernels of one pixel, which are linear layers therefore."""
TOKENS = 1024
"""What a linear layer's weights are laid out for; all numbers take the same layout."""
FEWEST_CHANNELS, FEWEST_TILES = 256, 256
"""From which on a convolution in fp32 is faster with fewer products: by MKL, which some of these processors let compute
at half the rate, and its weights are unpacked for it."""
SMALLEST = 1 << 15
"""Of convolutions with fewer weights: they cost next to nothing to lay out, and some kernels for them differ."""


class _Packed:
    """What packed layers have in common; a change of dtype or device unpacks one, and packs it again if it can."""

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Self:
        layer = cast("nn.Linear | nn.Conv2d", self)
        dtype, device = layer.weight.dtype, layer.weight.device
        would_be = fn(torch.empty(0, dtype=dtype, device=device))
        if would_be.dtype == dtype and would_be.device == device:
            return self
        plain = layer.weight.to_dense()
        if isinstance(layer, PackedPointwise):
            plain = plain[:, :, None, None]
        layer.__class__ = nn.Linear if isinstance(layer, nn.Linear) else nn.Conv2d
        layer.weight = nn.Parameter(plain, requires_grad=False)
        layer._apply(fn, recurse)  # type: ignore[no-untyped-call]
        lay_out(layer)
        return self


class PackedLinear(_Packed, nn.Linear):
    """As nn.Linear."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """By oneDNN, in the input's dtype, which is that of the weights."""
        output: torch.Tensor = torch.ops.mkldnn._linear_pointwise(input, self.weight, self.bias, "none", [], "")
        return output


class PackedConv2d(_Packed, nn.Conv2d):
    """As nn.Conv2d."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """By oneDNN; channels_last."""
        output: torch.Tensor = torch.ops.mkldnn._convolution_pointwise(
            input, self.weight, self.bias, self.padding, self.stride, self.dilation, self.groups, "none", [], ""
        )
        return output


class PackedWinograd(Winograd, PackedConv2d):
    """As nn.Conv2d, with fewer products for large pictures."""

    fewest_tiles = FEWEST_TILES

    def plain(self) -> torch.Tensor:
        """Its weights, unpacked."""
        return self.weight.to_dense()


class PackedPointwise(_Packed, nn.Conv2d):
    """As nn.Conv2d with a kernel of one pixel: a linear layer on channels."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """By oneDNN; channels_last."""
        pixels = input.permute(0, 2, 3, 1)
        output: torch.Tensor = torch.ops.mkldnn._linear_pointwise(pixels, self.weight, self.bias, "none", [], "")
        return output.permute(0, 3, 1, 2)


def lay_out(module: Any, backend: str = CPU, *, packed: bool = True, compiled: bool = False) -> Any:
    """The module itself, with its linear layers and convolutions `packed` where that pays: on a processor with
    AVX-512, in dtypes that it has kernels for. With AVX2 its convolutions are unfolded instead. With either, those
    that stand behind a doubling of pixels are made one with it. All others become channels_last, which costs them
    less; so do all where `packed` is false, for whoever reads layers. Blocks of ResNets become lean, but where it is
    false. For another `backend` nothing changes, but where the module is `compiled`: then convolutions become
    channels_last, which compiled calls would make of them each time.

    Packed weights have no elements that could be read: they are called, and moved by `to`, and nothing else.
    """
    if backend != CPU and not compiled:
        return module
    packed = packed and backend == CPU
    any_packed = False
    for layer in module.modules():
        if packed:
            merge(layer, _fold)
            make_lean(layer)
        if type(layer) not in (nn.Linear, nn.Conv2d) or layer.weight.device.type != CPU:
            continue
        if packed and _pays_packed(layer):
            _pack(layer)
            any_packed = True
        elif packed and isinstance(layer, nn.Conv2d) and pays_unfolded(layer):
            unfold(layer)
        elif isinstance(layer, nn.Conv2d):
            layer.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if any_packed:
        _leave_file(module)
    return module


def _leave_file(module: nn.Module) -> None:
    """Copy what is not packed: for as long as one tensor is as it was read, all of its file counts as memory in use."""
    for tensor in itertools.chain(module.parameters(), module.buffers()):
        if not tensor.is_mkldnn:
            tensor.data = tensor.data.clone()


def _pays_packed(layer: nn.Linear | nn.Conv2d) -> bool:
    if isinstance(layer, nn.Conv2d) and (
        layer.weight.numel() < SMALLEST or layer.padding_mode != "zeros" or isinstance(layer.padding, str)
    ):
        return False
    return _has_kernels(layer.weight)


def _has_kernels(weight: torch.Tensor) -> bool:
    if torch.backends.cpu.get_cpu_capability() != "AVX512" or not torch.backends.mkldnn.is_available():
        return False
    if weight.dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return weight.dtype == torch.float32


def _is_pointwise(layer: nn.Conv2d) -> bool:
    return layer.kernel_size == layer.stride == (1, 1) and layer.padding == (0, 0) and layer.groups == 1


def _pack(layer: nn.Linear | nn.Conv2d) -> None:
    weight = layer.weight.detach()
    if isinstance(layer, nn.Linear) or _is_pointwise(layer):
        packed = torch.ops.mkldnn._reorder_linear_weight(weight.flatten(1).contiguous(), TOKENS)
        layer.__class__ = PackedLinear if isinstance(layer, nn.Linear) else PackedPointwise
    else:
        seen = [2, layer.in_channels, SIDE, SIDE]
        packed = torch.ops.mkldnn._reorder_convolution_weight(
            weight, layer.padding, layer.stride, layer.dilation, layer.groups, seen
        )
        fewer = torch.backends.mkl.is_available() and fits(layer, FEWEST_CHANNELS)
        layer.__class__ = PackedWinograd if fewer else PackedConv2d
    layer.weight = nn.Parameter(packed, requires_grad=False)


def _fold(layer: nn.Conv2d) -> Folded | None:
    """What stands for it and the doubling before it."""
    if layer.weight.device.type != CPU:
        return None
    if _has_kernels(layer.weight):
        return _packed_upsampling(layer)
    return unfolded_upsampling(layer) if pays_unfolded(layer) else None


def _packed_upsampling(layer: nn.Conv2d) -> Folded:
    bias, seen = layer.bias, [2, layer.in_channels, SIDE, SIDE]
    geometry = [1, 1], [0, 0], [2, 2], [1, 1], 1  # padding, that of the output, stride, dilation, groups
    weight = transposed(layer.weight.detach())
    packed = torch.ops.mkldnn._reorder_convolution_transpose_weight(weight, *geometry, seen)

    def upsample(pixels: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = torch.ops.mkldnn._convolution_transpose_pointwise(
            pixels, packed, bias, *geometry, "none", [], ""
        )
        return output

    return Folded(packed, upsample)
