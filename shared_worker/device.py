"""The one device a worker computes on: whether it is there, what it is called, how much memory it has."""

from __future__ import annotations

import os
import platform
from collections.abc import Set
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Backend = Literal["cpu", "cuda", "mps"]
BF16_UNITS = {"amx_bf16", "avx512_bf16", "bf16"}
"""Processor flags, of x86 and of Arm."""


class NoSuchDevice(Exception):
    """The backend or the index names no device of this machine."""


@dataclass(frozen=True, slots=True)
class Device:
    """`torch_name` is what `torch.device` takes, e.g. `cuda:0`."""

    backend: Backend
    torch_name: str
    name: str


def find_device(backend: Backend, index: int = 0) -> Device:
    """The device, or NoSuchDevice with a sentence that says why not. Only the CPU is found without torch."""
    match backend:
        case "cpu":
            return Device("cpu", "cpu", _processor())
        case "cuda":
            import torch

            if not torch.cuda.is_available():
                raise NoSuchDevice("no CUDA device: PyTorch finds no NVIDIA GPU with a working driver here")
            if index >= torch.cuda.device_count():
                raise NoSuchDevice(f"no CUDA device {index}: there are {torch.cuda.device_count()}, counted from 0")
            return Device("cuda", f"cuda:{index}", torch.cuda.get_device_name(index))
        case "mps":
            import torch

            if not torch.backends.mps.is_available():
                raise NoSuchDevice("no MPS device: it needs an Apple GPU and a PyTorch built for it")
            return Device("mps", "mps", platform.processor() or "Apple GPU")


def usual_dtype(device: Device, flags: Set[str] | None = None) -> str:
    """Half precision where the device has units for it: without them a CPU is slower in bfloat16 than in float32.

    `flags` are the processor's features as the kernel names them; it is asked if they are not given.
    """
    if device.backend != "cpu":
        return "float16"
    return "bfloat16" if BF16_UNITS & (_processor_flags() if flags is None else flags) else "float32"


def memory(device: Device) -> tuple[int | None, int | None]:
    """(total, used) bytes of the device; of the machine and of this process for the CPU."""
    if device.backend == "cpu":
        return _machine_bytes(), _process_bytes()
    import torch

    if device.backend == "cuda":
        free, total = torch.cuda.mem_get_info(device.torch_name)
        return total, total - free
    return torch.mps.recommended_max_memory(), torch.mps.driver_allocated_memory()


def _processor() -> str:
    return _processor_line("model name") or platform.processor() or platform.machine()


def _processor_flags() -> set[str]:
    return set((_processor_line("flags") or _processor_line("Features") or "").split())


def _processor_line(name: str) -> str | None:
    """What the kernel says of the first processor; Linux alone."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(name):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return None


def _machine_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return None


def _process_bytes() -> int | None:
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return None
