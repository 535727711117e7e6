"""How each arm is started: the worker, and the reference servers over the same model."""

from __future__ import annotations

import shutil
from contextlib import AbstractContextManager
from importlib.util import find_spec

from benches.speed.bench import Bench
from benches.speed.outcome import NotMeasured
from benches.speed.serving.process import Server, serving

Starting = AbstractContextManager[Server]

WORKER = ("-c", "import sys; from worker.main import cpu; sys.exit(cpu())")
STAMPED_WORKER = ("-m", "benches.speed.arms.stamped_worker")


def worker(bench: Bench, *flags: str) -> Starting:
    """The worker on the CPU with the built-in model."""
    return serving("the worker", worker_arguments(*flags), bench)


def worker_arguments(*flags: str) -> list[str]:
    """What python is told to run; running jobs are not waited for at the end."""
    return [*WORKER, "--model", "builtin", "--drain-s", "0", "--queue-capacity", "256", *flags]


def stamped_worker(bench: Bench, stamps: str, *flags: str) -> Starting:
    """The worker, which also writes to the file `stamps` when each step ended."""
    arguments = [*STAMPED_WORKER, stamps, "--model", "builtin", "--drain-s", "0", *flags]
    return serving("the stamping worker", arguments, bench)


def b0(bench: Bench) -> Starting:
    """One lock around the stock pipeline."""
    return serving("B0", ["-m", "benches.speed.arms.b0", str(bench.model)], bench)


def b1(bench: Bench) -> Starting:
    """B0 with `torch.compile`, which needs a C++ compiler on a CPU. Raises NotMeasured without one."""
    if not any(map(shutil.which, ("c++", "g++", "clang++"))):
        raise NotMeasured("torch.compile needs a C++ compiler, and there is none")
    return serving("B1", ["-m", "benches.speed.arms.b0", str(bench.model), "--compile"], bench)


def b2(bench: Bench) -> Starting:
    """B0 with a static micro-batcher."""
    return serving("B2", ["-m", "benches.speed.arms.b2", str(bench.model)], bench)


def litserve(bench: Bench) -> Starting:
    """LitServe with its own batching. Raises NotMeasured where it is not installed."""
    if find_spec("litserve") is None:
        raise NotMeasured("litserve is not installed; bin/bench does that")
    arguments = ["-m", "benches.speed.arms.litserve_batched", str(bench.model)]
    return serving("LitServe", arguments, bench, ready="/health")
