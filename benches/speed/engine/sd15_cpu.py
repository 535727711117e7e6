"""Row 10: a CPU with bf16 units, a model of SD 1.5's size at 256²: the engine in bf16 over B0 in fp32, and batching."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch

from benches.speed.arms import pipeline
from benches.speed.bench import Bench
from benches.speed.engine.arms import B0, Arm, Ours
from benches.speed.engine.rig import EngineRig
from benches.speed.engine.synthetic import SD15, TOY, write_sd15
from benches.speed.job import stream_of_jobs
from benches.speed.outcome import Group, Outcome
from benches.speed.spread import middle, ratios
from shared_worker.device import find_device
from worker.models.registry import identify

DTYPE = "bfloat16"
SIDE_PX = 256
TOGETHER = 4


def measure(bench: Bench) -> Outcome:
    """Three arms in turns: B0 in fp32 with one client, the engine in bf16 with one and with four."""
    torch.set_num_threads(bench.threads)
    steps, rounds = bench.pick((6, 3), (2, 1))
    jobs = stream_of_jobs(steps, width=SIDE_PX, height=SIDE_PX)
    rates: dict[str, list[float]] = {"B0, fp32": [], "engine, bf16": [], f"engine, bf16, {TOGETHER} clients": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "sd15"
        write_sd15(folder, bench.pick(SD15, TOY), side_px=SIDE_PX, device="cpu", dtype=torch.float32)
        b0 = B0(pipeline.load(folder))
        checkpoint = identify(str(folder), dtype=DTYPE, samplers=("dpmpp_2m",))
        with EngineRig(checkpoint, find_device("cpu"), max_rows=2 * TOGETHER) as rig:
            arms: tuple[tuple[Arm, int], ...] = ((b0, 1), (Ours(rig), 1), (Ours(rig), TOGETHER))
            for count in range(rounds + 1):
                for samples, (arm, clients) in zip(rates.values(), arms, strict=True):
                    rate = arm.images_per_s(jobs, clients=clients, each=1)
                    if count > 0:  # the first round warms
                        samples.append(rate)
    fp32, alone, together = rates.values()
    return Outcome(
        10,
        {"10.fp32": middle(ratios(alone, fp32)), "10.batch": middle(ratios(together, alone))},
        (Group(f"{SIDE_PX}², {steps} steps with guidance", "images/s", {k: middle(v) for k, v in rates.items()}),),
    )
