"""The body of `POST /v1/jobs`: read within bounds, parsed strictly, turned into `JobParams`.

Every fault of a body is reported at once. Nothing of the input is ever echoed.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import secrets
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from fastapi import Request
from pydantic import ValidationError
from pydantic_core import from_json

from worker.api.checks import size_of, unmet_limits
from worker.api.pictures import Pictures, read_pictures
from worker.api.request import DEFAULT_STRENGTH, UPSCALE_STRENGTH, JobRequest, UpscaleRequest
from worker.errors import (
    BodyTooLarge,
    BodyTooSlow,
    FieldFault,
    InvalidRequest,
    MalformedBody,
    ModelMismatch,
    UnsupportedMediaType,
)
from worker.jobs.facts import Limits, ModelFacts
from worker.jobs.params import (
    LATENT,
    ControlParams,
    ImageFormat,
    JobParams,
    LoraParams,
    OnDisconnect,
    OutputParams,
    Preprocessor,
    PreviewParams,
    Priority,
    Task,
    UpscaleParams,
)
from worker.jobs.tiling import NETWORK_SIDE, cut, drawn_size, grid

Parsed = TypeVar("Parsed")

RANDOM_SEEDS = 2**32
PICTURE_FIELDS = (b'"image"', b'"mask"', b'"controls"')
LARGE_BYTES = 65_536
"""More than that is not worked on in the event loop."""
STAND_INS = {"loras": {"name": "?"}, "controls": {"name": "?", "image": "?"}}
"""For entries of these lists that have a fault."""
MAX_NAME = 100
MAX_FIELDS = 200
MAX_QUOTES_AND_COMMAS = 20_000
"""More than the longest texts can hold. A body of a million fields, each a fault, would hold up the event loop for a
minute, and parsing alone takes seconds; counting takes milliseconds."""


def media_type_of(request: Request) -> str:
    """What the request says its body is, without parameters."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def read_body(request: Request, limits: Limits, media_type: str = "application/json") -> bytes:
    """The whole body of a request. Raises UnsupportedMediaType, BodyTooLarge, BodyTooSlow."""
    if media_type_of(request) != media_type:
        raise UnsupportedMediaType
    too_large = BodyTooLarge(f"The body may hold at most {limits.body_bytes} bytes")
    declared = request.headers.get("content-length", "0")
    if declared.isdecimal() and int(declared[:20]) > limits.body_bytes:
        raise too_large
    is_late = request.scope.get("state", {}).get("late", lambda: False)
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limits.body_bytes:
            raise too_large
        if is_late():
            raise BodyTooSlow
    return bytes(body)


async def digest_of(body: bytes) -> bytes:
    """What a body is told from others by."""
    return await beside(body, lambda: hashlib.sha256(body).digest())


async def beside(body: bytes, parse: Callable[[], Parsed]) -> Parsed:
    """What `parse` makes of a body, beside the event loop if that is large."""
    return parse() if len(body) <= LARGE_BYTES else await asyncio.to_thread(parse)


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
    if _fields_in(value) > MAX_FIELDS:
        raise too_many
    return value


def _fields_in(value: Any, deeper: int = 2) -> int:
    """Its own, and those of what lies in it, lists included, a few levels down; nothing lies deeper in a job."""
    if not isinstance(value, (dict, list)):
        return 0
    inner = value.values() if isinstance(value, dict) else value
    own = len(value) if isinstance(value, dict) else 0
    return own + (sum(_fields_in(one, deeper - 1) for one in inner) if deeper else 0)


def parse_job(body: bytes, facts: ModelFacts, limits: Limits) -> JobParams:
    """Raises BodyTooLarge, MalformedBody, InvalidRequest with every fault, ModelMismatch."""
    value = load_json(body, limits)
    fields = value if isinstance(value, dict) else {}
    faults: list[FieldFault] = []
    try:
        asked = JobRequest.model_validate_json(body)
    except ValidationError as invalid:
        faults = field_faults(invalid)
        asked = JobRequest.model_validate(_sound(fields, faults))
    else:
        if asked.model is not None and asked.model != facts.id:
            raise ModelMismatch
    known = {_place(fault) for fault in faults}
    pictures, unreadable = read_pictures(asked, limits)
    found = [*unreadable, *unmet_limits(asked, pictures, facts, limits, whatever_task="task" in known)]
    faults += [fault for fault in found if _place(fault) not in known]
    if faults:
        raise InvalidRequest(*faults)
    return _with_defaults(asked, pictures, facts, limits)


def _sound(fields: dict[str, Any], faults: Sequence[FieldFault]) -> dict[str, Any]:
    """A valid body of all that is right in one: what is wrong in one place shall not hide what is wrong in another."""
    faulty, places = {fault.field for fault in faults}, {_place(fault) for fault in faults}
    inside = {place.partition(".")[0] for place in places}
    sound = {name: fields[name] for name in JobRequest.model_fields if name in fields and name not in inside}
    for name, stand_in in STAND_INS.items():
        if name in inside - faulty:
            entries = enumerate(fields[name])
            sound[name] = [stand_in if f"{name}.{index}" in places else entry for index, entry in entries]
    if "upscale" in inside - faulty:
        known = UpscaleRequest.model_fields
        sound["upscale"] = {
            name: value
            for name, value in fields["upscale"].items()
            if name in known and f"upscale.{name}" not in faulty
        }
    return {"prompt": "?"} | sound


def _place(fault: FieldFault) -> str:
    """Of a fault, what it makes useless: a field, a field of an object, or an entry of a list."""
    return ".".join(fault.field.split(".")[:2])


def _with_defaults(asked: JobRequest, pictures: Pictures, facts: ModelFacts, limits: Limits) -> JobParams:
    preview, output, task = asked.preview, asked.output, Task(asked.task)
    width, height = size_of(asked, pictures, facts)
    usual_strength = UPSCALE_STRENGTH if task is Task.UPSCALE else DEFAULT_STRENGTH
    params = JobParams(
        task=task,
        prompt=asked.prompt,
        negative_prompt=asked.negative_prompt,
        width=width,
        height=height,
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
        image=pictures.image,
        mask=pictures.mask,
        strength=(asked.strength or usual_strength) if task.takes_image else None,
        loras=tuple(LoraParams(one.name, one.scale) for one in asked.loras),
        controls=tuple(
            ControlParams(one.name, image, one.scale, one.start, one.end, Preprocessor(one.preprocessor))
            for one, image in zip(asked.controls, pictures.controls, strict=True)
        ),
    )
    return _upscaling(params, asked.upscale or UpscaleRequest(), facts) if task is Task.UPSCALE else params


def _upscaling(params: JobParams, asked: UpscaleRequest, facts: ModelFacts) -> JobParams:
    """By the model: tiles that are drawn side by side. By a network: a tile is a step, and nothing is sampled."""
    if asked.upscaler == LATENT:
        size = drawn_size(params.width, params.height, facts.multiple)
        tiles = cut(*size, facts.width, facts.height, facts.multiple)
        return replace(params, upscale=UpscaleParams(asked.factor, asked.upscaler, len(tiles)))
    assert params.image is not None, "the task asks for one"
    steps = len(grid(params.image.width, params.image.height, NETWORK_SIDE))
    upscale = UpscaleParams(asked.factor, asked.upscaler, tiles=1)
    return replace(params, steps=steps, guidance_scale=1.0, sampler="", strength=None, upscale=upscale)


def field_faults(invalid: ValidationError) -> list[FieldFault]:
    """Every fault that pydantic found, without a word of the input."""
    found = invalid.errors(include_url=False, include_context=False, include_input=False)
    return [_as_field_fault(fault["loc"], fault["type"], fault["msg"]) for fault in found]


def _as_field_fault(location: tuple[int | str, ...], kind: str, message: str) -> FieldFault:
    """Names that the client made up may hold anything, so they are not repeated unless they look like a field's."""
    known = [str(part)[:100] for part in location]
    if kind == "extra_forbidden":
        return FieldFault(".".join([*known[:-1], shown_name(known[-1])]), "is not a known field")
    if kind == "none_required":
        message = "is not supported"
    if known[:1] == ["labels"]:
        known = known[:1]
    return FieldFault(".".join(known) or "body", message.removeprefix("Value error, "))


def shown_name(name: str) -> str:
    """A name that a client made up, if it looks like a field's."""
    return name if name.isidentifier() and name.isascii() and len(name) <= MAX_NAME else "?"


def _where_malformed(body: bytes) -> str:
    """Where the JSON breaks off, without a word of what stands there."""
    try:
        json.loads(body)
    except json.JSONDecodeError as error:
        return f"The body is not valid JSON (line {error.lineno}, column {error.colno})"
    except (ValueError, RecursionError):
        pass
    return MalformedBody.title()
