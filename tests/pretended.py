"""A CUDA device by name alone. Its tensors are computed with on the CPU, but refused where CUDA would refuse them:
beside tensors that were left on the CPU, and with the CPU's generators. What is tested there is where things lie.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from shared_worker.device import Device

PRETENDED = Device("cuda", "cuda:0", "a device by name alone")
CUDA, CPU = torch.device(PRETENDED.torch_name), torch.device("cpu")
GIB = 1 << 30

INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_", "__getitem__", "__setitem__"}
"""A CUDA tensor takes indices that lie on the CPU."""
READ_WHOLE = {
    *(torch.Tensor.__float__, torch.Tensor.__int__, torch.Tensor.__bool__, torch.Tensor.__index__),
    *(torch.Tensor.__getitem__, torch.Tensor.__setitem__, torch.Tensor.contiguous),
}
"""Torch asks for the device's driver in these before it asks the tensor."""


@contextmanager
def pretended_device() -> Iterator[Device]:
    """While it lasts, this thread finds the device; what torch tells of its memory never changes."""
    api: dict[str, Any] = {
        "_lazy_init": None,
        "synchronize": None,
        "set_device": None,
        "empty_cache": None,
        "reset_peak_memory_stats": None,
        "mem_get_info": (60 * GIB, 80 * GIB),
        "memory_allocated": GIB,
        "memory_reserved": 2 * GIB,
        "max_memory_allocated": 2 * GIB,
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in api.items():
            patch.setattr(torch.cuda, name, lambda *arguments, told=value: told)
        lifted = torch._C._only_lift_cpu_tensors()
        torch._C._set_only_lift_cpu_tensors(True)  # a tensor made of numbers is made on the CPU, and moved
        try:
            with _Dispatched():
                yield PRETENDED
        finally:
            torch._C._set_only_lift_cpu_tensors(lifted)


class OnDevice(torch.Tensor):
    """A tensor that says it lies on the device; `held` is what it really is."""

    held: torch.Tensor

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> OnDevice:
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            layout=held.layout,
            device=CUDA,
        )
        return cast(OnDevice, made)

    def __init__(self, held: torch.Tensor) -> None:
        self.held = held

    def __tensor_flatten__(self) -> tuple[list[str], None]:
        """As torch wants it of a tensor that a module's parameter may become."""
        return ["held"], None

    @staticmethod
    def __tensor_unflatten__(inner: Mapping[str, torch.Tensor], *_: object) -> OnDevice:
        return OnDevice(inner["held"])

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func in READ_WHOLE:
            return _computed(func, args, kwargs or {})
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **(kwargs or {}))

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return _computed(func, args, kwargs or {})


class _Dispatched(TorchDispatchMode):
    """Also what has no tensor of the device yet, such as one that is made there."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return _computed(func, args, kwargs or {})


def _computed(func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """What `func` gives on the CPU, on the device again. Raises RuntimeError where CUDA does."""
    name = func.__name__.split(".")[0]
    given = SimpleNamespace(on=[], off=[], devices=[], generators=[])

    def look(one: Any) -> None:
        match one:
            case OnDevice():
                given.on.append(one)
            case torch.Tensor():
                given.off.append(one)
            case torch.device():
                given.devices.append(one)
            case torch.Generator():
                given.generators.append(one)

    tree_map(look, (args, kwargs))
    if name == "_has_compatible_shallow_copy_type":
        return not (given.on and given.off)
    there = given.devices[0].type == "cuda" if given.devices else bool(given.on)
    _refuse(name, given, args, there)

    ours: dict[int, OnDevice] = {}

    def to_cpu(one: Any) -> Any:
        if isinstance(one, OnDevice):
            ours[id(one.held)] = one
            return one.held
        return CPU if isinstance(one, torch.device) else one

    cpu_args, cpu_kwargs = tree_map(to_cpu, (tuple(args), dict(kwargs)))
    output = func(*cpu_args, **cpu_kwargs)
    if name == "copy_":
        return args[0]

    def back(one: Any) -> Any:
        if not isinstance(one, torch.Tensor) or isinstance(one, OnDevice):
            return one
        if given.devices and there != bool(given.on) and any(one is each for each in cpu_args):
            one = one.clone()  # it was moved, so it is another
        if not there:
            return one
        return ours[id(one)] if id(one) in ours else OnDevice(one)

    return tree_map(back, output)


def _refuse(name: str, given: SimpleNamespace, args: Sequence[Any], there: bool) -> None:
    if given.generators and there:
        raise RuntimeError(f"{name}: expected a generator of the device, found one of the CPU")
    left = [one for one in given.off if one.dim() > 0]  # a single number may lie anywhere
    if not given.on or not left or name == "copy_":
        return
    if name in INDEXING and isinstance(args[0], OnDevice) and not any(one is args[-1] for one in left if len(args) > 2):
        return
    raise RuntimeError(f"{name}: expected all tensors on the device, but {[tuple(one.shape) for one in left]} are not")
