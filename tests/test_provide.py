"""What is compiled, and what a worker that should compile refuses at its start."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from shared_worker.device import Device
from tests.fakes import make_params
from worker import provide
from worker.errors import ConfigurationError
from worker.jobs.events import Queued
from worker.jobs.job import Job
from worker.models.registry import identify
from worker.settings import read_settings
from worker.state.journal import SqliteJournal

CPU, CUDA, MPS = (
    Device("cpu", "cpu", "a processor"),
    Device("cuda", "cuda:0", "a GPU"),
    Device("mps", "mps", "a GPU"),
)
CHECKPOINT = identify("builtin", dtype="float32", samplers=("euler",))


@pytest.fixture(autouse=True)
def compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is one on every machine."""
    for variable in ("CC", "CXX"):
        monkeypatch.setenv(variable, sys.executable)


def mode(*flags: str, device: Device = CPU, checkpoint: Any = CHECKPOINT) -> str | None:
    return provide.compile_mode(read_settings(device.backend, list(flags)), device, checkpoint)


def test_nothing_is_compiled_unless_asked() -> None:
    assert mode() is None


def test_what_is_compiled_is_kept_beside_what_was_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "")
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    assert mode("--compile", "default") == "default"
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path / "sd-worker" / "inductor")


@pytest.mark.parametrize(
    ("flags", "device", "checkpoint", "told"),
    [
        (("--numerics", "exact"), CPU, CHECKPOINT, "with --numerics exact the bytes would depend"),
        ((), MPS, CHECKPOINT, "it is not offered on mps"),
        ((), CPU, replace(CHECKPOINT, placement=object()), "--offload"),
        ((), CPU, replace(CHECKPOINT, facts=replace(CHECKPOINT.facts, weights_dtype="x")), "--weights-dtype"),
    ],
)
def test_what_is_refused(flags: tuple[str, ...], device: Device, checkpoint: Any, told: str) -> None:
    with pytest.raises(ConfigurationError, match=f"^--compile: .*{told}"):
        mode("--compile", "reduce-overhead", *flags, device=device, checkpoint=checkpoint)


@pytest.mark.parametrize(
    ("device", "there", "told"),
    [
        (CPU, (), r"there is no C\+\+ compiler"),
        (CPU, ("gcc", "clang", "cc"), r"there is no C\+\+ compiler"),
        (CPU, ("g++", "clang++"), None),
        (CUDA, (), "there is no C compiler .*, which Triton needs"),
        (CUDA, ("g++", "clang++", "cc"), "there is no C compiler"),
        (CUDA, ("gcc",), None),
        (CUDA, ("clang",), None),
    ],
)
def test_without_a_compiler_it_is_refused(
    device: Device, there: tuple[str, ...], told: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    for variable in ("CC", "CXX"):
        monkeypatch.delenv(variable)
    for name in there:
        (tmp_path / name).touch(mode=0o755)
    if told is None:
        assert mode("--compile", "default", device=device) == "default"
    else:
        with pytest.raises(ConfigurationError, match=f"^--compile: {told}"):
            mode("--compile", "default", device=device)


@pytest.mark.parametrize("device", [CPU, CUDA])
def test_a_compiler_that_is_named_is_the_one_that_is_looked_for(
    device: Device, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("PATH", "")
    assert mode("--compile", "default", device=device) == "default"
    for variable in ("CC", "CXX"):
        monkeypatch.setenv(variable, str(tmp_path / "nowhere"))
    with pytest.raises(ConfigurationError, match="compiler"):
        mode("--compile", "default", device=device)


@pytest.mark.parametrize(
    ("flags", "told"),
    [((), ("fast", None)), (("--numerics", "exact"), ("exact", None)), (("--compile", "default"), ("fast", "default"))],
)
def test_clients_hear_how_it_computes(flags: tuple[str, ...], told: tuple[str, str | None]) -> None:
    facts = provide.everything(read_settings("cpu", list(flags)), CPU).checkpoint.facts
    assert (facts.numerics, facts.compile) == told


def test_what_an_earlier_process_left_is_read_beforehand(tmp_path: Path) -> None:
    journal, job = SqliteJournal(tmp_path, "builtin"), Job(make_params())
    journal.accept(job, job.record(Queued(0, None)), None, b"")
    journal.close()
    provided = provide.everything(read_settings("cpu", ["--state-dir", str(tmp_path)]), CPU)
    provided.journal.close()
    assert [kept.job.id for kept in provided.restored.jobs] == [job.id]


@pytest.mark.parametrize(
    ("flags", "device", "rows"),
    [
        ((), Device("mps", "mps", "an Apple GPU"), 4),
        (("--numerics", "exact"), Device("mps", "mps", "an Apple GPU"), 4),
        (("--numerics", "exact"), CPU, 16),
        (("--numerics", "exact", "--max-rows", "6"), Device("mps", "mps", "an Apple GPU"), 6),
    ],
)
def test_rows_that_are_not_measured(flags: tuple[str, ...], device: Device, rows: int) -> None:
    settings = read_settings(device.backend, list(flags))
    limit = provide.row_limit(settings, device, provide.everything(read_settings("cpu", []), CPU).checkpoint)
    assert (limit.usual, limit.padded, limit.wanted) == (rows, "exact" in flags, None)
