"""The families that are served, each a line here and a file beside; and which of them a checkpoint is of.

A checkpoint is known by what it is: its configuration, or its tensors' names and shapes. Never by its name. Nothing
here imports torch, so that the worker can say what it will serve before it is there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from worker.errors import ModelUnusable
from worker.jobs.facts import Guidance, Limits, ModelFacts
from worker.jobs.params import Task
from worker.models import checksum, contents, needs
from worker.models.checkpoint import DTYPES, Checkpoint, Source
from worker.models.family import Anatomy, Family
from worker.models.folder import DiffusersFolder, read_json
from worker.models.offload import choose_placement
from worker.models.schedulers import NOT_OF_SAMPLE, most_steps
from worker.models.single_file import SingleFile

__all__ = ["BUILTIN", "DEFAULTS_FILE", "DTYPES", "FAMILIES", "Checkpoint", "identify", "read_json"]

ReadNoise = Callable[[Mapping[str, Any]], object]

BUILTIN = Path(__file__).parent / "builtin" / "weights"
DEFAULTS_FILE = "sd_worker.json"
"""Beside `model_index.json`: what a model's maker found best, by the names of a job's fields, and `dtype`."""
FLOW_SCHEDULER = "FlowMatchEulerDiscreteScheduler"
"""The noise that flows are drawn on; every published checkpoint of theirs comes with it."""
BEFORE_0_9 = re.compile(r"0\.[0-8](?!\d)")
"""Versions of diffusers."""
SCHEDULER_SAMPLERS = {
    "DDIMScheduler": "ddim",
    "EulerDiscreteScheduler": "euler",
    "DPMSolverMultistepScheduler": "dpmpp_2m",
    "EulerAncestralDiscreteScheduler": "euler_a",
    FLOW_SCHEDULER: "flow_euler",
    "HeunDiscreteScheduler": "heun",
    "KDPM2DiscreteScheduler": "dpm2",
    "LCMScheduler": "lcm",
    "TCDScheduler": "tcd",
    "UniPCMultistepScheduler": "unipc",
}
"""A checkpoint's own scheduler is its default sampler, but for the old ones that took fifty steps."""

ANY = (Task.TEXT_TO_IMAGE, Task.IMAGE_TO_IMAGE, Task.INPAINTING, Task.UPSCALE)
REPAINT = (Task.INPAINTING,)
EMBEDDED, UNGUIDED = Guidance.EMBEDDED, Guidance.NONE

SD = "worker.models.sd:load"
SD_PIPELINES = (
    *("StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline", "StableDiffusionInpaintPipeline"),
    *("LatentConsistencyModelPipeline", "LatentConsistencyModelImg2ImgPipeline"),
)
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


def _takes_scale(it: Anatomy) -> bool:
    return it.takes_scale


def _few_steps(it: Anatomy) -> bool:
    return it.few_steps


# The first line that fits is the checkpoint's own. Sizes: where the configuration names none. Steps and guidance: what
# the makers of the reference checkpoints give in their model cards.
FAMILIES = (
    Family("sd", "inpainting", SD, SD_PIPELINES, _repaints, 512, 25, 7.5, "dpmpp_2m", REPAINT),
    Family("sd", "consistency", SD, SD_PIPELINES, _takes_scale, 512, 4, 8.0, "lcm", ANY, guidance=EMBEDDED),
    Family("sd", "few steps", SD, SD_PIPELINES, _few_steps, 512, 4, 1.0, "euler", ANY),
    Family("sd", "2.x, v-prediction", SD, SD_PIPELINES, _is_sd2_v, 768, 25, 7.5, "dpmpp_2m", ANY),
    Family("sd", "2.x", SD, SD_PIPELINES, _is_sd2, 512, 25, 7.5, "dpmpp_2m", ANY),
    Family("sd", "1.x", SD, SD_PIPELINES, _any, 512, 25, 7.5, "dpmpp_2m", ANY),
    Family("sdxl", "inpainting", SDXL, SDXL_PIPELINES, _repaints, 1024, 30, 5.0, "euler", REPAINT),
    Family("sdxl", "consistency", SDXL, SDXL_PIPELINES, _takes_scale, 1024, 4, 8.0, "lcm", ANY, guidance=EMBEDDED),
    Family("sdxl", "few steps", SDXL, SDXL_PIPELINES, _few_steps, 1024, 4, 1.0, "euler", ANY),
    Family("sdxl", "base", SDXL, SDXL_PIPELINES, _any, 1024, 30, 5.0, "euler", ANY),
    Family("sd3", "3.5", SD3, SD3_PIPELINES, _is_sd35, 1024, 28, 4.5, "flow_euler", ANY, 256, flow=True),
    Family("sd3", "3", SD3, SD3_PIPELINES, _any, 1024, 28, 7.0, "flow_euler", ANY, 256, flow=True),
    Family("flux", "dev", FLUX, FLUX_PIPELINES, _is_dev, 1024, 28, 3.5, "flow_euler", ANY, 512, EMBEDDED, flow=True),
    Family("flux", "schnell", FLUX, FLUX_PIPELINES, _any, 1024, 4, 0.0, "flow_euler", ANY, 256, UNGUIDED, flow=True),
)


def identify(
    model: str,
    *,
    dtype: str | None,
    samplers: tuple[str, ...],
    read_noise: ReadNoise = lambda config: None,
    usual_dtype: str = "float32",
    weights_dtype: str | None = None,
    config: str | None = None,
    sha256: str | None = None,
    offload: str = "none",
    free_bytes: int | None = None,
    cpu_bytes: int | None = None,
    beside_bytes: Mapping[str, int] | None = None,
) -> Checkpoint:
    """The checkpoint that `--model` names, offered with those of `samplers` that draw it. Raises ModelUnusable.

    `read_noise` is how those read the configuration of its scheduler; it raises ValueError for what they do not know.
    Without `dtype` it computes in what its own defaults say, or else in `usual_dtype`; `weights_dtype` is what layers
    are kept in between calls, if it is another. `config` is where a single
    file's configurations come from; `sha256` the checksum that the weights must have. They must fit the device's
    `free_bytes`; with `offload` one part of them at a time, and all of them the CPU's `cpu_bytes`. `beside_bytes` are
    those of what else is loaded with the model, by part.
    """
    pinned = None if sha256 is None else checksum.expected(sha256)
    source = open_source(model, config)
    family = family_of(source)
    source.refuse_code()
    contents.refuse_foreign_classes(source)
    refuse_unknown_noise(source, read_noise)
    facts = facts_of("builtin" if model == "builtin" else source.name, source, family, dtype or usual_dtype, samplers)
    if dtype is not None:
        facts = replace(facts, dtype=dtype)
    if weights_dtype is not None:
        facts = replace(facts, weights_dtype=weights_dtype)
    weights = contents.weights_of(source, family, facts.dtype)
    parts_bytes = needs.part_bytes(weights, facts.dtype, weights_dtype) | dict(beside_bytes or {})
    placement = choose_placement(offload, parts_bytes, facts, free_bytes, cpu_bytes)
    if pinned is not None:
        checksum.refuse_another(pinned, source.checksum())
    return Checkpoint(source, family, facts, weights_bytes=sum(parts_bytes.values()), placement=placement)


def open_source(model: str, config: str | None = None) -> Source:
    """The folder or the file that `--model` names. Raises ModelUnusable."""
    path = BUILTIN if model == "builtin" else Path(model)
    if path.is_file():
        return SingleFile(path, config)
    if config is not None:
        raise ModelUnusable("--model-config is for a model in one file; a folder describes itself")
    return DiffusersFolder(path)


def facts_of(name: str, source: Source, family: Family, dtype: str, samplers: tuple[str, ...]) -> ModelFacts:
    """What clients may know of a checkpoint: the family's defaults, changed by the maker's. Raises ModelUnusable."""
    offered = offered_samplers(source, family, samplers)
    if not offered:
        raise ModelUnusable(f"a {family.name} model needs a sampler of its own kind, and this worker has none")
    return ModelFacts(
        id=name,
        family=family.name,
        samplers=offered,
        tasks=family.tasks,
        guidance=family.guidance,
        most_steps=most_steps(offered, source.config("scheduler")),
        **({"dtype": dtype} | usual_defaults(source, family, offered) | own_defaults(source, family, offered)),
    )


def offered_samplers(source: Source, family: Family, names: tuple[str, ...]) -> tuple[str, ...]:
    """Those that draw the family's kind, and what the checkpoint predicts."""
    of_sample = source.config("scheduler").get("prediction_type") == "sample"
    return tuple(name for name in family.samplers_among(names) if not (of_sample and name in NOT_OF_SAMPLE))


def usual_defaults(source: Source, family: Family, offered: tuple[str, ...]) -> dict[str, Any]:
    """Size, its multiple, steps, guidance and sampler, where the maker says nothing. Raises ModelUnusable."""
    side, multiple = sizes(family, source)
    sampler = default_sampler(family, source)
    return {
        "width": side,
        "height": side,
        "multiple": multiple,
        "steps": family.steps,
        "guidance_scale": family.guidance_scale,
        "sampler": next((name for name in (sampler, family.sampler) if name in offered), offered[0]),
    }


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
    if channels != packed * own and found.tasks != REPAINT:
        raise ModelUnusable(f"a denoiser of {channels} input channels on a latent of {own} is not served")
    scheduler = str(it.scheduler.get("_class_name", ""))
    # EDM's networks are given log(sigma) / 4 for a timestep, and their input and output are scaled for it.
    foreign = scheduler.startswith(("FlowMatch", "EDM")) or it.scheduler.get("timestep_type") == "continuous"
    if (scheduler != FLOW_SCHEDULER) if found.flow else foreign:
        raise ModelUnusable(f"a {found.name} model with the scheduler {scheduler!r} is not served")
    if source.index.get("requires_aesthetics_score"):
        raise ModelUnusable("a refiner draws no pictures of its own and is not served")
    return found


def refuse_unknown_noise(source: Source, read_noise: ReadNoise) -> None:
    """Raises ModelUnusable where the scheduler's configuration asks for something that is not built."""
    try:
        read_noise(source.config("scheduler"))
    except (TypeError, ValueError) as unsupported:
        raise ModelUnusable(f"the model's scheduler configuration is not supported: {unsupported}") from None


def default_sampler(family: Family, source: Source) -> str:
    """The one that stands for a checkpoint's own scheduler, or else its family's."""
    config = source.config("scheduler")
    sampler = SCHEDULER_SAMPLERS.get(config.get("_class_name", ""), family.sampler)
    if sampler == "dpmpp_2m" and config.get("algorithm_type") == "sde-dpmsolver++":
        return "dpmpp_2m_sde"
    return "dpmpp_2m_karras" if sampler == "dpmpp_2m" and config.get("use_karras_sigmas") else sampler


def sizes(family: Family, source: Source) -> tuple[int, int]:
    """(side, multiple) in pixels: the model's native side, and what width and height must be multiples of."""
    denoiser, vae = source.config(family.denoiser), source.config("vae")
    try:
        factor = 2 ** (len(vae["block_out_channels"]) - 1)
        if family.name == "flux":
            return family.side_px, factor * 2  # its tokens are two by two
        places = int(denoiser["sample_size"])
        if family.name == "sd" and places < 64 and BEFORE_0_9.match(str(denoiser.get("_diffusers_version"))):
            places = 64  # as the stock pipelines have it: 1.x said 32 then, and was trained at 512 pixels
        side = places * factor
        if family.flow:
            return side, factor * int(denoiser["patch_size"])
        # Every level of the UNet but the last halves the latent.
        return side, factor * 2 ** (len(denoiser["block_out_channels"]) - 1)
    except (KeyError, TypeError, ValueError):
        raise ModelUnusable("the model's configuration lacks its sizes") from None


def own_defaults(source: Source, family: Family, offered: tuple[str, ...]) -> dict[str, Any]:
    """What the maker says, each within what a job may ask for. Raises ModelUnusable."""
    if not source.has(DEFAULTS_FILE):
        return {}
    multiple = sizes(family, source)[1]
    limits = Limits(queue_capacity=0)  # the queue has no part in this
    most_guidance = 1.0 if family.guidance is Guidance.NONE else limits.max_guidance_scale
    defaults = source.json(DEFAULTS_FILE)
    for name, value in defaults.items():
        match name:
            case "width" | "height":
                usable = type(value) is int and 0 < value <= limits.max_side_px
                usable = usable and value % multiple == 0
            case "steps":
                usable = type(value) is int and 1 <= value <= limits.max_steps
            case "guidance_scale":
                usable = type(value) in (int, float) and 0 <= value <= most_guidance
            case "sampler":
                usable = value in offered
            case "dtype":
                usable = value in DTYPES
            case _:
                usable = False
        if not usable:
            raise ModelUnusable(f"{DEFAULTS_FILE}: {name!r} is no default that can be used")
    return dict(defaults)
