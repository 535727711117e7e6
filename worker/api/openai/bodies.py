"""The bodies of this API's requests, and the job that each one stands for.

Checks what only this API knows; everything else is judged where every job is, and told under this API's names.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any, Literal

from pydantic import Field

from worker.api.body import parse_job
from worker.api.request import MAX_STEPS, Strict, Text
from worker.errors import FieldFault, InvalidRequest, ModelMismatch
from worker.jobs.facts import Limits, ModelFacts
from worker.jobs.params import ImageFormat, JobParams, PreviewParams

NO_SUCH_MODEL = "There is no such model here; GET /v1/models names the one that is loaded"
PARTIAL_SIDE_PX = 512
SIZE = r"^(auto|[1-9][0-9]{0,4}x[1-9][0-9]{0,4})$"
NAMES = {
    "width": "size",
    "height": "size",
    "steps": "num_inference_steps",
    "num_images": "n",
    "output.format": "output_format",
    "output.quality": "output_compression",
    "labels": "user",
}
"""What a job's fields are called here, where they have another name."""


class ImageRequest(Strict):
    """What to draw. Null is as good as leaving a field out."""

    prompt: Text = Field(examples=["a red circle on a blue background"])
    model: str | None = Field(None, description="the loaded model's id; 404 for any other")
    n: int | None = Field(None, ge=1, le=8, description="how many pictures; picture k uses seed + k")
    size: str | None = Field(None, pattern=SIZE, description='"WIDTHxHEIGHT" in pixels, or "auto"')
    quality: Literal["auto", "standard"] | None = Field(None, description="say it with num_inference_steps instead")
    background: Literal["auto", "opaque"] | None = None
    moderation: Literal["auto", "low"] | None = Field(None, description="no change: what is filtered the operator says")
    output_format: Literal["png", "jpeg", "webp"] | None = Field(None, description="png unless given")
    output_compression: int | None = Field(None, ge=0, le=100, description="quality of jpeg and webp; 90 unless given")
    response_format: Literal["b64_json", "url"] | None = Field(None, description="b64_json unless given")
    stream: bool | None = Field(None, description="answer with Server-Sent Events")
    partial_images: int | None = Field(None, ge=0, le=3, description="pictures of the work in progress, streamed")
    user: Text | None = Field(None, description="kept with the job as a label")
    safety_identifier: Text | None = Field(None, description="goes before `user`, and is returned")
    negative_prompt: Text | None = None
    num_inference_steps: int | None = Field(None, ge=1, le=MAX_STEPS)
    guidance_scale: float | None = Field(None, ge=0, le=30)
    seed: int | None = Field(None, ge=0, description="random when left out")
    sampler: str | None = Field(None, description="a name from /v1/info")
    style: None = Field(None, description="not supported")
    complexity: None = Field(None, description="not supported")
    svg: None = Field(None, description="not supported")
    frame_count: None = Field(None, description="not supported")
    frame_duration_ms: None = Field(None, description="not supported")

    @property
    def format(self) -> str:
        """How the pictures are encoded."""
        return self.output_format or ImageFormat.PNG.value

    @property
    def partials(self) -> int:
        """How many pictures of the work in progress are sent."""
        return self.partial_images or 0

    @property
    def identifier(self) -> str | None:
        """Who asked, by the client's own words."""
        return self.safety_identifier or self.user or None

    def as_job(self) -> dict[str, Any]:
        """The body that would be posted to `/v1/jobs` for it."""
        width, _, height = (self.size or "auto").partition("x")
        job: dict[str, Any] = {
            "prompt": self.prompt,
            "negative_prompt": self.negative_prompt,
            "width": int(width) if height else None,
            "height": int(height) if height else None,
            "steps": self.num_inference_steps,
            "guidance_scale": self.guidance_scale,
            "seed": self.seed,
            "num_images": self.n,
            "sampler": self.sampler,
            "on_disconnect": "cancel",
            "output": {"format": self.format},
        }
        if self.output_compression is not None:
            job["output"] = {"format": self.format, "quality": max(1, self.output_compression)}
        if self.identifier is not None:
            job["labels"] = {"user": self.identifier}
        return {name: value for name, value in job.items() if value is not None}


def as_params(asked: ImageRequest, pictures: dict[str, str], facts: ModelFacts, limits: Limits) -> JobParams:
    """The job's parameters; `pictures` are fields of the job that had to be read first.

    Raises ModelMismatch, InvalidRequest with this API's names, BodyTooLarge.
    """
    if asked.model is not None and not names_model(asked.model, facts):
        raise ModelMismatch(NO_SUCH_MODEL)
    faults = _at_odds(asked)
    try:
        params = parse_job(json.dumps(asked.as_job() | pictures).encode(), facts, limits)
    except InvalidRequest as refused:
        faults += [_renamed(fault) for fault in refused.errors]
        raise InvalidRequest(*dict.fromkeys(faults)) from None
    if faults:
        raise InvalidRequest(*faults)
    if not asked.partials:
        return params
    # Evenly spread, the last of them before the end, and in the format of the finished picture.
    every = max(1, params.steps_drawn // (asked.partials + 1))
    return replace(params, preview=PreviewParams(every, PARTIAL_SIDE_PX, params.output.format))


def names_model(name: str, facts: ModelFacts) -> bool:
    """Whether a client's word for a model means the loaded one: its id, or the last part of it."""
    return name in (facts.id, facts.id.rpartition("/")[2])


def _at_odds(asked: ImageRequest) -> list[FieldFault]:
    """Fields that cannot both be honoured."""
    faults = []
    if asked.partials and not asked.stream:
        faults.append(FieldFault("partial_images", "needs stream"))
    if asked.stream and asked.response_format == "url":
        faults.append(FieldFault("response_format", "url cannot be streamed"))
    if asked.format == "png" and asked.output_compression not in (None, 100):
        faults.append(FieldFault("output_compression", "needs output_format jpeg or webp"))
    return faults


def _renamed(fault: FieldFault) -> FieldFault:
    if fault.field == "task":
        return FieldFault("image", f"the loaded model cannot use it: its task {fault.message}")
    return FieldFault(NAMES.get(fault.field, fault.field.removeprefix("output.")), fault.message)
