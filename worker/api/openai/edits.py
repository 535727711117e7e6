"""The body of an edit, as JSON or as a form, and what it adds to a job: a picture, and where to draw it again."""

from __future__ import annotations

import base64
from typing import Any

from fastapi import Request
from pydantic import Field, ValidationError

from worker.api.body import beside, field_faults, load_json, media_type_of, read_body
from worker.api.document import EDIT_EXAMPLES, TRACE
from worker.api.openai.bodies import ImageRequest
from worker.api.openai.form import parse_form
from worker.api.request import Strict, schema_of
from worker.errors import FieldFault, InvalidRequest
from worker.jobs.facts import Limits
from worker.jobs.params import Task

FORM = "multipart/form-data"
PICTURE_FIELDS = (b'"image"', b'"images"', b'"mask"')
IMAGE_FIELDS = ("image", "image[]")


class ImageReference(Strict):
    """A picture in the form that this API's JSON has; no address is ever fetched."""

    image_url: str = Field(pattern="^data:", description="a data: URL")


class EditRequest(ImageRequest):
    """What to draw from a picture: all of it anew, or where the mask is transparent."""

    image: str | None = Field(None, description="base64 of a PNG, JPEG or WebP picture")
    images: list[ImageReference] | None = Field(None, max_length=1, description="another way to say `image`")
    mask: str | ImageReference | None = Field(None, description="base64 of a picture, transparent where to draw again")
    strength: float | None = Field(None, gt=0, le=1, description="how far from the picture; 0.8 unless given")
    input_fidelity: None = Field(None, description="not supported; see strength")
    markup: None = Field(None, description="not supported")

    @property
    def encoded_mask(self) -> str | None:
        """The mask as it came."""
        return self.mask.image_url if isinstance(self.mask, ImageReference) else self.mask

    def as_job(self) -> dict[str, Any]:
        """With the picture, and without the mask, which has to be read first."""
        task = Task.IMAGE_TO_IMAGE if self.mask is None else Task.INPAINTING
        image = self.images[0].image_url if self.images else self.image
        job = super().as_job() | {"task": task.value, "image": image}
        return job if self.strength is None else job | {"strength": self.strength}

    def without_pictures(self) -> EditRequest:
        """What is still asked of it while the job is drawn, which has its own copy of the pictures."""
        return self.model_copy(update={"image": None, "images": None, "mask": None})


async def read_edit(request: Request, limits: Limits) -> EditRequest:
    """The body of an edit. Raises UnsupportedMediaType, BodyTooLarge, MalformedBody, InvalidRequest."""
    if media_type_of(request) == FORM:
        body = await read_body(request, limits, FORM)
        content_type = request.headers["content-type"]
        return await beside(body, lambda: _parsed_form(body, content_type, limits))
    body = await read_body(request, limits)
    return await beside(body, lambda: _parsed_json(body, limits))


def _parsed_form(body: bytes, content_type: str, limits: Limits) -> EditRequest:
    fields = _from_form(body, content_type, limits)
    try:
        return _with_one_picture(EditRequest.model_validate_strings(fields))
    except ValidationError as invalid:
        raise InvalidRequest(*field_faults(invalid)) from None


def _parsed_json(body: bytes, limits: Limits) -> EditRequest:
    load_json(body, limits, PICTURE_FIELDS)
    try:
        return _with_one_picture(EditRequest.model_validate_json(body))
    except ValidationError as invalid:
        raise InvalidRequest(*field_faults(invalid)) from None


def _with_one_picture(asked: EditRequest) -> EditRequest:
    if bool(asked.image) == bool(asked.images):
        raise InvalidRequest(FieldFault("image", "there must be one picture, as image or as images"))
    return asked


def _from_form(body: bytes, content_type: str, limits: Limits) -> dict[str, str]:
    texts, files = parse_form(body, content_type, limits)
    images = [image for name in IMAGE_FIELDS for image in files.pop(name, [])]
    masks = files.pop("mask", [])
    faults = []
    for name, given in (("image", images), ("mask", masks)):
        if len(given) > 1:
            faults.append(FieldFault(name, f"one picture is taken, not {len(given)}"))
        if given and name in texts:
            faults.append(FieldFault(name, "is there more than once"))
        if given:
            texts[name] = base64.b64encode(given[0]).decode("ascii")
    if files:
        faults.append(FieldFault("body", "holds files other than image and mask"))
    if faults:
        raise InvalidRequest(*faults)
    return texts


def openapi_edit() -> dict[str, Any]:
    """Both kinds of body as the OpenAPI document shows them."""
    schema = schema_of(EditRequest)
    file = {"type": "string", "format": "binary"}
    fields = {name: _in_a_form(field) for name, field in schema["properties"].items() if name != "images"}
    fields = {name: field for name, field in fields.items() if field} | {"image": file, "mask": file}
    form = schema | {"properties": fields, "required": ["prompt", "image"]}
    return {
        "parameters": [TRACE],
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": schema, "examples": EDIT_EXAMPLES}, FORM: {"schema": form}},
        },
    }


def _in_a_form(field: dict[str, Any]) -> dict[str, Any]:
    """A field that is left out where JSON may say null; nothing, if null is all that it may say."""
    kinds = [kind for kind in field.get("anyOf", [field]) if kind.get("type") != "null"]
    told = {name: value for name, value in field.items() if name not in ("anyOf", "default")}
    return told | kinds[0] if kinds else {}
