"""What rows 12 and 13 share: pictures of one size on a GPU, by the engine, by B0 and B1, and at the device's limit.

All arms compute in bf16, with weights that are equal, and in this process: no HTTP. The limit is what a picture takes
at the matrix rate of the same run.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch

from benches.speed.arms import pipeline
from benches.speed.bench import Bench
from benches.speed.claims import claims_of
from benches.speed.engine.arms import B0, Arm, Compiled, Ours, first_line
from benches.speed.engine.rate import SIDE, WARM_S, matrix_tflops
from benches.speed.engine.rig import EngineRig
from benches.speed.engine.synthetic import Widths
from benches.speed.job import Job, stream_of_jobs
from benches.speed.outcome import Group, NotMeasured, Outcome
from benches.speed.spread import middle, once, ratios
from shared_worker.device import find_device
from worker.models.checkpoint import Checkpoint
from worker.models.registry import identify

T = TypeVar("T")
DTYPE = "bfloat16"
SAMPLER = "dpmpp_2m"
GUIDANCE_SCALE = 7
STEPS = 20
SETTLED_WITHIN_S = 150.0
"""A row should take no more than about eight minutes."""
PLAIN, PLAIN_COMPILED, EAGER, COMPILED = "B0", "B1, compiled", "engine", "engine, compiled"
SERIAL = (PLAIN, PLAIN_COMPILED)


@dataclass(frozen=True)
class Size:
    """A model and its pictures. `row_tflop` is the work of one row's forward, `decode_tflop` that of a decoding.

    In a round the engine draws `each` pictures for every client, so that beginning and end count for little.
    """

    row: int
    write: Callable[..., Path]
    widths: Widths
    kind: Any
    side_px: int
    clients: int
    row_tflop: float
    decode_tflop: float
    rounds: int
    each: int
    steps: int = STEPS
    matrix_side: int = SIDE
    warm_s: float = WARM_S

    @property
    def image_tflop(self) -> float:
        """Of a picture with guidance."""
        return self.steps * 2 * self.row_tflop + self.decode_tflop

    def quick(self, widths: Widths) -> Size:
        """For a run that only shows that it runs."""
        return replace(
            self, widths=widths, side_px=128, clients=2, rounds=1, each=2, steps=4, matrix_side=512, warm_s=0
        )

    def jobs(self) -> Iterator[Job]:
        """Without end, and no prompt twice: the engine keeps encodings of those that it knows."""
        size = {"width": self.side_px, "height": self.side_px}
        for job in stream_of_jobs(self.steps, guidance_scale=GUIDANCE_SCALE, **size):
            yield replace(job, prompt=f"{job.prompt}, {job.seed}")

    def write_and_identify(self, folder: Path, device: str) -> Checkpoint:
        """Made up on the device, which is much faster there."""
        self.write(folder, self.widths, side_px=self.side_px, device=device, dtype=getattr(torch, DTYPE))
        return identify(str(folder), dtype=DTYPE, samplers=(SAMPLER,))


def compare(bench: Bench, size: Size) -> Outcome:
    """All arms in turns, each with `size.clients` closed loops, once every arm is warm.

    The figures are those of the engine compiled, where that is faster: it is one flag of the worker. A job has two
    rows; in both engines a call takes half of those under way, so that hardly one has to be padded.
    """
    device, jobs, clients = find_device(bench.backend), size.jobs(), size.clients
    notes: list[str] = []
    missing: dict[str, str] = {}
    cold: dict[str, float] = {}
    with ExitStack() as until_the_end:
        folder = Path(until_the_end.enter_context(tempfile.TemporaryDirectory())) / "model"
        checkpoint = size.write_and_identify(folder, device.torch_name)
        dtype = getattr(torch, DTYPE)
        tflops = matrix_tflops(device.torch_name, dtype, side=size.matrix_side, warm_s=size.warm_s)
        _tell(size, f"matrices at {tflops:.0f} TFLOP/s")
        stock = pipeline.load(folder, kind=size.kind, device=device.torch_name, dtype=dtype)
        arms: dict[str, Arm] = {PLAIN: B0(stock)}
        cold[PLAIN] = 1 / arms[PLAIN].images_per_s(jobs, clients=1, each=1)
        try:
            compiled_stock = B0(pipeline.compiled(stock))
            cold[PLAIN_COMPILED] = 1 / compiled_stock.images_per_s(jobs, clients=1, each=1)
            arms[PLAIN_COMPILED] = compiled_stock
        except Exception as error:  # a compiler may raise anything, and takes no other arm along
            missing["b1"] = f"B1 broke off: {type(error).__name__}: {first_line(error)}"
            notes.append(missing["b1"])
        _tell(size, "; ".join(f"the first picture by {name} took {seconds:.1f} s" for name, seconds in cold.items()))
        eager = EngineRig(checkpoint, device, max_rows=clients, rows_under_way=2 * clients)
        arms[EAGER] = Ours(until_the_end.enter_context(eager))
        try:
            with ExitStack() as unless_it_settles:  # or it would go on compiling beside the others
                compiled = Compiled(checkpoint, device, max_rows=clients, rows_under_way=2 * clients)
                unless_it_settles.enter_context(compiled)
                cold[COMPILED] = compiled.settle(jobs, clients=clients, within_s=SETTLED_WITHIN_S)
                until_the_end.enter_context(unless_it_settles.pop_all())
            arms[COMPILED] = compiled
            notes.append(f"compiled are the engine's calls of {', '.join(map(str, compiled.rows))} rows")
        except NotMeasured as reason:
            notes.append(f"the engine compiled was not measured: {reason}")
        _tell(size, notes[-1])
        rates = _rates(arms, jobs, size)
    ours = max((name for name in (EAGER, COMPILED) if name in rates), key=lambda name: middle(rates[name]).value)
    limit = tflops / size.image_tflop
    figures = {
        "b0": middle(ratios(rates[ours], rates[PLAIN])),
        "limit": middle([rate / limit for rate in rates[ours]]),
    }
    notes.append(
        f"the figures are of the {ours}; the engine as it starts by itself: "
        f"{middle(ratios(rates[EAGER], rates[PLAIN])).value:.2f}x over B0"
    )
    if PLAIN_COMPILED in rates:
        figures["b1"] = middle(ratios(rates[ours], rates[PLAIN_COMPILED]))
        notes.append(f"over B1: {figures['b1'].value:.2f}x")
    notes.append(f"the limit is {limit:.3g} images/s: {size.image_tflop:.1f} TFLOP a picture at {tflops:.0f} TFLOP/s")
    groups = _groups(size, rates, cold, limit)
    return Outcome(size.row, _claimed(size.row, figures), groups, tuple(notes), missing=_claimed(size.row, missing))


def _rates(arms: Mapping[str, Arm], jobs: Iterator[Job], size: Size) -> dict[str, list[float]]:
    """Images per second, in turns. The first round is not kept: in it the engines are what they are from then on."""
    rates: dict[str, list[float]] = {name: [] for name in arms}
    for count in range(size.rounds + 1):
        for name, arm in arms.items():
            if name not in SERIAL:
                rate = arm.images_per_s(jobs, clients=size.clients, each=size.each)
            elif count:  # what is drawn one after the other has no beginning, and is warm from its first picture on
                rate = arm.images_per_s(jobs, clients=size.clients, each=1)
            else:
                continue
            if count:
                rates[name].append(rate)
                _tell(size, f"round {count} of {size.rounds}: {name} {rate:.3g} images/s")
    return rates


def _tell(size: Size, told: str) -> None:
    """At once, so that a run that is broken off leaves something."""
    print(f"row {size.row}: {told}", file=sys.stderr, flush=True)


def _claimed(row: int, told: Mapping[str, T]) -> dict[str, T]:
    """What there is a claim for, by its key."""
    keys = {claim.key for claim in claims_of(row)}
    return {f"{row}.{name}": one for name, one in told.items() if f"{row}.{name}" in keys}


def _groups(size: Size, rates: dict[str, list[float]], cold: dict[str, float], limit: float) -> tuple[Group, ...]:
    title = f"{size.clients} clients, {size.side_px}², {size.steps} steps with guidance"
    shares = {name: middle([rate / limit for rate in seen]) for name, seen in rates.items()}
    return (
        Group(title, "images/s", {name: middle(seen) for name, seen in rates.items()}),
        Group("share of the matrix rate's limit", "of it", shares),
        Group("the first picture, or the first compiled call", "s", {name: once(s) for name, s in cold.items()}),
    )
