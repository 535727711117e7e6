"""The machine and the versions that figures belong to."""

from __future__ import annotations

import datetime
import platform
from importlib.metadata import PackageNotFoundError, version

from benches.speed.bench import Bench, usable_cores
from benches.speed.selection import BF16_UNITS, processor_flags
from shared_worker.device import NoSuchDevice, find_device

PACKAGES = ("torch", "diffusers", "transformers", "fastapi", "uvicorn", "litserve", "pillow")

UNITS = ("avx2", "avx512f", *BF16_UNITS)
"""Processor flags that decide which kernels compute."""


def describe(bench: Bench) -> dict[str, str]:
    """What a reader needs to compare figures, by name."""
    facts = {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "processor": f"{find_device('cpu').name}, {usable_cores()} cores",
        "torch threads": str(bench.threads),
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
    }
    if units := processor_flags() & set(UNITS):
        facts["instructions"] = ", ".join(sorted(units))
    if bench.backend == "cuda":
        facts["GPU"] = _gpu()
    facts["packages"] = ", ".join(f"{name} {found}" for name in PACKAGES if (found := _version(name)))
    if bench.quick:
        facts["kind of run"] = "quick: a smoke run, whose figures say nothing"
    return facts


def _gpu() -> str:
    try:
        return find_device("cuda").name
    except NoSuchDevice:
        return "none found"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
