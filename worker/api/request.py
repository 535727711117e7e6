"""The body of `POST /v1/jobs` as clients write it: fields, types and ranges that hold for any model."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from worker.api.document import REFERENCE, TRACE

MAX_SEED = 2**63 - 1
MAX_STEPS = 150
DEFAULT_QUALITY = 90
DEFAULT_STRENGTH = 0.8
UPSCALE_STRENGTH = 0.35
MAX_ADAPTERS = 8
"""Of each kind, in one job."""


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

    every: int = Field(
        5,
        ge=1,
        le=1_000_000,
        description="a preview after each so many steps; some are left out where many wait to be encoded",
    )
    size: int = Field(256, ge=16, le=1024, description="its longest side in pixels; never larger than the picture")
    format: Literal["jpeg", "webp"] = "jpeg"


class OutputRequest(Strict):
    """How the final pictures are encoded and handed over."""

    format: Literal["png", "webp", "jpeg"] = "png"
    quality: int = Field(DEFAULT_QUALITY, ge=1, le=100, description="of WebP and JPEG")
    inline: bool = Field(False, description="put the pictures into the `completed` event too, as base64")
    metadata: bool = Field(True, description="write the generation parameters into the file")


class LoraRequest(Strict):
    """An adapter by its name in `/v1/info`."""

    name: Text = Field(min_length=1, max_length=200)
    scale: float = Field(1.0, ge=-10, le=10, description="how often its weights count")


class ControlRequest(Strict):
    """A ControlNet by its name in `/v1/info`, with its control picture."""

    name: Text = Field(min_length=1, max_length=200)
    image: str = Field(min_length=1, description="the control picture: base64 of a PNG, JPEG or WebP")
    scale: float = Field(1.0, ge=0, le=10, description="how much it counts")
    start: float = Field(0.0, ge=0, le=1, description="share of the steps after which it begins to count")
    end: float = Field(1.0, ge=0, le=1, description="share of the steps after which it does not count any more")
    preprocessor: Literal["none", "canny"] = Field(
        "none", description="what makes the control picture from `image`; none: it is one already"
    )


class UpscaleRequest(Strict):
    """How a picture is made larger."""

    factor: Literal[2, 4] = Field(2, description="how often as wide and as high it becomes")
    upscaler: Text = Field("latent", min_length=1, max_length=200, description="a name from `upscalers` in `/v1/info`")


class JobRequest(Strict):
    """What to draw. Fields that are left out take the loaded model's defaults, shown by `GET /v1/info`."""

    task: Literal["text-to-image", "image-to-image", "inpainting", "upscale"] = "text-to-image"
    prompt: Text = Field(min_length=1, max_length=4000, examples=["a red circle on a blue background"])
    negative_prompt: Text | None = Field(None, max_length=4000)
    width: int | None = Field(
        None, ge=1, description="pixels, a multiple of the model's `multiple`; the size of `image` if that is given"
    )
    height: int | None = Field(
        None, ge=1, description="pixels, a multiple of the model's `multiple`; the size of `image` if that is given"
    )
    steps: int | None = Field(None, ge=1, le=MAX_STEPS)
    guidance_scale: float | None = Field(
        None, ge=0, le=30, description="1 or less costs no second row; more is refused by models without guidance"
    )
    seed: int | None = Field(None, ge=0, le=MAX_SEED, description="random when left out; the one used is returned")
    num_images: int = Field(1, ge=1, le=8, description="image k uses seed + k")
    sampler: str | None = Field(None, max_length=100)
    image: str | None = Field(
        None, min_length=1, description="what to begin with: base64 of a PNG, JPEG or WebP, for tasks but text-to-image"
    )
    mask: str | None = Field(
        None, min_length=1, description="for inpainting: base64 of a PNG, JPEG or WebP; what is white is painted anew"
    )
    strength: float | None = Field(
        None,
        gt=0,
        le=1,
        description=f"how much of `image` is given up; if left out {DEFAULT_STRENGTH}, for upscale {UPSCALE_STRENGTH}. "
        "Of `steps` so many are done, rounded down and with `flow_` samplers up, and always one",
    )
    upscale: UpscaleRequest | None = Field(None, description="for upscale: by what, and to how many times its size")
    loras: list[LoraRequest] = Field(default_factory=list, max_length=MAX_ADAPTERS)
    controls: list[ControlRequest] = Field(default_factory=list, max_length=MAX_ADAPTERS)
    preview: PreviewRequest | None = None
    output: OutputRequest = OutputRequest()
    priority: Literal["low", "normal", "high"] = "normal"
    on_disconnect: Literal["continue", "cancel"] = Field(
        "continue", description="what happens when the last reader of the stream leaves"
    )
    timeout_s: float | None = Field(None, gt=0, description="from acceptance until the job is cancelled")
    model: str | None = Field(None, max_length=500, description="answered with 409 if another model is loaded")
    labels: dict[str, Text] = Field(default_factory=dict, max_length=8, description="returned as they came")


def openapi_body(form: type[BaseModel], examples: dict[str, Any]) -> dict[str, Any]:
    """The JSON request body of a post that brings a job, as the OpenAPI document shows it."""
    content = {"application/json": {"schema": schema_of(form), "examples": examples}}
    return {"parameters": [TRACE], "requestBody": {"required": True, "content": content}}


def schema_of(form: type[BaseModel]) -> dict[str, Any]:
    """The JSON schema of a body, which refers to its `parts_of`."""
    schema = form.model_json_schema(ref_template=REFERENCE)
    schema.pop("$defs", None)
    return schema


def parts_of(*forms: type[BaseModel]) -> dict[str, Any]:
    """The JSON schemas of the objects that lie in bodies, by the names that they have in the OpenAPI document."""
    whole = [form.model_json_schema(ref_template=REFERENCE) for form in forms]
    return {name: part for schema in whole for name, part in schema["$defs"].items()}
