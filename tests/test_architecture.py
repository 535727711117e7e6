"""The import table of ARCHITECTURE.md, read from the sources and seen in fresh processes."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LONGEST_FILE = 400


@dataclass(frozen=True)
class Import:
    """One imported module; `for_types` where only a type checker sees it."""

    module: str
    line: int
    for_types: bool

    def within(self, allowed: tuple[str, ...]) -> bool:
        """`a.b` allows `a.b` and what is in it; `=a.b` allows `a.b` alone."""
        return any(
            self.module == one.removeprefix("=") or (not one.startswith("=") and self.module.startswith(f"{one}."))
            for one in allowed
        )


@dataclass(frozen=True)
class Room:
    """What the files of a folder, or one file, may import beside themselves and the standard library."""

    path: str
    may: tuple[str, ...] = ()
    may_for_types: tuple[str, ...] = ()
    may_not: tuple[str, ...] = ()
    only_in: dict[str, str] = field(default_factory=dict)
    """Modules that one file of the room imports and no other."""


# The most particular room that a file lies in is its own.
ROOMS = (
    Room("worker/__init__.py"),
    Room("worker/errors.py"),
    Room("worker/metrics.py", ("prometheus_client", "worker.jobs")),
    Room("worker/settings.py", ("pydantic", "pydantic_settings", "=worker", "worker.errors")),
    Room("worker/allocator.py"),
    Room("worker/describe.py", ("shared_worker", "=worker", "worker.jobs", "worker.settings")),
    Room(
        "worker/credentials.py",
        ("c2pa", "cryptography", "PIL", "=worker", "worker.errors", "worker.jobs"),
    ),
    Room(
        "worker/compiler.py",
        ("torch", "shared_worker.device"),
        may_for_types=(
            *("worker.engine.compiling", "worker.engine.shapes"),
            *("worker.models.base", "worker.models.checkpoint"),
        ),
    ),
    Room("worker/measured.py"),
    Room("worker/descriptors.py", ("worker.errors",)),
    Room("worker/logs.py", ("worker.jobs", "worker.queued_stream")),
    Room("worker/queued_stream.py"),
    Room(
        "worker/connection.py",
        ("uvicorn", "h11", "worker.errors", "worker.api.headers", "worker.api.problems"),
    ),
    Room("worker/server.py", ("uvicorn", "starlette.types", "worker.connection", "worker.errors")),
    Room("worker/tokens.py", ("shared_worker.auth", "worker.errors", "worker.settings")),
    Room(
        "worker/door.py",
        (
            *("starlette.types", "worker.errors", "worker.jobs.engine"),
            *("worker.api.headers", "worker.api.problems", "worker.api.readiness"),
        ),
    ),
    Room("worker/tracing.py", ("opentelemetry", "=worker", "worker.errors", "worker.jobs")),
    Room(
        "worker/app.py",
        (
            *("fastapi", "opentelemetry.trace"),
            *("shared_worker", "=worker", "worker.api", "worker.jobs", "worker.metrics"),
        ),
    ),
    Room(
        "worker/provide.py",
        ("shared_worker", "worker"),
        may_not=("worker.main", "worker.serving", "worker.app", "worker.api"),
    ),
    Room(
        "worker/serving.py",
        ("starlette.types", "shared_worker", "worker"),
        may_not=("worker.main", "worker.door", "worker.server", "worker.connection", "worker.api"),
    ),
    Room("worker/main.py", ("shared_worker", "worker"), may_not=("worker.demo", "worker.cli", "worker.client")),
    Room("worker/client", ("httpx", "PIL", "=worker")),
    Room("worker/cli", ("PIL", "rich", "=worker", "worker.client", "=worker.main", "=worker.models.inspect")),
    Room("worker/demo", ("httpx", "rich", "worker.client", "=worker.cli.screen", "=worker.api.request")),
    Room(
        "worker/api",
        (
            *("fastapi", "starlette", "pydantic", "pydantic_core", "anyio", "sse_starlette", "python_multipart", "PIL"),
            "opentelemetry",
            *("shared_worker", "worker.errors", "worker.jobs", "worker.metrics"),
        ),
        only_in={
            "opentelemetry": "/trace.py",
            "sse_starlette": "/stream.py",
            "python_multipart": "/form.py",
            "PIL": ("/pictures.py", "/masks.py"),
        },
    ),
    Room("worker/studio"),
    Room("worker/jobs", ("worker.errors",)),
    Room("worker/state", ("pydantic", "worker.errors", "worker.jobs")),
    Room(
        "worker/engine",
        ("numpy", "PIL", "torch", "=worker", "worker.errors", "worker.jobs"),
        may_for_types=("worker.models.base",),
        may_not=("asyncio",),
    ),
    Room("worker/engine/sampling", ("numpy", "torch")),
    Room(
        "worker/models",
        (
            *("torch", "diffusers", "transformers", "safetensors", "numpy"),
            *("shared_worker.device", "worker.errors", "worker.jobs.params", "worker.jobs.facts"),
        ),
        may_not=("asyncio",),
    ),
    Room(
        "worker/models/inspect.py",
        ("worker.engine.sampling", "worker.errors", "worker.models"),
    ),
    Room(
        "worker/models/builtin",
        ("torch", "diffusers", "transformers", "tokenizers", "numpy", "PIL", "rich", "=worker.models.registry"),
    ),
    Room(
        "shared_worker",
        ("pydantic", "torch", "httpx", "tenacity"),
        only_in={"tenacity": "/heartbeat.py", "httpx": "/heartbeat.py"},
    ),
)
SOURCES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for folder in ("worker", "shared_worker")
    for path in sorted((ROOT / folder).rglob("*.py"))
}


def module_of(place: str) -> str:
    return place.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


MODULES = {module_of(place) for place in SOURCES}


def room_of(place: str) -> Room | None:
    lies_in = [room for room in ROOMS if place == room.path or place.startswith(f"{room.path}/")]
    return max(lies_in, key=lambda room: len(room.path), default=None)


def imports_of(node: ast.AST, for_types: bool = False) -> Iterator[Import]:
    """Every import below `node`, in functions too."""
    for child in ast.iter_child_nodes(node):
        match child:
            case ast.Import():
                yield from (Import(alias.name, child.lineno, for_types) for alias in child.names)
            case ast.ImportFrom(module=str(module), level=0):
                for alias in child.names:
                    inner = f"{module}.{alias.name}"
                    yield Import(inner if inner in MODULES else module, child.lineno, for_types)
            case ast.ImportFrom():
                yield Import("a relative import", child.lineno, for_types)
            case ast.If(test=ast.Name(id="TYPE_CHECKING")):
                yield from imports_of(child, for_types=True)
            case _:
                yield from imports_of(child, for_types)


def faults_of(place: str, source: str) -> list[str]:
    room = room_of(place)
    if room is None:
        return [f"{place} lies in no room of the table"]
    faults = []
    allowed = (*room.may, module_of(room.path))
    for one in imports_of(ast.parse(source)):
        top = one.module.partition(".")[0]
        fine = (top in sys.stdlib_module_names or one.within(allowed)) and not one.within(room.may_not)
        fine = fine and place.endswith(room.only_in.get(top, ".py"))
        if not fine and not (one.for_types and one.within(room.may_for_types)):
            faults.append(f"{place}:{one.line} imports {one.module}")
    return faults


def test_every_file_imports_only_what_its_room_may() -> None:
    assert [fault for place, source in SOURCES.items() for fault in faults_of(place, source)] == []


@pytest.mark.parametrize(
    ("place", "line"),
    [
        ("worker/api/jobs.py", "from worker.engine import sampling"),
        ("worker/api/jobs.py", "import torch"),
        ("worker/api/probes.py", "from worker.models.registry import identify"),
        ("worker/api/jobs.py", "from sse_starlette import EventSourceResponse"),
        ("worker/engine/engine.py", "import asyncio"),
        ("worker/engine/engine.py", "from fastapi import FastAPI"),
        ("worker/engine/denoiser.py", "from worker.models.base import Model"),
        ("worker/engine/denoiser.py", "from worker.models.sd import load"),
        ("worker/engine/denoiser.py", "def f():\n    import diffusers.models"),
        ("worker/engine/engine.py", "from worker.api import wire"),
        ("worker/jobs/job.py", "import pydantic"),
        ("worker/jobs/job.py", "from worker import metrics"),
        ("worker/errors.py", "from worker.jobs import params"),
        ("worker/models/registry.py", "from worker.jobs.queue import JobQueue"),
        ("worker/models/sd.py", "from worker.engine import preview"),
        ("worker/app.py", "import worker.engine.engine"),
        ("worker/settings.py", "from worker import main"),
        ("shared_worker/auth.py", "from worker import errors"),
        ("worker/app.py", "from . import api"),
        ("worker/novel.py", "import json"),
        ("worker/client/job.py", "from worker.jobs.params import Task"),
        ("worker/cli/ask.py", "from worker.engine.engine import Engine"),
        ("worker/main.py", "from worker.client import Client"),
        ("worker/serving.py", "from worker.server import make_server"),
        ("worker/door.py", "from fastapi import FastAPI"),
        ("worker/door.py", "from worker.app import create_app"),
    ],
)
def test_the_table_would_notice(place: str, line: str) -> None:
    assert len(faults_of(place, line)) == 1


def test_types_may_be_named_where_they_are_not_imported() -> None:
    line = "if TYPE_CHECKING:\n    from worker.models.{} import Model"
    assert faults_of("worker/engine/denoiser.py", line.format("base")) == []
    assert len(faults_of("worker/engine/denoiser.py", line.format("sd"))) == 1


def test_no_file_is_long() -> None:
    lengths = {place: len(source.splitlines()) for place, source in SOURCES.items()}
    assert {place: length for place, length in lengths.items() if length > LONGEST_FILE} == {}


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        (
            "worker.main",  # what the port waits for
            (
                *("fastapi", "prometheus_client", "sse_starlette", "PIL", "httpx", "opentelemetry", "sqlite3"),
                *("torch", "numpy", "worker.serving", "worker.app", "worker.engine", "worker.models"),
            ),
        ),
        ("worker.serving", ("torch", "numpy", "diffusers", "transformers", "c2pa", "cryptography")),
        ("worker.jobs.service", ("pydantic", "starlette", "numpy", "torch")),
        ("worker.engine.engine", ("torch", "numpy", "PIL", "fastapi", "starlette", "uvicorn", "pydantic", "asyncio")),
        ("worker.engine.denoiser", ("fastapi", "starlette", "uvicorn", "pydantic", "diffusers", "transformers")),
        ("worker.models.registry", ("torch", "diffusers", "transformers", "safetensors", "numpy")),
        ("worker.models.inspect", ("torch", "diffusers", "transformers", "safetensors", "numpy")),
        ("worker.client", ("torch", "fastapi", "pydantic", "IPython", "worker.errors", "worker.jobs")),
        ("worker.cli.main", ("torch", "fastapi", "pydantic", "worker.main", "worker.jobs")),
        ("worker.demo.run", ("torch", "fastapi", "worker.main", "worker.engine")),
        ("benches.speed.cli", ("torch", "matplotlib", "litserve", "httpx", "fastapi")),
        ("benches.speed.serving.equal_jobs", ("torch", "matplotlib", "litserve", "fastapi")),
        ("benches.speed.engine.overhead", ("fastapi", "starlette", "uvicorn", "pydantic", "httpx", "matplotlib")),
    ],
)
def test_importing_a_module_does_not_bring_in(module: str, absent: tuple[str, ...]) -> None:
    told = subprocess.run(
        [sys.executable, "-c", f"import {module}, sys; print(*sys.modules)"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=100,
    )
    assert module in told.stdout.split()
    assert set(absent) & set(told.stdout.split()) == set()
