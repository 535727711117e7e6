"""Judges the built-in model's pictures against what was asked: `python -m benches.judge`.

Knows the prompts, the stock pipeline that draws them and the report; leaves the reading of a picture to `measure`.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFilter
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benches.measure import Picture, Reading, read
from benches.sheet import Tile, contact_sheet
from worker.models.builtin.training.scenes import (
    COLOURS,
    RADII_PX,
    SHAPES,
    Figure,
    Scene,
    held_out,
    place,
    render,
)

WEIGHTS = Path(__file__).parents[1] / "worker" / "models" / "builtin" / "weights"
DEFAULT_GUIDANCE = 4.0
"""Where the model folder names none in `sd_worker.json`."""
FLOORS = {"background": 0.95, "colour": 0.95, "both colours": 0.95, "shape": 0.90, "position": 0.90}
"""The least rate of pictures that must show each thing as asked."""
SELF_CHECK_FLOOR = 0.99
"""A judge that misreads more than this of pictures known to be right measures itself."""

LEAD_INS = ("a picture of", "a drawing of")
WHERE = {
    "center": "in the center",
    "left": "on the left",
    "right": "on the right",
    "top": "at the top",
    "bottom": "at the bottom",
}
SAMPLERS = {
    "ddim": "DDIMScheduler",
    "dpmpp_2m": "DPMSolverMultistepScheduler",
    "euler": "EulerDiscreteScheduler",
    "euler_a": "EulerAncestralDiscreteScheduler",
    "heun": "HeunDiscreteScheduler",
    "pndm": "PNDMScheduler",
    "unipc": "UniPCMultistepScheduler",
}
"""Short names for `--scheduler`; any other name is taken for a class of diffusers."""
SHEET_SAMPLE, SHEET_FAULTS, WORST_CASES = 64, 32, 12


@dataclass(frozen=True)
class Asked:
    """A prompt and what it says; None where it says nothing. `seed` is of the picture's own generator."""

    text: str
    shape: str
    colour: str
    background: str
    size: str | None
    position: str | None
    seed: int


@dataclass(frozen=True)
class Judgement:
    """What was asked, what was measured, and which of the two differ (keys of `FLOORS`)."""

    asked: Asked
    reading: Reading
    faults: tuple[str, ...]


@dataclass(frozen=True)
class Rate:
    """`right` pictures `of` so many; a rate of none is neither good nor bad."""

    right: int
    of: int

    @property
    def value(self) -> float | None:
        return self.right / self.of if self.of else None

    def misses(self, floor: float) -> bool:
        return self.value is not None and self.value < floor


# What is asked


def make_prompts(count: int, seed: int) -> list[Asked]:
    """`count` prompts the model was never trained on, the same for the same seed.

    Held-out combinations come equally often, and where they cannot, those of the shapes and colours that came least.
    Half the prompts name a position and half a size.
    """
    rng = random.Random(seed)
    combinations = [
        (shape, colour, background)
        for shape, colour, background in product(SHAPES, COLOURS, COLOURS)
        if colour != background and held_out(colour, shape, background)
    ]
    positions = [list(WHERE)[k % len(WHERE)] if k % 2 else None for k in _shuffled_evenly(count, rng)]
    sizes = [(None, "small", None, "large")[k % 4] for k in _shuffled_evenly(count, rng)]
    used: Counter[tuple[str, ...]] = Counter()
    prompts = []
    for k in range(count):
        rng.shuffle(combinations)
        shape, colour, background = chosen = min(
            combinations,
            key=lambda c: (used[c], used["shape", c[0]] + used["colour", c[1]] + used["background", c[2]]),
        )
        used.update([chosen, ("shape", shape), ("colour", colour), ("background", background)])
        size, position = sizes[k], positions[k]
        lead_in = rng.choice(LEAD_INS) if rng.random() < 0.25 else None
        text = _wording(shape, colour, background, size, position, lead_in)
        prompts.append(Asked(text, shape, colour, background, size, position, seed + k))
    return prompts


def _shuffled_evenly(count: int, rng: random.Random) -> list[int]:
    return rng.sample(range(count), count)


def _wording(
    shape: str, colour: str, background: str, size: str | None, position: str | None, lead_in: str | None
) -> str:
    words = [size, colour, shape] if size else [colour, shape]
    parts = [lead_in, _article(" ".join(words)), WHERE[position] if position else None]
    return " ".join(part for part in [*parts, "on", _article(f"{background} background")] if part)


def _article(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


# What is drawn


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

    Each has a generator of its own on the CPU, so that a picture depends neither on its batch nor on the device.
    """
    import diffusers
    import torch

    pipe = diffusers.StableDiffusionPipeline.from_pretrained(model)
    if scheduler is not None:
        kind = getattr(diffusers, SAMPLERS.get(scheduler, scheduler))
        pipe.scheduler = kind.from_config(pipe.scheduler.config)
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
        yield from np.round(drawn * 255.0).astype(np.uint8)


def render_asked(prompts: Sequence[Asked]) -> Iterator[Picture]:
    """Pictures known to be right, as soft and as noisy as an autoencoder leaves them.  # [128, 128, 3] each"""
    for asked in prompts:
        rng = random.Random(asked.seed)
        radius = rng.uniform(*RADII_PX[asked.size])
        x, y = place(asked.position, radius, rng)
        figure = Figure(
            asked.shape, asked.colour, asked.size, asked.position, x, y, radius, COLOURS[asked.colour]
        )
        clean, _ = render(Scene((figure,), asked.background, COLOURS[asked.background]))
        soft = np.asarray(Image.fromarray(clean).filter(ImageFilter.GaussianBlur(0.8)), dtype=np.float32)
        tint = [rng.uniform(-6.0, 6.0) for _ in range(3)]
        noise = np.random.default_rng(asked.seed).normal(0.0, 4.0, soft.shape)
        yield np.clip(np.round(soft + tint + noise), 0, 255).astype(np.uint8)


# What is found


def judge(asked: Asked, picture: Picture) -> Judgement:
    """Measures `picture`  # [128, 128, 3]  and only then compares it with what was asked.

    A picture without a figure is wrong in everything: whatever its background, it is not the one that was asked for.
    """
    reading = read(picture)
    nothing = reading.area_px == 0
    wrong = {
        "background": nothing or reading.background != asked.background,
        "colour": nothing or reading.colour != asked.colour,
        "shape": nothing or reading.shape != asked.shape,
        "position": asked.position is not None and (nothing or reading.position != asked.position),
    }
    wrong["both colours"] = wrong["background"] or wrong["colour"]
    return Judgement(asked, reading, tuple(name for name in FLOORS if wrong[name]))


def rates(judgements: Sequence[Judgement]) -> dict[str, Rate]:
    """The rate of each key of `FLOORS`; of position, among the prompts that name one."""
    found = {}
    for name in FLOORS:
        asked_for = [j for j in judgements if name != "position" or j.asked.position is not None]
        found[name] = Rate(sum(name not in j.faults for j in asked_for), len(asked_for))
    return found


def misses(judgements: Sequence[Judgement], floors: dict[str, float]) -> list[str]:
    """The names of the rates below their floor."""
    return [name for name, rate in rates(judgements).items() if rate.misses(floors[name])]


def size_rate(judgements: Sequence[Judgement]) -> Rate:
    """How often a named size was drawn. It has no floor: the words promise no more than a tendency."""
    sized = [j for j in judgements if j.asked.size is not None]
    return Rate(sum(j.reading.area_px > 0 and j.reading.size == j.asked.size for j in sized), len(sized))


# What is told


@dataclass(frozen=True)
class Timing:
    """Seconds a picture."""

    drawing_s: float
    measuring_s: float


def report(judgements: Sequence[Judgement], floors: dict[str, float], timing: Timing, console: Console) -> None:
    """Prints the rates, whole and by shape, colour and position, and the worst pictures."""
    table = Table("as asked", "right", "of", "rate", "floor", "", title="What the pictures show")
    for name, rate in rates(judgements).items():
        mark = "[red]missed[/]" if rate.misses(floors[name]) else "[green]held[/]" if rate.of else ""
        table.add_row(name, str(rate.right), str(rate.of), _percent(rate), f"{floors[name]:.0%}", mark)
    size = size_rate(judgements)
    table.add_row("size", str(size.right), str(size.of), _percent(size), "none", "")
    console.print(table)
    _report_by(judgements, "shape", list(SHAPES), console)
    _report_by(judgements, "colour", list(COLOURS), console)
    _report_by(judgements, "background", list(COLOURS), console)
    _report_by(judgements, "position", list(WHERE), console)
    _report_worst(judgements, console)
    console.print(f"{timing.drawing_s:.3f} s a picture to draw, {timing.measuring_s:.3f} s to measure")


def _report_by(judgements: Sequence[Judgement], aspect: str, names: Sequence[str], console: Console) -> None:
    table = Table(aspect, "asked", "colours", "shape", "position", "overlap", "taken for", title=f"By {aspect}")
    for name in names:
        group = [j for j in judgements if getattr(j.asked, aspect) == name]
        if not group:
            continue
        found = rates(group)
        mistaken = Counter(str(getattr(j.reading, aspect) or "nothing") for j in group if aspect in j.faults)
        overlap = float(np.mean([j.reading.overlap for j in group]))
        table.add_row(
            name,
            str(len(group)),
            _percent(found["both colours"]),
            _percent(found["shape"]),
            _percent(found["position"]),
            f"{overlap:.2f}",
            ", ".join(f"{other} {count}" for other, count in mistaken.most_common()),
        )
    console.print(table)


def _report_worst(judgements: Sequence[Judgement], console: Console) -> None:
    faulty = sorted((j for j in judgements if j.faults), key=lambda j: (-len(j.faults), j.reading.overlap))
    if not faulty:
        console.print("No picture has a fault.")
        return
    table = Table("seed", "asked", "measured", "wrong", title=f"The worst of {len(faulty)} pictures with a fault")
    for j in faulty[:WORST_CASES]:
        table.add_row(str(j.asked.seed), j.asked.text, _in_words(j.reading), ", ".join(j.faults))
    console.print(table)


def _percent(rate: Rate) -> str:
    return "-" if rate.value is None else f"{rate.value:.1%}"


def _in_words(reading: Reading) -> str:
    if reading.area_px == 0:
        return f"nothing on {reading.background}"
    shape = reading.shape or "no shape"
    where = f"at {reading.position or 'no named place'} ({reading.x:.0f}, {reading.y:.0f})"
    return f"{reading.colour} {shape} {reading.overlap:.2f} on {reading.background} {where}"


def as_json(
    judgements: Sequence[Judgement], floors: dict[str, float], timing: Timing, settings: dict[str, Any]
) -> dict[str, Any]:
    """Everything measured, ready for `json.dumps`; `settings` is passed on as it is."""
    found = {name: {**asdict(rate), "rate": rate.value, "floor": floors[name]} for name, rate in rates(judgements).items()}
    size = size_rate(judgements)
    return {
        "settings": settings,
        "rates": {**found, "size": {**asdict(size), "rate": size.value, "floor": None}},
        "missed": misses(judgements, floors),
        "by_shape": _by(judgements, "shape", list(SHAPES)),
        "by_colour": _by(judgements, "colour", list(COLOURS)),
        "by_background": _by(judgements, "background", list(COLOURS)),
        "by_position": _by(judgements, "position", list(WHERE)),
        "seconds_per_picture": asdict(timing),
        "pictures": [asdict(j) for j in judgements],
    }


def _by(judgements: Sequence[Judgement], aspect: str, names: Sequence[str]) -> dict[str, dict[str, float | None]]:
    return {
        name: {key: rate.value for key, rate in rates([j for j in judgements if getattr(j.asked, aspect) == name]).items()}
        for name in names
    }


def sheet_tiles(judgements: Sequence[Judgement], pictures: Sequence[Picture]) -> list[Tile]:
    """The first pictures whatever they show, for a fair look, then what has faults among the rest."""
    both = list(zip(judgements, pictures, strict=True))
    shown = both[:SHEET_SAMPLE] + [(j, p) for j, p in both[SHEET_SAMPLE:] if j.faults][:SHEET_FAULTS]
    return [Tile(p, j.asked.text, _in_words(j.reading) if j.faults else None) for j, p in shown]


# The command


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
    judgements, measuring_s = _timed(lambda: [judge(*pair) for pair in zip(prompts, pictures, strict=True)], len(prompts))
    timing = Timing(drawing_s, measuring_s)
    report(judgements, floors, timing, console)
    if args.json is not None:
        told = as_json(judgements, floors, timing, settings)
        args.json.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    if args.sheet is not None:
        faulty = sum(bool(j.faults) for j in judgements)
        heading = f"{len(judgements)} pictures, {faulty} with a fault (red); the first {SHEET_SAMPLE}, then other faults"
        contact_sheet(sheet_tiles(judgements, pictures), heading).save(args.sheet)
    return 1 if misses(judgements, floors) else 0


def _timed[T](work: Callable[[], T], count: int) -> tuple[T, float]:
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
    parser.add_argument("--scheduler", metavar="NAME", help=f"{', '.join(SAMPLERS)} or a diffusers class")
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
