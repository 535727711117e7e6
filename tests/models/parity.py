"""The parity table: what our step loop draws against what the stock pipelines draw, of every family, task and kind of
sampler, alone and in company. `python -m tests.models.parity` prints it, and fails where it does not hold.

Every model here is of toy size with random weights, at the real structure of its family.
"""

from __future__ import annotations

import logging
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging

from shared_worker.device import find_device
from tests.models import families
from tests.models.tiny import by_stock, half_mask, job, psnr_db, scene, write_tiny
from worker.engine import sampling
from worker.engine.denoiser import Denoiser
from worker.engine.runner import Pixels
from worker.jobs.params import JobParams, Task
from worker.models.checkpoint import Checkpoint
from worker.models.registry import identify
from worker.models.schedulers import SCHEDULERS

ALONE_DB, IN_COMPANY_DB = 40.0, 35.0
KINDS = {
    "one step": "euler",
    "multistep": "dpmpp_2m",
    "stochastic": "euler_a",
    "two calls": "heun",
    "read off": "unipc",
    "few steps": "lcm",
    "flow": "flow_euler",
}
"""A kind of sampler, and the one that stands for it here."""
FEW = ("one step", "stochastic", "few steps")
"""Those that checkpoints of few steps are drawn with."""


@dataclass(frozen=True)
class Variant:
    """How a model of a family's variant is written into a folder, and the kinds of sampler it is measured with."""

    write: Callable[[Path], Path]
    kinds: tuple[str, ...] = tuple(KINDS)


def few_steps(folder: Path) -> Path:
    return families.write_sdxl(folder, scheduler=families.FEW_STEPS_SCHEDULER)


def consistency(folder: Path) -> Path:
    scheduler = families.CONSISTENCY_SCHEDULER
    return families.write_sdxl(folder, scheduler=scheduler, unet={"time_cond_proj_dim": 16})


def velocity(folder: Path) -> Path:
    """SDXL with v-prediction, trained on noise without signal at its end."""
    changes = {"prediction_type": "v_prediction", "timestep_spacing": "trailing", "rescale_betas_zero_snr": True}
    return families.write_sdxl(folder, scheduler=families.SDXL_SCHEDULER | changes)


VARIANTS = {
    "sd 1.x": Variant(write_tiny),
    "sd inpainting": Variant(lambda folder: write_tiny(folder, takes_mask=True)),
    "sd 2.x": Variant(
        lambda folder: families.write_sd2(folder, velocity=False), ("one step", "multistep", "stochastic")
    ),
    "sd 2.x, v-prediction": Variant(families.write_sd2),
    "sdxl base": Variant(families.write_sdxl),
    "sdxl v-prediction": Variant(velocity, ("one step", "multistep", "stochastic")),
    "sdxl few steps": Variant(few_steps, FEW),
    "sdxl consistency": Variant(consistency, FEW),
    "sdxl inpainting": Variant(lambda folder: families.write_sdxl(folder, takes_mask=True)),
    "sd3 3": Variant(families.write_sd3),
    "sd3 3.5, without T5": Variant(lambda folder: families.write_sd3(folder, newer=True, with_t5=False)),
    "flux dev": Variant(families.write_flux),
    "flux schnell": Variant(lambda folder: families.write_flux(folder, dev=False)),
}
PROMPTS = ("a red circle on the left", "a large yellow star", "the blue ring and a green square")
STEPS, STRENGTH = 6, 0.5


@dataclass(frozen=True)
class Loaded:
    """A variant, loaded by us; the stock pipelines are loaded from its folder."""

    folder: Path
    checkpoint: Checkpoint
    denoiser: Denoiser

    @classmethod
    def of(cls, folder: Path) -> Loaded:
        names = (*sampling.SAMPLERS, *SCHEDULERS)
        checkpoint = identify(str(folder), dtype="float32", samplers=names)
        denoiser = Denoiser(lambda report: checkpoint.load(find_device("cpu"), report))
        denoiser.load(lambda share: None)
        return cls(folder, checkpoint, denoiser)

    def stock(self, task: Task) -> Callable[..., Pixels]:
        """Draws jobs of a task, image by image."""
        pipeline = families.load_stock(self.folder, task)
        length = self.checkpoint.family.text_length

        def draw(asked: JobParams, index: int = 0) -> Pixels:
            return by_stock(pipeline, asked, index, max_sequence_length=length)

        return draw

    def draw(self, *jobs: JobParams, join_every: int = 0) -> list[list[Pixels]]:
        """The pictures of all jobs, drawn in the same calls; each joins `join_every` steps after the one before."""
        opened = [list(self.denoiser.open(asked)) for asked in jobs]
        step = 0
        while True:
            joined = opened if join_every == 0 else opened[: 1 + step // join_every]
            waiting = [one for drawings in joined for one in drawings if not one.done]
            if not waiting and len(joined) == len(opened):
                return [[self.denoiser.finish(one) for one in drawings] for drawings in opened]
            assert len({one.key for one in waiting}) <= 1, "all of these can share a call"
            if waiting:
                self.denoiser.step(waiting)
            step += 1


@dataclass(frozen=True)
class Cell:
    """One picture held against the stock pipeline's."""

    task: Task
    kind: str
    alone_db: float
    in_company_db: float

    @property
    def holds(self) -> bool:
        return self.alone_db >= ALONE_DB and self.in_company_db >= IN_COMPANY_DB

    def __str__(self) -> str:
        return f"{self.alone_db:.0f} / {self.in_company_db:.0f}" + ("" if self.holds else " !")


def asked(task: Task, sampler: str, number: int) -> JobParams:
    """A job; each `number` asks for something else."""
    pictures: dict[str, Any] = {}
    if task is not Task.TEXT_TO_IMAGE:
        pictures = {"image": scene(), "strength": STRENGTH}
    if task is Task.INPAINTING:
        pictures["mask"] = half_mask()
    return job(
        task=task,
        sampler=sampler,
        steps=STEPS,
        seed=100 + number,
        prompt=PROMPTS[number % len(PROMPTS)],
        negative_prompt="green" if number % 2 else None,
        guidance_scale=(5.0, 3.0, 1.0)[number % 3],
        **pictures,
    )


def measure(loaded: Loaded, kinds: tuple[str, ...]) -> list[Cell]:
    """All tasks of the model that have a stock pipeline, by all of `kinds` that it can be drawn with."""
    facts = loaded.checkpoint.facts
    tasks = [task for task in facts.tasks if task in families.TASKS]
    jobs = [
        (kind, asked(task, sampler, number))
        for number, (task, (kind, sampler)) in enumerate(
            (task, (kind, KINDS[kind])) for task in tasks for kind in kinds if KINDS[kind] in facts.samplers
        )
    ]
    stocks = {task: loaded.stock(task) for task in tasks}
    together = loaded.draw(*(one for _, one in jobs), join_every=1)
    cells = []
    for (kind, one), [in_company] in zip(jobs, together, strict=True):
        expected = stocks[one.task](one)
        assert expected.std() > 20, "a grey picture would prove nothing"
        [[alone]] = loaded.draw(one)
        cells.append(Cell(one.task, kind, psnr_db(alone, expected), psnr_db(in_company, expected)))
    return cells


def rows(variant: str, cells: Iterable[Cell]) -> Iterator[str]:
    """A line for each task."""
    found = {(cell.task, cell.kind): cell for cell in cells}
    for task in dict.fromkeys(cell.task for cell in found.values()):
        shown = (str(found.get((task, kind), "")) for kind in KINDS)
        yield f"| {variant:<20} | {task:<14} | " + " | ".join(f"{one:<10}" for one in shown) + " |"


def main() -> int:
    """Print the table; 1 where it does not hold."""
    warnings.simplefilter("ignore")
    for library in (diffusers_logging, transformers_logging):
        library.set_verbosity_error()
        library.disable_progress_bar()
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    started = time.monotonic()
    print(f"dB to the stock pipeline's picture, alone / in company; at least {ALONE_DB:.0f} / {IN_COMPANY_DB:.0f}\n")
    print(f"| {'model':<20} | {'task':<14} | " + " | ".join(f"{kind:<10}" for kind in KINDS) + " |")
    print("|---" * (2 + len(KINDS)) + "|")
    failed = 0
    for variant, made in VARIANTS.items():
        with tempfile.TemporaryDirectory() as folder:
            cells = measure(Loaded.of(made.write(Path(folder) / "tiny")), made.kinds)
        failed += sum(not cell.holds for cell in cells)
        print(*rows(variant, cells), sep="\n", flush=True)
    print(f"\n{failed or 'none'} below, {time.monotonic() - started:.0f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
