"""Which family a checkpoint is of, told from its configuration; a family is a line here and a file beside.

Reads JSON alone, so that the worker can say what it will serve before torch is imported.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from worker.errors import ModelUnusable
from worker.jobs.params import ModelFacts, Task
from worker.models.prompts.embeddings import NO_EMBEDDINGS, Embeddings, clip_widths

if TYPE_CHECKING:
    from shared_worker.device import Device
    from worker.models.base import Model

BUILTIN = Path(__file__).parent / "builtin" / "weights"
DEFAULTS_FILE = "sd_worker.json"
"""Beside `model_index.json`: what a model's maker found best, by the names of a job's fields, and `dtype`."""
DTYPES = ("float32", "bfloat16", "float16")
CODE_OR_PICKLE = (".py", ".pyc", ".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
SCHEDULER_SAMPLERS = {
    "DDIMScheduler": "ddim",
    "EulerDiscreteScheduler": "euler",
    "DPMSolverMultistepScheduler": "dpmpp_2m",
    "EulerAncestralDiscreteScheduler": "euler_a",
    "HeunDiscreteScheduler": "heun",
    "KDPM2DiscreteScheduler": "dpm2",
    "LCMScheduler": "lcm",
    "TCDScheduler": "tcd",
    "UniPCMultistepScheduler": "unipc",
}
"""A checkpoint's own scheduler is its default sampler, but for the old ones that took fifty steps."""


TEXT_ENCODERS = ("text_encoder", "text_encoder_2", "text_encoder_3")


@dataclass(frozen=True)
class Family:
    """`pipeline` is what `model_index.json` calls itself; `loader` names the function that loads the weights."""

    name: str
    pipeline: str
    loader: str
    steps: int
    guidance_scale: float
    sampler: str
    tasks: tuple[Task, ...]


FAMILIES = (
    Family("sd", "StableDiffusionPipeline", "worker.models.sd:load", 25, 7.5, "dpmpp_2m", (Task.TEXT_TO_IMAGE,)),
)


@dataclass(frozen=True)
class Checkpoint:
    """A model folder that can be served."""

    folder: Path
    family: Family
    facts: ModelFacts
    embeddings: Embeddings = NO_EMBEDDINGS

    def with_embeddings(self, folder: Path) -> Checkpoint:
        """With the textual-inversion embeddings of `folder`. Raises ConfigurationError."""
        parts = [part for part in TEXT_ENCODERS if (self.folder / part / "config.json").exists()]
        widths = clip_widths(read_json(self.folder, f"{part}/config.json") for part in parts)
        embeddings = Embeddings.in_folder(folder, widths)
        return replace(self, facts=replace(self.facts, embeddings=embeddings.facts), embeddings=embeddings)

    @property
    def fingerprint(self) -> str:
        """Tells this model from others of its name by the size of its denoiser."""
        size = sum(path.stat().st_size for path in (self.folder / "unet").glob("*.safetensors"))
        return f"{self.facts.id}, {size} bytes"

    def load(self, device: Device, report: Callable[[float], None]) -> Model:
        """Read the weights onto `device`. Slow; imports torch. Raises ModelUnusable."""
        module, _, function = self.family.loader.partition(":")
        load: Callable[[Checkpoint, Device, Callable[[float], None]], Model] = getattr(import_module(module), function)
        return load(self, device, report)


def identify(model: str, *, dtype: str | None, samplers: tuple[str, ...], usual_dtype: str = "float32") -> Checkpoint:
    """The checkpoint that `--model` names, offered with those of `samplers`. Raises ModelUnusable.

    Without `dtype` it computes in what its own defaults say, or else in `usual_dtype`.
    """
    folder = BUILTIN if model == "builtin" else Path(model)
    index = read_json(folder, "model_index.json")
    family = next((family for family in FAMILIES if family.pipeline == index.get("_class_name")), None)
    if family is None:
        raise ModelUnusable(f"{index.get('_class_name')!r} is not a pipeline that this worker serves")
    _refuse_code(folder)
    unet, vae = read_json(folder, "unet/config.json"), read_json(folder, "vae/config.json")
    scheduler = read_json(folder, "scheduler/scheduler_config.json")
    try:
        multiple = 2 ** (len(vae["block_out_channels"]) - 1)
        side = int(unet["sample_size"]) * multiple
        if unet["in_channels"] != vae["latent_channels"]:
            raise ModelUnusable("inpainting checkpoints are not served yet")
        # Every level of the UNet but the last halves the latent.
        granule = multiple * 2 ** (len(unet["block_out_channels"]) - 1)
    except (KeyError, TypeError, ValueError):
        raise ModelUnusable("the model's configuration lacks its sizes") from None
    facts = {
        "dtype": usual_dtype,
        "width": side,
        "height": side,
        "steps": family.steps,
        "guidance_scale": family.guidance_scale,
        "sampler": SCHEDULER_SAMPLERS.get(scheduler.get("_class_name", ""), family.sampler),
    }
    if (folder / DEFAULTS_FILE).exists():
        facts |= _defaults(folder, samplers)
    if dtype is not None:
        facts["dtype"] = dtype
    name = "builtin" if model == "builtin" else folder.resolve().name
    offered = ModelFacts(id=name, family=family.name, multiple=granule, samplers=samplers, tasks=family.tasks, **facts)
    return Checkpoint(folder, family, offered)


def read_json(folder: Path, name: str) -> dict[str, Any]:
    """One JSON object of a model folder. Raises ModelUnusable."""
    try:
        value = json.loads((folder / name).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise ModelUnusable(f"no diffusers model folder: {name} is not there") from None
    except (OSError, ValueError):
        raise ModelUnusable(f"{name} cannot be read as JSON") from None
    if not isinstance(value, dict):
        raise ModelUnusable(f"{name} does not hold a JSON object")
    return value


def _defaults(folder: Path, samplers: tuple[str, ...]) -> dict[str, Any]:
    defaults = read_json(folder, DEFAULTS_FILE)
    for name, value in defaults.items():
        match name:
            case "width" | "height" | "steps":
                usable = type(value) is int and value > 0
            case "guidance_scale":
                usable = type(value) in (int, float) and value >= 0
            case "sampler":
                usable = value in samplers
            case "dtype":
                usable = value in DTYPES
            case _:
                usable = False
        if not usable:
            raise ModelUnusable(f"{DEFAULTS_FILE}: {name!r} is no default that can be used")
    return defaults


def _refuse_code(folder: Path) -> None:
    """A model is safetensors and JSON: anything that could run is refused, used or not."""
    found = sorted(path.name for path in folder.rglob("*") if path.suffix.lower() in CODE_OR_PICKLE)
    if found:
        raise ModelUnusable(f"the model folder holds code or pickled weights ({found[0]}); only safetensors is served")
