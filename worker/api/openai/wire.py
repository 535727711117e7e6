"""How pictures, events and models look in this API: one place for every name that its clients see."""

from __future__ import annotations

import json
import re
import time
from typing import Literal

from worker.api.inline import PICTURE
from worker.api.openai.bodies import ImageRequest
from worker.api.wire import Json, in_base64
from worker.jobs.events import Completed, Image, Preview
from worker.jobs.job import Job
from worker.jobs.params import JobParams

Kind = Literal["image_generation", "image_edit"]
TEXT_TOKEN = re.compile(r"\w+|[^\w\s]")
IMAGE_TOKEN_PX = 8


def pictures_json(job: Job, done: Completed, asked: ImageRequest, base_url: str) -> Json:
    """The whole answer, without its pictures; links begin with `base_url`."""
    if asked.response_format == "url":
        data = [{"url": f"{base_url}/v1/jobs/{job.id}/images/{image.index}"} for image in done.images]
    else:
        data = [{"b64_json": PICTURE}] * len(done.images)
    answer = {"created": int(job.created_at.timestamp()), "data": data} | _about(job.params)
    if asked.identifier is not None:
        answer["safety_identifier"] = asked.identifier
    return answer | {"usage": usage_json(job.params, len(done.images))}


def partial_json(kind: Kind, job: Job, preview: Preview, index: int) -> Json:
    """`….partial_image`; `index` counts from 0."""
    return {
        "type": f"{kind}.partial_image",
        "b64_json": in_base64(preview.data),
        "created_at": int(time.time()),
        "quality": "auto",
        "partial_image_index": index,
    } | _about(job.params)


def completed_json(kind: Kind, job: Job, image: Image, asked: ImageRequest) -> Json:
    """`….completed`: one for each picture."""
    event = {
        "type": f"{kind}.completed",
        "b64_json": in_base64(image.data),
        "created_at": int(time.time()),
        "quality": "auto",
        "usage": usage_json(job.params, 1),
    } | _about(job.params)
    return event | ({"safety_identifier": asked.identifier} if asked.identifier is not None else {})


def usage_json(params: JobParams, images: int) -> Json:
    """A measure of size, by which nothing is charged: words and marks of the texts, squares of 8 pixels of pictures."""
    text = len(TEXT_TOKEN.findall(params.prompt)) + len(TEXT_TOKEN.findall(params.negative_prompt or ""))
    drawn = images * (params.width // IMAGE_TOKEN_PX) * (params.height // IMAGE_TOKEN_PX)
    return {
        "input_tokens": text,
        "input_tokens_details": {"text_tokens": text, "image_tokens": 0},
        "output_tokens": drawn,
        "output_tokens_details": {"text_tokens": 0, "image_tokens": drawn},
        "total_tokens": text + drawn,
    }


def model_json(model_id: str, created: int) -> Json:
    """A model; `created` is when this worker began to offer it."""
    return {"id": model_id, "object": "model", "created": created, "owned_by": "sd-worker"}


def frame(data: Json) -> bytes:
    """One event of a stream, named by its type."""
    return f"event: {data['type']}\ndata: {json.dumps(data, separators=(',', ':'))}\n\n".encode()


def _about(params: JobParams) -> Json:
    return {
        "background": "opaque",
        "output_format": params.output.format.value,
        "size": f"{params.width}x{params.height}",
    }
