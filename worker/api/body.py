"""The body of `POST /v1/jobs`: read within bounds, parsed strictly, turned into `JobParams`.

Every fault of a body is reported at once. Nothing of the input is ever echoed.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable
from typing import Annotated, Any, Literal

from fastapi import Request
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import from_json

from worker.errors import BodyTooLarge, FieldFault, InvalidRequest, MalformedBody, ModelMismatch, UnsupportedMediaType
from worker.jobs.params import (
    ImageFormat,
    JobParams,
    Limits,
    ModelFacts,
    OnDisconnect,
    OutputParams,
    PreviewParams,
    Priority,
    Task,
)

MAX_SEED = 2**63 - 1
RANDOM_SEEDS = 2**32
LATER = ("image", "mask", "strength", "loras", "controls")
"""Fields of the contract that this worker's tasks have no use for yet; they are refused, not ignored."""
DEFAULT_QUALITY = 90
PICTURE_FIELDS = (b'"image"', b'"mask"', b'"controls"')
MAX_FIELDS = 200
MAX_QUOTES_AND_COMMAS = 20_000
"""More than the longest texts can hold. A body of a million fields, each a fault, would hold up the event loop for a
minute, and parsing alone takes seconds; counting takes milliseconds."""


def _without_nul(text: str) -> str:
    if "\x00" in text:
        raise ValueError("must not contain NUL")
    return text


Text = Annotated[str, AfterValidator(_without_nul)]


class Strict(BaseModel):
    """Takes nothing for what it is not, and no field that it does not know."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


class PreviewRequest(Strict):
    """Pictures of the work in progress, as `preview` events."""

    every: int = Field(5, ge=1, le=1_000_000, description="a preview after each so many steps")
    size: int = Field(256, ge=16, le=1024, description="its longest side in pixels; never larger than the picture")
    format: Literal["jpeg", "webp"] = "jpeg"


class OutputRequest(Strict):
    """How the final pictures are encoded and handed over."""

    format: Literal["png", "webp", "jpeg"] = "png"
    quality: int = Field(DEFAULT_QUALITY, ge=1, le=100, description="of WebP and JPEG")
    inline: bool = Field(False, description="put the pictures into the `completed` event too, as base64")
    metadata: bool = Field(True, description="write the generation parameters into the file")


class JobRequest(Strict):
    """What to draw. Fields that are left out take the loaded model's defaults, shown by `GET /v1/info`."""

    task: Literal["text-to-image", "image-to-image", "inpainting"] = "text-to-image"
    prompt: Text = Field(min_length=1, max_length=4000, examples=["a red circle on a blue background"])
    negative_prompt: Text | None = Field(None, max_length=4000)
    width: int | None = Field(None, ge=1, description="pixels, a multiple of the model's `multiple`")
    height: int | None = Field(None, ge=1, description="pixels, a multiple of the model's `multiple`")
    steps: int | None = Field(None, ge=1, le=150)
    guidance_scale: float | None = Field(None, ge=0, le=30, description="1 or less costs no second row")
    seed: int | None = Field(None, ge=0, le=MAX_SEED, description="random when left out; the one used is returned")
    num_images: int = Field(1, ge=1, le=8, description="image k uses seed + k")
    sampler: str | None = Field(None, max_length=100)
    preview: PreviewRequest | None = None
    output: OutputRequest = OutputRequest()
    priority: Literal["low", "normal", "high"] = "normal"
    on_disconnect: Literal["continue", "cancel"] = Field(
        "continue", description="what happens when the last reader of the stream leaves"
    )
    timeout_s: float | None = Field(None, gt=0, description="from acceptance until the job is cancelled")
    model: str | None = Field(None, max_length=500, description="answered with 409 if another model is loaded")
    labels: dict[str, Text] = Field(default_factory=dict, max_length=8, description="returned as they came")


def media_type_of(request: Request) -> str:
    """What the request says its body is, without parameters."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def read_body(request: Request, limits: Limits, media_type: str = "application/json") -> bytes:
    """The whole body of a request. Raises UnsupportedMediaType, BodyTooLarge."""
    if media_type_of(request) != media_type:
        raise UnsupportedMediaType
    too_large = BodyTooLarge(f"The body may hold at most {limits.body_bytes} bytes")
    declared = request.headers.get("content-length", "0")
    if declared.isdecimal() and int(declared[:20]) > limits.body_bytes:
        raise too_large
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limits.body_bytes:
            raise too_large
    return bytes(body)


def load_json(body: bytes, limits: Limits, picture_fields: Iterable[bytes] = PICTURE_FIELDS) -> Any:
    """What a JSON body holds, if it is of a size that can be looked at: large only where it may hold pictures.

    Raises BodyTooLarge, MalformedBody, InvalidRequest.
    """
    if len(body) > limits.text_body_bytes and not any(name in body for name in picture_fields):
        raise BodyTooLarge(f"A body without pictures may hold at most {limits.text_body_bytes} bytes")
    too_many = InvalidRequest(FieldFault("body", f"must not hold more than {MAX_FIELDS} fields"))
    if body.count(b'"') + body.count(b",") > MAX_QUOTES_AND_COMMAS:
        raise too_many
    try:
        value = from_json(body)
    except ValueError:
        raise MalformedBody(_where_malformed(body)) from None
    fields = value if isinstance(value, dict) else {}
    if len(fields) + sum(len(inner) for inner in fields.values() if isinstance(inner, dict)) > MAX_FIELDS:
        raise too_many
    return value


def parse_job(body: bytes, facts: ModelFacts, limits: Limits) -> JobParams:
    """Raises BodyTooLarge, MalformedBody, InvalidRequest with every fault, ModelMismatch."""
    value = load_json(body, limits)
    fields = value if isinstance(value, dict) else {}
    faults: list[FieldFault] = []
    try:
        asked = JobRequest.model_validate_json(body)
    except ValidationError as invalid:
        found = invalid.errors(include_url=False, include_context=False, include_input=False)
        faults = field_faults(invalid)
        # What is wrong with one field shall not hide what is wrong with another.
        faulty = {fault["loc"][0] for fault in found if fault["loc"]}
        asked = JobRequest.model_construct(**{name: field for name, field in fields.items() if name not in faulty})
    else:
        if asked.model is not None and asked.model != facts.id:
            raise ModelMismatch
    known = {fault.field for fault in faults}
    faults += [fault for fault in _unmet_limits(asked, facts, limits) if fault.field not in known]
    if faults:
        raise InvalidRequest(*faults)
    return _with_defaults(asked, facts, limits)


def _unmet_limits(asked: JobRequest, facts: ModelFacts, limits: Limits) -> list[FieldFault]:
    """What the loaded model or the worker's limits speak against."""
    faults = []
    width, height = asked.width or facts.width, asked.height or facts.height
    steps = asked.steps or facts.steps
    if Task(asked.task) not in facts.tasks:
        faults.append(FieldFault("task", f"must be one of {', '.join(facts.tasks)}"))
    for name, side in (("width", width), ("height", height)):
        if side % facts.multiple:
            faults.append(FieldFault(name, f"must be a multiple of {facts.multiple}"))
        if not limits.min_side_px <= side <= limits.max_side_px:
            faults.append(FieldFault(name, f"must be from {limits.min_side_px} to {limits.max_side_px}"))
    if max(width, height) > limits.max_side_px:
        pass  # what follows from too long a side is no fault of other fields
    elif width * height > limits.max_pixels:
        faults.append(FieldFault("width", f"width x height must be at most {limits.max_pixels}"))
    elif width * height * steps * asked.num_images > limits.max_work:
        faults.append(FieldFault("steps", f"width x height x steps x num_images must be at most {limits.max_work}"))
    if (asked.seed or 0) + asked.num_images - 1 > MAX_SEED:
        faults.append(FieldFault("seed", f"seed + num_images - 1 must be at most {MAX_SEED}"))
    if asked.sampler is not None and asked.sampler not in facts.samplers:
        faults.append(FieldFault("sampler", f"must be one of {', '.join(facts.samplers)}"))
    if asked.timeout_s is not None and asked.timeout_s > limits.timeout_s:
        faults.append(FieldFault("timeout_s", f"must be at most {limits.timeout_s:g}"))
    for name, text in asked.labels.items():
        if not name or "\x00" in name or max(len(name), len(text)) > limits.label_characters:
            faults.append(FieldFault("labels", f"names and values hold 1 to {limits.label_characters} characters"))
            break
    return faults


def _with_defaults(asked: JobRequest, facts: ModelFacts, limits: Limits) -> JobParams:
    preview, output = asked.preview, asked.output
    return JobParams(
        task=Task(asked.task),
        prompt=asked.prompt,
        negative_prompt=asked.negative_prompt,
        width=asked.width or facts.width,
        height=asked.height or facts.height,
        steps=asked.steps or facts.steps,
        guidance_scale=facts.guidance_scale if asked.guidance_scale is None else asked.guidance_scale,
        seed=secrets.randbelow(RANDOM_SEEDS) if asked.seed is None else asked.seed,
        num_images=asked.num_images,
        sampler=asked.sampler or facts.sampler,
        preview=PreviewParams(preview.every, preview.size, ImageFormat(preview.format)) if preview else None,
        output=OutputParams(ImageFormat(output.format), output.quality, output.inline, output.metadata),
        priority=Priority(asked.priority),
        on_disconnect=OnDisconnect(asked.on_disconnect),
        timeout_s=limits.timeout_s if asked.timeout_s is None else asked.timeout_s,
        labels=asked.labels,
    )


def field_faults(invalid: ValidationError) -> list[FieldFault]:
    """Every fault that pydantic found, without a word of the input."""
    found = invalid.errors(include_url=False, include_context=False, include_input=False)
    return [_as_field_fault(fault["loc"], fault["type"], fault["msg"]) for fault in found]


def _as_field_fault(location: tuple[int | str, ...], kind: str, message: str) -> FieldFault:
    """Names that the client made up may hold anything, so they are not repeated unless they look like a field's."""
    known = [str(part)[:100] for part in location]
    if kind == "extra_forbidden":
        if location[0] in LATER:
            return FieldFault(known[0], "is not supported by the loaded model's tasks")
        return FieldFault(".".join([*known[:-1], _safe(known[-1])]), "is not a known field")
    if kind == "none_required":
        message = "is not supported"
    if known[:1] == ["labels"]:
        known = known[:1]
    return FieldFault(".".join(known) or "body", message.removeprefix("Value error, "))


def _safe(name: str) -> str:
    return name if name.isidentifier() and name.isascii() else "?"


def _where_malformed(body: bytes) -> str:
    """Where the JSON breaks off, without a word of what stands there."""
    try:
        json.loads(body)
    except json.JSONDecodeError as error:
        return f"The body is not valid JSON (line {error.lineno}, column {error.colno})"
    except (ValueError, RecursionError):
        pass
    return MalformedBody.title()


def openapi_body(form: type[BaseModel] = JobRequest) -> dict[str, Any]:
    """The JSON request body as the OpenAPI document shows it."""
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema_of(form)}}}}


def schema_of(form: type[BaseModel]) -> dict[str, Any]:
    """The JSON schema of a body, in one piece."""
    schema = form.model_json_schema()
    definitions = schema.pop("$defs", {})

    def inlined(part: Any) -> Any:
        match part:
            case {"$ref": str(reference), **rest}:
                return inlined(definitions[reference.rpartition("/")[2]]) | rest
            case dict():
                return {name: inlined(value) for name, value in part.items()}
            case list():
                return [inlined(value) for value in part]
            case _:
                return part

    whole: dict[str, Any] = inlined(schema)
    return whole
