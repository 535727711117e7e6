"""Judges the built-in model's pictures against what was asked: `python -m benches.judge`.

Knows the stock pipeline that draws and the order of things; `measure` reads the pictures and `verdict` compares.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image, ImageFilter
from rich.console import Console
from rich.progress import track

from benches.measure import Picture
from benches.prompts import Asked, make_prompts
from benches.report import SHEET_SAMPLE, Timing, as_json, print_report, sheet_tiles
from benches.sheet import contact_sheet
from benches.verdict import FLOORS, judge, misses
from worker.models.builtin.training.scenes import COLOURS, RADII_PX, Figure, Scene, place, render

T = TypeVar("T")

WEIGHTS = Path(__file__).parents[1] / "worker" / "models" / "builtin" / "weights"
DEFAULT_GUIDANCE = 4.0
"""Where the model folder names none in `sd_worker.json`."""
SELF_CHECK_FLOOR = 0.99
"""Of pictures known to be right. Below it, the rates would tell of the judge and not of the model."""
SAMPLERS = {
    "ddim": "DDIMScheduler",
    "dpmpp_2m": "DPMSolverMultistepScheduler",
    "euler": "EulerDiscreteScheduler",
    "euler_a": "EulerAncestralDiscreteScheduler",
    "heun": "HeunDiscreteScheduler",
    "pndm": "PNDMScheduler",
    "unipc": "UniPCMultistepScheduler",
}
"""The schedulers of diffusers by the names `--scheduler` takes."""


def default_guidance(model: Path) -> float:
    """The guidance scale that the model folder asks for."""
    settings = model / "sd_worker.json"
    if not settings.is_file():
        return DEFAULT_GUIDANCE
    return float(json.loads(settings.read_text(encoding="utf-8")).get("guidance_scale", DEFAULT_GUIDANCE))


def draw(
    model: Path, prompts: Sequence[Asked], *, steps: int, guidance: float, scheduler: str | None, batch: int
) -> Iterator[Picture]:
    """The stock pipeline's picture for each prompt, in order.  # [128, 128, 3] each

    Each has a generator of its own on the CPU, so that it starts from the same noise in any batch, on any device.
    """
    import diffusers
    import torch

    # Nothing is said of precision: the folder has to load and run for whoever types this one line.
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(model)
    if scheduler is not None:
        pipe.scheduler = getattr(diffusers, SAMPLERS[scheduler]).from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    pipe.to("cuda" if torch.cuda.is_available() else "cpu")
    for start in range(0, len(prompts), batch):
        rows = prompts[start : start + batch]
        drawn = pipe(
            prompt=[asked.text for asked in rows],
            generator=[torch.Generator("cpu").manual_seed(asked.seed) for asked in rows],
            num_inference_steps=steps,
            guidance_scale=guidance,
            output_type="np",
        ).images  # [rows, H, W, 3], 0 to 1
        # A broken model's not-a-numbers turn black, to be judged like any other picture.
        yield from np.round(np.nan_to_num(drawn) * 255.0).astype(np.uint8)


def render_asked(prompts: Sequence[Asked]) -> Iterator[Picture]:
    """Pictures known to be right, as soft and as noisy as an autoencoder leaves them.  # [128, 128, 3] each"""
    for asked in prompts:
        rng = random.Random(asked.seed)
        radius = rng.uniform(*RADII_PX[asked.size])
        x, y = place(asked.position, radius, rng)
        figure = Figure(asked.shape, asked.colour, asked.size, asked.position, x, y, radius, COLOURS[asked.colour])
        clean, _ = render(Scene((figure,), asked.background, COLOURS[asked.background]))
        soft = np.asarray(Image.fromarray(clean).filter(ImageFilter.GaussianBlur(0.8)), dtype=np.float32)
        tint = [rng.uniform(-6.0, 6.0) for _ in range(3)]
        noise = np.random.default_rng(asked.seed).normal(0.0, 4.0, soft.shape)
        yield np.clip(np.round(soft + tint + noise), 0, 255).astype(np.uint8)


def main(argv: Sequence[str] | None = None) -> int:
    """Draws, measures and reports; 0 if every floor holds, 1 if one is missed, 2 if there is no model to judge."""
    args = _parse(argv)
    console = Console()
    prompts = make_prompts(args.prompts, args.seed)
    if args.self_check:
        floors = dict.fromkeys(FLOORS, SELF_CHECK_FLOOR)
        settings: dict[str, Any] = {"self_check": True, "seed": args.seed}
        drawing = render_asked(prompts)
    else:
        if not (args.model / "model_index.json").is_file():
            print(f"there is no model in {args.model}: it has no model_index.json", file=sys.stderr)
            return 2
        floors = FLOORS
        guidance = default_guidance(args.model) if args.guidance is None else args.guidance
        settings = {
            "model": args.model.name,
            "steps": args.steps,
            "guidance_scale": guidance,
            "scheduler": args.scheduler,
            "seed": args.seed,
        }
        drawing = draw(
            args.model, prompts, steps=args.steps, guidance=guidance, scheduler=args.scheduler, batch=args.batch
        )
    pictures, drawing_s = _timed(
        lambda: list(track(drawing, "drawing", total=len(prompts), console=console, transient=True)), len(prompts)
    )
    judgements, measuring_s = _timed(lambda: list(map(judge, prompts, pictures)), len(prompts))
    timing = Timing(drawing_s, measuring_s)
    print_report(judgements, floors, timing, console)
    if args.json is not None:
        told = as_json(judgements, floors, timing, settings)
        args.json.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    if args.sheet is not None:
        faulty = sum(bool(j.faults) for j in judgements)
        heading = f"{faulty} of {len(judgements)} with a fault (red). The first {SHEET_SAMPLE}, then other faults"
        contact_sheet(sheet_tiles(judgements, pictures), heading).save(args.sheet)
    return 1 if misses(judgements, floors) else 0


def _timed(work: Callable[[], T], count: int) -> tuple[T, float]:
    """What `work` returns, and the seconds it took for each of `count`."""
    start = time.perf_counter()
    result = work()
    return result, (time.perf_counter() - start) / count


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benches.judge", description=__doc__)
    parser.add_argument("--model", type=Path, default=WEIGHTS, metavar="DIR", help="a diffusers folder")
    parser.add_argument("--prompts", type=_positive, default=240, metavar="N", help="how many (default 240)")
    parser.add_argument("--steps", type=_positive, default=20, metavar="N", help="of the sampler (default 20)")
    parser.add_argument("--guidance", type=float, metavar="G", help="guidance scale (default: the model's own)")
    parser.add_argument(
        "--scheduler", choices=SAMPLERS, metavar="NAME", help=f"{', '.join(SAMPLERS)} (default: the model's own)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of prompts and pictures (default 0)")
    parser.add_argument("--batch", type=_positive, default=16, metavar="N", help="pictures at once (default 16)")
    parser.add_argument("--sheet", type=Path, metavar="FILE.png", help="write a contact sheet")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything measured")
    parser.add_argument("--self-check", action="store_true", help="judge the judge, on pictures known to be right")
    return parser.parse_args(argv)


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not at least 1")
    return number


if __name__ == "__main__":
    sys.exit(main())
