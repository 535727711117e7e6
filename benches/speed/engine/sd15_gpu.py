"""Row 12: an NVIDIA GPU, a model of SD 1.5's size at 512², 16 clients: the engine over B0, and over the device's limit.

Both arms compute in bf16 on one set of weights. The limit is the work of a picture at the matrix rate of this run.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch

from benches.speed.arms import pipeline
from benches.speed.bench import Bench
from benches.speed.engine.arms import B0, Arm, Ours
from benches.speed.engine.rate import matrix_tflops
from benches.speed.engine.rig import EngineRig
from benches.speed.engine.synthetic import SD15, TOY, Widths, write_sd15
from benches.speed.job import stream_of_jobs
from benches.speed.outcome import Group, Outcome
from benches.speed.spread import middle, once, ratios
from shared_worker.device import find_device
from worker.models.registry import identify

DTYPE = "bfloat16"
SIDE_PX = 512
STEPS = 20
GUIDANCE_SCALE = 7
UNET_TFLOP = 0.803
"""Of one row's forward at 512²."""
DECODE_TFLOP = 2.5
IMAGE_TFLOP = STEPS * 2 * UNET_TFLOP + DECODE_TFLOP


def measure(bench: Bench) -> Outcome:
    """On the device of the run."""
    return compare(bench, bench.pick(SD15, TOY), clients=16, rounds=bench.pick(4, 1), matrix_side=8192)


def compare(bench: Bench, widths: Widths, *, clients: int, rounds: int, matrix_side: int) -> Outcome:
    """B0 and the engine in turns, `clients` closed loops of one picture each a round; the first round only warms."""
    device, dtype = find_device(bench.backend), getattr(torch, DTYPE)
    jobs = stream_of_jobs(STEPS, width=SIDE_PX, height=SIDE_PX, guidance_scale=GUIDANCE_SCALE)
    rates: dict[str, list[float]] = {"B0": [], "engine": []}
    cold: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = write_sd15(Path(name) / "sd15", widths, side_px=SIDE_PX, device=device.torch_name, dtype=dtype)
        checkpoint = identify(str(folder), dtype=DTYPE, samplers=("dpmpp_2m",))
        b0 = B0(pipeline.load(folder, device=device.torch_name, dtype=dtype))
        tflops = matrix_tflops(device.torch_name, dtype, side=matrix_side)
        with EngineRig(checkpoint, device, max_rows=2 * clients) as rig:
            arms: dict[str, Arm] = {"B0": b0, "engine": Ours(rig)}
            for count in range(rounds + 1):
                for label, arm in arms.items():
                    rate = arm.images_per_s(jobs, clients=clients, each=2 if count else 1)
                    if count:
                        rates[label].append(rate)
                    else:
                        cold[label] = rate
    limit = tflops / IMAGE_TFLOP
    return Outcome(
        12,
        {
            "12.b0": middle(ratios(rates["engine"], rates["B0"])),
            "12.limit": middle([rate / limit for rate in rates["engine"]]),
        },
        (
            Group(f"{clients} clients, {STEPS} steps", "images/s", {k: middle(v) for k, v in rates.items()}),
            Group("the first round, cold", "images/s", {k: once(v) for k, v in cold.items()}),
            Group("matrix rate, bf16", "TFLOP/s", {f"{matrix_side}² by {matrix_side}²": once(tflops)}),
        ),
        (f"the limit is {limit:.1f} images/s: {IMAGE_TFLOP:.1f} TFLOP a picture at the matrix rate",),
    )
