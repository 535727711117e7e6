"""Where each row is measured, and one run through them. A row's module is imported when its turn comes."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from importlib import import_module

from benches.speed.bench import Bench
from benches.speed.claims import claims_of
from benches.speed.outcome import NotMeasured, Outcome
from benches.speed.selection import has_cuda, processor_flags, why_not

logger = logging.getLogger(__name__)

MODULES = {
    1: "benches.speed.serving.equal_jobs",
    2: "benches.speed.serving.mixed_steps",
    3: "benches.speed.engine.overhead",
    4: "benches.speed.serving.alone",
    5: "benches.speed.serving.joining",
    6: "benches.speed.serving.cancelling",
    7: "benches.speed.serving.mixed_shapes",
    8: "benches.speed.serving.wire",
    9: "benches.speed.serving.readers",
    10: "benches.speed.engine.sd15_cpu",
    11: "benches.speed.serving.starting",
    12: "benches.speed.engine.sd15_gpu",
    13: "benches.speed.engine.sdxl_gpu",
    14: "benches.speed.serving.exactness",
}
ON_A_GPU = MODULES | {14: "benches.speed.engine.exact_gpu"}
"""There with the engine alone, so that a machine will do that has torch and diffusers and nothing else."""


def run(rows: Iterable[int], bench: Bench) -> Iterator[Outcome]:
    """Each row's outcome, as it is there."""
    flags, cuda = processor_flags(), has_cuda(bench)
    for row in rows:
        reason = why_not(row, bench, flags=flags, cuda=cuda)
        yield _missing(row, reason) if reason else _measure(row, bench)


def _measure(row: int, bench: Bench) -> Outcome:
    began = time.monotonic()
    modules = MODULES if bench.backend == "cpu" else ON_A_GPU
    try:
        measure: Callable[[Bench], Outcome] = import_module(modules[row]).measure
        outcome = measure(bench)
    except NotMeasured as reason:
        outcome = _missing(row, str(reason))
    except Exception as error:  # one row's fault does not take the others' figures along
        logger.debug("row %d failed", row, exc_info=error)
        told = (str(error).splitlines() or ["no word"])[0]
        outcome = _missing(row, f"it broke off: {type(error).__name__}: {told}")
    return replace(outcome, took_s=time.monotonic() - began)


def _missing(row: int, reason: str) -> Outcome:
    return Outcome(row, missing={claim.key: reason for claim in claims_of(row)})
