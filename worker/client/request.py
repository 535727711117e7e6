"""A job as programs write it: the contract's fields by name, pictures in any form."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict

from worker.client.pictures import Picture, encoded

TASKS = {"mask": "inpainting", "upscale": "upscale"}
"""What a field that comes with `image` says of the task."""


class PreviewFields(TypedDict, total=False):
    """A preview after each `every` steps, its longest side `size` pixels."""

    every: int
    size: int
    format: Literal["jpeg", "webp"]


class OutputFields(TypedDict, total=False):
    """How the finished pictures are encoded; `metadata` writes the generation parameters into the file."""

    format: Literal["png", "webp", "jpeg"]
    quality: int
    inline: bool
    metadata: bool


class LoraFields(TypedDict, total=False):
    """An adapter by its name in `Client.info()["loras"]`."""

    name: str
    scale: float


class ControlFields(TypedDict, total=False):
    """A ControlNet by its name in `Client.info()["controls"]`, with its picture."""

    name: str
    image: Picture
    scale: float
    start: float
    end: float
    preprocessor: str


class UpscaleFields(TypedDict, total=False):
    """How a picture is made larger: `factor` times as wide and high, by one of `Client.info()["upscalers"]`."""

    factor: Literal[2, 4]
    upscaler: str


class SingleJobFields(TypedDict, total=False):
    """What a job of one picture can say beside its prompt; what is left out is the worker's default.

    `task` follows from the pictures if it is not given: `image` alone is image-to-image, with `mask` it is inpainting,
    with `upscale` it is upscale.
    `preview=True` asks for previews as the worker makes them by default.
    """

    task: Literal["text-to-image", "image-to-image", "inpainting", "upscale"]
    negative_prompt: str | None
    width: int
    height: int
    steps: int
    guidance_scale: float
    seed: int
    sampler: str
    image: Picture
    mask: Picture
    strength: float
    upscale: UpscaleFields
    loras: Sequence[str | LoraFields]
    controls: Sequence[ControlFields]
    preview: bool | PreviewFields
    output: OutputFields
    priority: Literal["low", "normal", "high"]
    on_disconnect: Literal["continue", "cancel"]
    timeout_s: float
    model: str
    labels: Mapping[str, str]


class JobFields(SingleJobFields, total=False):
    """The same for a job of several pictures; picture k has `seed + k`."""

    num_images: int


def body(prompt: str, fields: Mapping[str, Any]) -> bytes:
    """The JSON of a job.

    Raises OSError for a file that cannot be read, ValueError for what is no picture, TypeError and ValueError for what
    is no JSON. Which values are allowed is for the worker to say, that knows its model.
    """
    job: dict[str, Any] = {"prompt": prompt} | {name: value for name, value in fields.items() if value is not None}
    if "task" not in job and "image" in job:
        job["task"] = next((task for name, task in TASKS.items() if name in job), "image-to-image")
    for name in ("image", "mask"):
        if name in job:
            job[name] = encoded(job[name])
    if "loras" in job:
        job["loras"] = [{"name": one} if isinstance(one, str) else dict(one) for one in job["loras"]]
    if "controls" in job:
        job["controls"] = [dict(one, image=encoded(one["image"])) for one in job["controls"]]
    match job.get("preview"):
        case True:
            job["preview"] = {}
        case False:
            del job["preview"]
    return json.dumps(job, allow_nan=False).encode()
