"""What settings ask for, made: checkpoint, journal, rows, heartbeat, checker. Reads the files they name."""

from __future__ import annotations

import functools
import importlib.metadata
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from shared_worker.contract import WorkerInfo
from shared_worker.device import Device, find_device, free_bytes, usual_dtype
from shared_worker.no_heartbeat import NoHeartbeat
from worker.engine import sampling
from worker.engine.encoding_pool import Sign
from worker.engine.rows import UNMEASURED_ROWS, RowLimit
from worker.errors import ConfigurationError
from worker.jobs.journal import Journal, NoJournal, Restored
from worker.measured import MeasuredRows, cache_dir, cache_file
from worker.models.casting import weights_dtype_on
from worker.models.checkpoint import Checkpoint
from worker.models.needs import SAFETY_CHECKER
from worker.models.offload import OnDevice, offload_on
from worker.models.registry import identify
from worker.models.safety_folder import SafetyFolder
from worker.models.schedulers import SCHEDULERS
from worker.settings import Settings
from worker.tracing import Tracing, wanted

if TYPE_CHECKING:
    from shared_worker.heartbeat import Heartbeat
    from worker.engine.judging import Judging

MPS_ROWS = 4


@dataclass(frozen=True)
class Provided:
    """What a worker is made of, before its model is loaded."""

    device: Device
    checkpoint: Checkpoint
    judging: Judging | None
    sign: Sign | None
    tracing: Tracing | None
    journal: Journal
    restored: Restored
    """What the journal has of earlier processes."""


def everything(settings: Settings, device: Device) -> Provided:
    """In the order in which mistakes are cheap to find. Raises StartError."""
    checker = safety(settings)
    served = checkpoint(settings, device, checker)
    mode = compile_mode(settings, device, served)
    served = replace(served, facts=replace(served.facts, numerics=settings.numerics, compile=mode))
    signer = sign(settings)
    tracing = Tracing.from_environment(settings.worker_id) if wanted() else None
    judge = judging(settings, served, device, checker)
    kept = journal(settings, served)
    return Provided(device, served, judge, signer, tracing, kept, kept.restore())


def compile_mode(settings: Settings, device: Device, checkpoint: Checkpoint) -> str | None:
    """What `--compile` asks for, with the folder where inductor keeps its work; None for none.

    Raises ConfigurationError where it cannot be had.
    """
    if settings.compile == "none":
        return None
    if settings.numerics == "exact":
        raise ConfigurationError("--compile: with --numerics exact the bytes would depend on what is compiled by then")
    if device.backend == "mps" or os.name != "posix":
        raise ConfigurationError("--compile: it is not offered on mps, nor on Windows")
    if not isinstance(checkpoint.placement, OnDevice):
        raise ConfigurationError("--compile: parts that are moved (--offload) are not compiled; try --offload none")
    if checkpoint.facts.weights_dtype is not None:
        raise ConfigurationError("--compile: layers that are cast around each call (--weights-dtype) are not compiled")
    if (lacking := _lacking_compiler(device)) is not None:
        raise ConfigurationError(f"--compile: {lacking}")
    if (folder := cache_dir()) is not None:
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(folder / "inductor"))
    return settings.compile


def _lacking_compiler(device: Device) -> str | None:
    """What torch.compile cannot do without, where it is not there; it looks for it under the same names."""
    if device.backend == "cpu":
        usual = "clang++" if sys.platform == "darwin" else "g++"
        if shutil.which(os.environ.get("CXX", usual)) is None:
            return f"there is no C++ compiler ({usual}, or what CXX names)"
        return None
    names = (os.environ["CC"],) if "CC" in os.environ else ("gcc", "clang")
    if not any(shutil.which(name) for name in names):
        return "there is no C compiler (gcc, clang, or what CC names), which Triton needs"
    return None


def checkpoint(settings: Settings, device: Device, checker: SafetyFolder | None = None) -> Checkpoint:
    """That of `--model`, with the adapters that lie in the folders named; it must fit into memory with the checker.

    Raises ModelUnusable, ConfigurationError.
    """
    found = identify(
        settings.model,
        dtype=None if settings.dtype == "auto" else settings.dtype,
        usual_dtype=usual_dtype(device),
        weights_dtype=weights_dtype_on(device.backend, settings.weights_dtype),
        samplers=tuple(sorted([*sampling.SAMPLERS, *SCHEDULERS])),
        read_noise=sampling.read_noise,
        config=settings.model_configuration,
        sha256=settings.model_sha256,
        offload=offload_on(device.backend, settings.offload),
        free_bytes=free_bytes(device),
        cpu_bytes=free_bytes(find_device("cpu")),
        beside_bytes=None if checker is None else {SAFETY_CHECKER: checker.weights_bytes},
    )
    if settings.embedding_dir is not None:
        found = found.with_embeddings(settings.embedding_dir)
    if settings.lora_dir is not None:
        found = found.with_loras(settings.lora_dir, settings.lora_cache_bytes)
    if settings.control_dir is not None:
        found = found.with_controls(settings.control_dir)
    if settings.upscaler_dir is not None:
        found = found.with_upscalers(settings.upscaler_dir)
    return found


def safety(settings: Settings) -> SafetyFolder | None:
    """The checker of `--safety-checker`, if there is one. Raises ConfigurationError, ModelUnusable."""
    if settings.safety_checker is not None:
        return SafetyFolder.at(settings.safety_checker)
    if "on_unsafe" in settings.model_fields_set:
        raise ConfigurationError("--on-unsafe is set, but there is no --safety-checker")
    return None


def judging(settings: Settings, checkpoint: Checkpoint, device: Device, checker: SafetyFolder | None) -> Judging | None:
    """What looks at every picture, where there is a checker."""
    if checker is None:
        return None
    from worker.engine.judging import Judging  # numpy comes in with this

    return Judging(functools.partial(checker.load, device, checkpoint.placement), settings.on_unsafe)


def sign(settings: Settings) -> Sign | None:
    """What signs a picture, where a certificate is configured. Raises ConfigurationError."""
    if settings.c2pa_cert is None and settings.c2pa_key is None:
        return None
    if settings.c2pa_cert is None or settings.c2pa_key is None:
        raise ConfigurationError("--c2pa-cert and --c2pa-key belong together: one of them is missing")
    try:
        from worker.credentials import ContentCredentials  # needs an extra
    except (ImportError, OSError, RuntimeError):  # it is not there, or its native library is not
        raise ConfigurationError("--c2pa-cert needs the C2PA library: pip install 'sd-worker[c2pa]'") from None
    return ContentCredentials.from_files(settings.c2pa_cert, settings.c2pa_key).sign


def journal(settings: Settings, checkpoint: Checkpoint) -> Journal:
    """In `--state-dir`, or one that keeps nothing. Raises ConfigurationError."""
    if settings.state_dir is None:
        return NoJournal()
    from worker.state.journal import SqliteJournal  # needs file locks, which not every system has

    return SqliteJournal(settings.state_dir, checkpoint.facts.id)


def row_limit(settings: Settings, device: Device, checkpoint: Checkpoint) -> RowLimit:
    """What the operator said; else what an earlier start measured, or what the engine will."""
    facts = checkpoint.facts
    native_pixels = facts.width * facts.height
    exact = settings.numerics == "exact"
    if settings.max_rows is not None:
        return RowLimit(settings.max_rows, padded=exact, native_pixels=native_pixels)
    if device.backend == "mps":  # where large batches are known to go wrong
        return RowLimit(MPS_ROWS, padded=exact, native_pixels=native_pixels)
    if exact:  # bytes must not depend on what was measured
        return RowLimit(UNMEASURED_ROWS, padded=True, native_pixels=native_pixels)
    kept = MeasuredRows(cache_file())
    torch_version = importlib.metadata.version("torch")
    key = f"{device.name}, {os.cpu_count()} processors; {checkpoint.fingerprint}, {facts.dtype}; torch {torch_version}"
    return RowLimit(
        native_pixels=native_pixels,
        known=kept.get(key),
        on_measured=functools.partial(kept.keep, key),
    )


def heartbeat(settings: Settings, info: Callable[[], WorkerInfo]) -> Heartbeat | NoHeartbeat:
    """To the orchestrator, if there is one."""
    if settings.orchestrator_url is None:
        return NoHeartbeat()
    from shared_worker.heartbeat import Heartbeat

    token = settings.orchestrator_token
    return Heartbeat(str(settings.orchestrator_url), info, token=token.get_secret_value().strip() if token else None)
