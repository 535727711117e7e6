"""The bodies of `txt2img` and `img2img`, and the job that each one stands for.

Everything that makes a job valid is judged where every job is, and told under this API's names.
"""

from __future__ import annotations

import json
import math
import re
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, WithJsonSchema

from worker.api.body import field_faults, load_json, parse_job
from worker.api.masks import white_as_it_is
from worker.api.request import MAX_STEPS, Text
from worker.api.sdapi import samplers
from worker.api.sdapi.neutral import NEUTRAL, NEUTRAL_OF_PICTURES, ONLY_WITH, ONLY_WITH_A_MASK, refused
from worker.errors import FieldFault, InvalidRequest
from worker.jobs.facts import Limits, ModelFacts
from worker.jobs.params import JobParams, Task

PICTURE_FIELDS = (b'"init_images"',)
PREVIEW = {"every": 5, "size": 512, "format": "jpeg"}
"""For whoever asks `progress` for the picture so far."""
MAX_IMAGES = 8
MOST_CHARACTERS = 8000
"""Of a prompt with its tags; a job takes half as many."""
MAX_BLUR_PX = 64
SIDE = "pixels, a multiple of the model's `multiple` in `/v1/info`; of `img2img` the picture's unless given"
LAYERS = "CLIP_stop_at_last_layers"
"""A setting; 1: as the model has it."""
NAMES = {
    "guidance_scale": "cfg_scale",
    "num_images": "batch_size",
    "sampler": "sampler_name",
    "image": "init_images",
    "strength": "denoising_strength",
}
"""What a job's fields are called here, where they have another name."""


LORA_TAG = re.compile(r"<lora:([^:<>]+)(?::([^<>]*))?>")
"""How front ends of this API ask for an adapter: in the prompt, by its name and, if they like, a scale."""


def _with_scales(prompt: str) -> str:
    for _, scale in LORA_TAG.findall(prompt):
        try:
            number = float(scale or 1)
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            raise ValueError("holds a LoRA whose scale is not one number, as in <lora:name:0.8>")
    return prompt


class TextToImage(BaseModel):
    """What to draw. Fields that are left out take the loaded model's defaults.

    Further fields of this API may be sent where their value asks for nothing; any other is refused by its name.
    """

    model_config = ConfigDict(strict=True, extra="allow", frozen=True, allow_inf_nan=False)
    neutral: ClassVar[dict[str, tuple[Any, ...]]] = NEUTRAL
    only_with: ClassVar[dict[str, str]] = ONLY_WITH | {"denoising_strength": "enable_hr"}

    prompt: Annotated[Text, AfterValidator(_with_scales)] = Field(
        max_length=MOST_CHARACTERS, examples=["a red circle on a blue background"]
    )
    negative_prompt: Text | None = Field(None, max_length=MOST_CHARACTERS)
    width: int | None = Field(None, ge=1, description=SIDE)
    height: int | None = Field(None, ge=1, description=SIDE)
    steps: int | None = Field(None, ge=1, le=MAX_STEPS)
    cfg_scale: float | None = Field(None, ge=0, le=30)
    seed: int | None = Field(None, ge=-1, description="-1: random")
    batch_size: int | None = Field(None, ge=1, le=MAX_IMAGES)
    n_iter: int | None = Field(None, ge=1, le=MAX_IMAGES, description="batch_size x n_iter pictures, 8 at most")
    sampler_name: str | None = Field(None, description="a name from `samplers`")
    sampler_index: str | None = Field(None, description="an old name for sampler_name")
    scheduler: str | None = Field(None, description="a name from `schedulers`")
    eta: float | None = Field(None, description="the sampler's own at most: 0 for DDIM, else 1")
    override_settings: dict[str, Any] | None = Field(None, description="the loaded model's title at most")
    send_images: bool | None = Field(None, description="false: the answer holds no pictures")

    @property
    def images(self) -> int:
        """How many pictures are drawn."""
        return (self.batch_size or 1) * (self.n_iter or 1)

    def as_job(self) -> dict[str, Any]:
        """The body that would be posted to `/v1/jobs` for it, without a sampler."""
        return {
            "prompt": LORA_TAG.sub("", self.prompt),
            "loras": [{"name": name, "scale": float(scale or 1)} for name, scale in LORA_TAG.findall(self.prompt)],
            "negative_prompt": self.negative_prompt,
            "width": self.width,
            "height": self.height,
            "steps": self.steps,
            "guidance_scale": self.cfg_scale,
            "seed": None if self.seed == -1 else self.seed,
            "num_images": self.images,
            "preview": PREVIEW,
            "on_disconnect": "cancel",
        }


class ImageToImage(TextToImage):
    """What to draw from a picture: all of it anew, or where the mask is white."""

    neutral = NEUTRAL | NEUTRAL_OF_PICTURES
    only_with = ONLY_WITH | {"inpaint_full_res_padding": "inpaint_full_res", "image_cfg_scale": "a model for edits"}

    init_images: list[Annotated[str, WithJsonSchema({"type": "string", "minLength": 1})]] = Field(
        min_length=1, max_length=1, description="base64 of a PNG, JPEG or WebP picture"
    )
    denoising_strength: float | None = Field(None, gt=0, le=1, description="0.8 unless given")
    mask: str | None = Field(None, description="base64 of a picture, white where to draw again")
    inpainting_mask_invert: Literal[0, 1] | None = Field(None, description="1: black where to draw again")
    mask_blur: int | None = Field(None, ge=0, le=MAX_BLUR_PX, description="0 unless given")
    mask_blur_x: int | None = Field(None, ge=0, le=MAX_BLUR_PX, description="mask_blur unless given")
    mask_blur_y: int | None = Field(None, ge=0, le=MAX_BLUR_PX, description="mask_blur unless given")

    def as_job(self) -> dict[str, Any]:
        """With the picture, and without the mask, which has to be read first."""
        task = Task.IMAGE_TO_IMAGE if self.mask is None else Task.INPAINTING
        begin = {"task": task.value, "image": self.init_images[0], "strength": self.denoising_strength}
        return super().as_job() | begin

    def without_pictures(self) -> ImageToImage:
        """What is still asked of it while the job is drawn, which has its own copy of the pictures."""
        return self.model_copy(update={"init_images": [], "mask": None})

    def read_mask(self, limits: Limits) -> dict[str, str]:
        """The job's mask, if there is one. Takes milliseconds. Raises InvalidRequest."""
        if self.mask is None:
            return {}
        blur = self.mask_blur or 0
        x, y = self.mask_blur_x, self.mask_blur_y
        blur_px = (blur if x is None else x, blur if y is None else y)
        return {"mask": white_as_it_is(self.mask, limits, inverted=self.inpainting_mask_invert == 1, blur_px=blur_px)}


def read(form: type[TextToImage], body: bytes, limits: Limits) -> TextToImage:
    """The body as one of these forms. Raises BodyTooLarge, MalformedBody, InvalidRequest with every fault."""
    with_picture = issubclass(form, ImageToImage)
    value = load_json(body, limits, PICTURE_FIELDS if with_picture else ())
    fields = value if isinstance(value, dict) else {}
    only_with = form.only_with | (ONLY_WITH_A_MASK if with_picture and fields.get("mask") is None else {})
    further = {name: value for name, value in fields.items() if name not in form.model_fields}
    faults = refused(further, form.neutral, only_with)
    try:
        asked = form.model_validate_json(body)
    except ValidationError as invalid:
        raise InvalidRequest(*field_faults(invalid), *faults) from None
    if faults:
        raise InvalidRequest(*faults)
    return asked


def as_params(asked: TextToImage, pictures: dict[str, str], facts: ModelFacts, limits: Limits) -> JobParams:
    """The job's parameters; `pictures` are fields of the job that had to be read first.

    Raises InvalidRequest with this API's names, BodyTooLarge.
    """
    job, faults = asked.as_job() | pictures, []
    if asked.images > MAX_IMAGES:
        faults.append(FieldFault("batch_size", f"batch_size x n_iter must be at most {MAX_IMAGES}"))
        job["num_images"] = 1
    name = asked.sampler_name or asked.sampler_index
    found = samplers.find(name, facts.samplers) if name else facts.sampler
    if found is None:
        known = ", ".join(samplers.shown(sampler) for sampler in facts.samplers)
        faults.append(FieldFault("sampler_name", f"must be one of {known}"))
    else:
        job["sampler"] = samplers.scheduled(found, asked.scheduler or "", facts.samplers)
        if job["sampler"] is None:
            faults.append(FieldFault("scheduler", f"is not offered with {samplers.shown(found)}"))
        if asked.eta is not None and asked.eta not in (etas := samplers.etas(found)):
            told = f"must be {' or '.join(map(str, etas))} with {samplers.shown(found)}"
            faults.append(FieldFault("eta", told))
    faults += _other_settings(asked.override_settings or {}, facts)
    try:
        params = parse_job(json.dumps({k: v for k, v in job.items() if v is not None}).encode(), facts, limits)
    except InvalidRequest as invalid:
        faults += [_renamed(fault) for fault in invalid.errors]
        raise InvalidRequest(*dict.fromkeys(faults)) from None
    if faults:
        raise InvalidRequest(*faults)
    return params


def _renamed(fault: FieldFault) -> FieldFault:
    if fault.field == "task":
        return FieldFault("init_images", f"the loaded model cannot use it: its task {fault.message}")
    return FieldFault(NAMES.get(fault.field, fault.field), fault.message)


def _other_settings(settings: dict[str, Any], facts: ModelFacts) -> list[FieldFault]:
    """A worker has one model and no settings to change; asking for what it has anyway is no fault."""
    if unknown := {*settings} - {"sd_model_checkpoint"} - ({LAYERS} if settings.get(LAYERS) == 1 else set()):
        return [FieldFault("override_settings", f"holds {len(unknown)} setting(s) that this worker has not")]
    if settings.get("sd_model_checkpoint", facts.id) != facts.id:
        return [FieldFault("override_settings", "names another model than the loaded one")]
    return []
