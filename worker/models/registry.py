"""The families that are served, each a line here and a file beside; and which of them a checkpoint is of.

A checkpoint is known by what it is: its configuration, or its tensors' names and shapes. Never by its name. Nothing
here imports torch, so that the worker can say what it will serve before it is there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from worker.errors import ModelUnusable
from worker.jobs.params import ModelFacts, Task
from worker.models.checkpoint import DTYPES, Checkpoint, Source
from worker.models.family import Anatomy, Family, Guidance
from worker.models.folder import DiffusersFolder, read_json

__all__ = ["BUILTIN", "DEFAULTS_FILE", "DTYPES", "FAMILIES", "Checkpoint", "identify", "read_json"]

BUILTIN = Path(__file__).parent / "builtin" / "weights"
DEFAULTS_FILE = "sd_worker.json"
"""Beside `model_index.json`: what a model's maker found best, by the names of a job's fields, and `dtype`."""
SCHEDULER_SAMPLERS = {
    "DDIMScheduler": "ddim",
    "EulerDiscreteScheduler": "euler",
    "DPMSolverMultistepScheduler": "dpmpp_2m",
    "EulerAncestralDiscreteScheduler": "euler_a",
    "FlowMatchEulerDiscreteScheduler": "flow_euler",
    "HeunDiscreteScheduler": "heun",
    "KDPM2DiscreteScheduler": "dpm2",
    "LCMScheduler": "lcm",
    "TCDScheduler": "tcd",
    "UniPCMultistepScheduler": "unipc",
}
"""A checkpoint's own scheduler is its default sampler, but for the old ones that took fifty steps."""

SERVED = (Task.TEXT_TO_IMAGE,)
"""What the engine can do today, whatever a family could."""
ANY = (Task.TEXT_TO_IMAGE, Task.IMAGE_TO_IMAGE, Task.INPAINTING)
REPAINT = (Task.INPAINTING,)
EMBEDDED, UNGUIDED = Guidance.EMBEDDED, Guidance.NONE

SD = "worker.models.sd:load"
SD_PIPELINES = ("StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline", "StableDiffusionInpaintPipeline")
SDXL = "worker.models.sdxl:load"
SDXL_PIPELINES = ("StableDiffusionXLPipeline", "StableDiffusionXLImg2ImgPipeline", "StableDiffusionXLInpaintPipeline")
SD3 = "worker.models.sd3:load"
SD3_PIPELINES = ("StableDiffusion3Pipeline", "StableDiffusion3Img2ImgPipeline", "StableDiffusion3InpaintPipeline")
FLUX = "worker.models.flux:load"
FLUX_PIPELINES = ("FluxPipeline", "FluxImg2ImgPipeline", "FluxInpaintPipeline")


def _is_sd2(it: Anatomy) -> bool:
    return it.denoiser.get("cross_attention_dim") == 1024


def _is_sd2_v(it: Anatomy) -> bool:
    return _is_sd2(it) and it.v_prediction


def _is_sd35(it: Anatomy) -> bool:
    return bool(it.denoiser.get("qk_norm"))


def _is_dev(it: Anatomy) -> bool:
    return bool(it.denoiser.get("guidance_embeds"))


def _any(it: Anatomy) -> bool:
    return True


def _repaints(it: Anatomy) -> bool:
    return it.repaints


def _few_steps(it: Anatomy) -> bool:
    return it.few_steps


# The first line that fits is the checkpoint's own. Sizes: where the configuration names none. Steps and guidance: what
# the makers of the reference checkpoints give in their model cards.
FAMILIES = (
    Family("sd", "inpainting", SD, SD_PIPELINES, _repaints, 512, 25, 7.5, "dpmpp_2m", REPAINT),
    Family("sd", "few steps", SD, SD_PIPELINES, _few_steps, 512, 4, 1.0, "euler", ANY),
    Family("sd", "2.x, v-prediction", SD, SD_PIPELINES, _is_sd2_v, 768, 25, 7.5, "dpmpp_2m", ANY),
    Family("sd", "2.x", SD, SD_PIPELINES, _is_sd2, 512, 25, 7.5, "dpmpp_2m", ANY),
    Family("sd", "1.x", SD, SD_PIPELINES, _any, 512, 25, 7.5, "dpmpp_2m", ANY),
    Family("sdxl", "inpainting", SDXL, SDXL_PIPELINES, _repaints, 1024, 30, 5.0, "euler", REPAINT),
    Family("sdxl", "few steps", SDXL, SDXL_PIPELINES, _few_steps, 1024, 4, 1.0, "euler", ANY),
    Family("sdxl", "base", SDXL, SDXL_PIPELINES, _any, 1024, 30, 5.0, "euler", ANY),
    Family("sd3", "3.5", SD3, SD3_PIPELINES, _is_sd35, 1024, 28, 4.5, "flow_euler", ANY, 256, flow=True),
    Family("sd3", "3", SD3, SD3_PIPELINES, _any, 1024, 28, 7.0, "flow_euler", ANY, 256, flow=True),
    Family("flux", "dev", FLUX, FLUX_PIPELINES, _is_dev, 1024, 28, 3.5, "flow_euler", ANY, 512, EMBEDDED, flow=True),
    Family("flux", "schnell", FLUX, FLUX_PIPELINES, _any, 1024, 4, 0.0, "flow_euler", ANY, 256, UNGUIDED, flow=True),
)


def identify(model: str, *, dtype: str | None, samplers: tuple[str, ...], usual_dtype: str = "float32") -> Checkpoint:
    """The checkpoint that `--model` names, offered with those of `samplers` that draw it. Raises ModelUnusable.

    Without `dtype` it computes in what its own defaults say, or else in `usual_dtype`.
    """
    source = DiffusersFolder(BUILTIN if model == "builtin" else Path(model))
    family = family_of(source)
    source.refuse_code()
    offered = family.samplers_among(samplers)
    if not offered:
        raise ModelUnusable(f"a {family.name} model needs a sampler of its own kind, and this worker has none")
    width, multiple = sizes(family, source)
    own = SCHEDULER_SAMPLERS.get(source.config("scheduler").get("_class_name", ""), "")
    sampler = next((name for name in (own, family.sampler, offered[0]) if name in offered), offered[0])
    facts: dict[str, Any] = {
        "dtype": usual_dtype,
        "width": width,
        "height": width,
        "steps": family.steps,
        "guidance_scale": family.guidance_scale,
        "sampler": sampler,
    }
    if source.has(DEFAULTS_FILE):
        facts |= _defaults(source, offered)
    if dtype is not None:
        facts["dtype"] = dtype
    tasks = tuple(task for task in family.tasks if task in SERVED)
    if not tasks:
        raise ModelUnusable(f"{family.variant} checkpoints are not served yet")
    name = "builtin" if model == "builtin" else source.name
    shown = ModelFacts(id=name, family=family.name, multiple=multiple, samplers=offered, tasks=tasks, **facts)
    return Checkpoint(source, family, shown)


def family_of(source: Source) -> Family:
    """The line that a checkpoint belongs to. Raises ModelUnusable."""
    pipeline = source.pipeline
    lines = [family for family in FAMILIES if pipeline in family.pipelines]
    if not lines:
        raise ModelUnusable(f"{pipeline!r} is not a pipeline that this worker serves")
    part = lines[0].denoiser
    it = Anatomy(str(pipeline), source.config(part), source.config("vae"), source.config("scheduler"))
    try:
        found = next(family for family in lines if family.is_it(it))
        channels, own = int(it.denoiser["in_channels"]), int(it.vae["latent_channels"])
    except (KeyError, TypeError, ValueError):
        raise ModelUnusable("the model's configuration lacks its sizes") from None
    packed = 4 if found.name == "flux" else 1  # a token of FLUX is two by two places of the latent
    if channels != packed * own and not it.repaints:
        raise ModelUnusable(f"a denoiser of {channels} input channels on a latent of {own} is not served")
    if it.denoiser.get("time_cond_proj_dim"):
        raise ModelUnusable("a denoiser that takes its guidance as an input (time_cond_proj_dim) is not served")
    if source.index.get("requires_aesthetics_score"):
        raise ModelUnusable("a refiner draws no pictures of its own and is not served")
    return found


def sizes(family: Family, source: Source) -> tuple[int, int]:
    """(side, multiple) in pixels: the model's native side, and what width and height must be multiples of."""
    denoiser, vae = source.config(family.denoiser), source.config("vae")
    try:
        factor = 2 ** (len(vae["block_out_channels"]) - 1)
        if family.name == "flux":
            return family.side_px, factor * 2  # its tokens are two by two
        side = int(denoiser["sample_size"]) * factor
        if family.flow:
            return side, factor * int(denoiser["patch_size"])
        # Every level of the UNet but the last halves the latent.
        return side, factor * 2 ** (len(denoiser["block_out_channels"]) - 1)
    except (KeyError, TypeError, ValueError):
        raise ModelUnusable("the model's configuration lacks its sizes") from None


def _defaults(source: Source, samplers: tuple[str, ...]) -> dict[str, Any]:
    defaults = source.json(DEFAULTS_FILE)
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
    return dict(defaults)
