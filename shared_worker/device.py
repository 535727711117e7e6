"""The one device a worker computes on: whether it is there, what it is called, how much memory it has."""

from __future__ import annotations

import os
import platform
import re
import sys
from collections.abc import Set
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Backend = Literal["cpu", "cuda", "mps"]
BF16_UNITS = {"amx_bf16", "avx512_bf16", "bf16"}
"""Processor flags, of x86 and of Arm."""
BF16_CAPABILITY = 8
"""CUDA's compute capability from which on matrix units take bfloat16: Ampere and what came after it."""


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
    """Half precision where the device has units for it, and of both kinds bfloat16, in which nothing overflows.

    Without units a CPU is slower in bfloat16 than in float32, and a CUDA device emulates it. `flags` are the
    processor's features as the kernel names them; it is asked if they are not given.
    """
    match device.backend:
        case "cpu":
            return "bfloat16" if BF16_UNITS & (_processor_flags() if flags is None else flags) else "float32"
        case "cuda":
            import torch

            major, _ = torch.cuda.get_device_capability(device.torch_name)
            return "bfloat16" if major >= BF16_CAPABILITY else "float16"
        case "mps":
            return "float16"


def memory(device: Device) -> tuple[int | None, int | None]:
    """(total, used) bytes of the device; of the machine and of this process for the CPU. None for what nobody tells."""
    if device.backend == "cpu":
        return _machine_bytes(), _process_bytes()
    import torch

    if device.backend == "cuda":
        try:
            free, total = torch.cuda.mem_get_info(device.torch_name)
        except RuntimeError:  # a device that is lost answers nothing any more
            return None, None
        return total, total - free
    return torch.mps.recommended_max_memory(), torch.mps.driver_allocated_memory()


def peak_bytes(device: Device) -> int | None:
    """The most that was used so far: by torch on a CUDA device, by this process for the CPU. None if nobody counts."""
    if device.backend == "cuda":
        import torch

        return torch.cuda.max_memory_reserved(device.torch_name)
    if device.backend == "cpu":
        try:
            import resource  # Unix alone
        except ImportError:
            return None
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        most = most if sys.platform == "darwin" else most * 1024
        return max(most, _process_bytes() or 0)  # the kernel notes the most a little late
    return None


def free_bytes(device: Device) -> int | None:
    """What can still be taken on the device without anything being put out; None where it cannot be told.

    On the CPU that is what the machine has available, within what the process's control group may have.
    """
    if device.backend == "cpu":
        told = [free for free in (_available_bytes(), _group_bytes()) if free is not None]
        return min(told, default=None)
    total, used = memory(device)
    return None if total is None or used is None else total - used


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
    except (ValueError, OSError, AttributeError):  # Windows has none
        return None


def _process_bytes() -> int | None:
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return None


def _available_bytes() -> int | None:
    """The kernel's estimate, with what it can take back from caches; Linux alone."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return None


def _group_bytes(group: Path = Path("/sys/fs/cgroup")) -> int | None:
    """What is left of a container's limit, with file caches counted as left; None without a limit (cgroup v2 alone)."""
    try:
        limit, current = int((group / "memory.max").read_text()), int((group / "memory.current").read_text())
        caches = re.search(r"^inactive_file (\d+)$", (group / "memory.stat").read_text(), re.MULTILINE)
    except (OSError, ValueError):  # "max" is no number: there is no limit
        return None
    return max(0, limit - current + int(caches.group(1) if caches else 0))
