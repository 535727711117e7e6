"""What the OpenAPI document shows that the framework cannot find out: examples, a job, the events of its stream.

Each schema is whole: it names every field that goes out, and no other may.
"""

from __future__ import annotations

from typing import Any

from worker.jobs.events import CancelReason
from worker.jobs.job import Status

Schema = dict[str, Any]

SAMPLE = (
    "iVBORw0KGgoAAAANSUhEUgAAAEAAAABACAIAAAAlC+aJAAAAUElEQVR42u3PQQkAAAgEsEvi2/4pjGUE38JgBZapfi0CAgICAgICAgICAgICAgIC"
    "AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICApcFDOLg8TRIeqAAAAAASUVORK5CYII="
)
"""A picture of 64 by 64 pixels, as base64 of a PNG."""
TEXT: Schema = {"type": "string"}
NUMBER: Schema = {"type": "number"}
WHOLE: Schema = {"type": "integer"}

REFERENCE = "#/components/schemas/{model}"
"""To what the document keeps by a name."""


def one_of(*values: str) -> Schema:
    """One of these texts."""
    return {"type": "string", "enum": list(values)}


def or_null(schema: Schema) -> Schema:
    """That, or null."""
    return {"anyOf": [schema, {"type": "null"}]}


def thing(described: str = "", /, **fields: Schema) -> Schema:
    """An object of these fields and no others."""
    told = {"description": described} if described else {}
    return {"type": "object", **told, "properties": fields, "required": [*fields], "additionalProperties": False}


def may_lack(schema: Schema, *names: str) -> Schema:
    """The same object, in which these fields may be missing."""
    return {**schema, "required": [name for name in schema["required"] if name not in names]}


def every(item: Schema) -> Schema:
    """A list."""
    return {"type": "array", "items": item}


TIMINGS = thing(
    "seconds by phase; null for what was not reached",
    queue_s=or_null(NUMBER),
    encode_s=or_null(NUMBER),
    denoise_s=or_null(NUMBER),
    decode_s=or_null(NUMBER),
    total_s=or_null(NUMBER),
)
IMAGE: dict[str, Schema] = {
    "index": WHOLE,
    "url": TEXT,
    "seed": WHOLE,
    "width": WHOLE,
    "height": WHOLE,
    "format": one_of("png", "webp", "jpeg"),
    "bytes": WHOLE,
}
FAILURE: dict[str, Schema] = {"code": TEXT, "message": TEXT, "retriable": {"type": "boolean"}}
STEPS: dict[str, Schema] = {"step": {**WHOLE, "description": "done, from 1"}, "steps": WHOLE}
ETA = or_null({**NUMBER, "description": "seconds until the job should be done"})

JOB = thing(
    "a job as it stands now",
    job_id=TEXT,
    sse_url={**TEXT, "description": "where its stream is"},
    status=one_of(*Status),
    position=or_null({**WHOLE, "description": "how many wait before it"}),
    eta_s=ETA,
    progress=thing(step=WHOLE, steps=WHOLE, percent=NUMBER),
    params={"type": "object", "description": "all that decides its pictures, defaults filled in"},
    images=every(thing(**IMAGE)),
    warnings=every(TEXT),
    error=or_null(thing("why it failed, or what cancelled it: `timeout` or `shutdown`", **FAILURE)),
    timings=TIMINGS,
    attempt=WHOLE,
    created_at=TEXT,
    started_at=or_null(TEXT),
    finished_at=or_null(TEXT),
    labels={"type": "object", "additionalProperties": TEXT},
)
JOBS = thing("a page of jobs", jobs=every(JOB), next=or_null({**TEXT, "description": "goes into `after` for more"}))

EVENTS: dict[str, tuple[str, Schema]] = {
    "queued": ("the job waits", {"position": WHOLE, "eta_s": ETA}),
    "started": ("it was taken up, for the `attempt`-th time", {"attempt": WHOLE}),
    "progress": ("a step is done for all of its images", {**STEPS, "percent": NUMBER, "eta_s": ETA}),
    "preview": (
        "what its first image looks like, as base64",
        {**STEPS, "image": TEXT, "format": one_of("webp", "jpeg"), "width": WHOLE, "height": WHOLE},
    ),
    "completed": (
        "the end: its pictures are there; `image` holds base64 where `output.inline` asked for it",
        {
            "images": every(may_lack(thing(**IMAGE, image=TEXT), "image")),
            "warnings": every(TEXT),
            "timings": TIMINGS,
        },
    ),
    "failed": ("the end, without pictures", FAILURE),
    "cancelled": ("the end: somebody, its time limit or the shutdown ended it", {"reason": one_of(*CancelReason)}),
}
"""By the value of `event:` what it means, and what `data:` holds beside `type` and `job_id`."""

PROBLEM = thing(
    "RFC 9457",
    type=TEXT,
    title=TEXT,
    status=WHOLE,
    detail=TEXT,
    code={**TEXT, "description": "to act on"},
    errors=every(thing(field=TEXT, message=TEXT)),
)


def event_schema(name: str) -> Schema:
    """What stands behind `data:` of an event."""
    described, fields = EVENTS[name]
    return thing(described, type={"const": name}, job_id=TEXT, **fields)


def event_schemas() -> dict[str, Schema]:
    """Every event by its name in the document, and `JobEvent`, which is any of them."""
    named = {f"{name.title()}Event": event_schema(name) for name in EVENTS}
    told = "what stands behind `data:` in a job's stream; `type` is the event's name"
    references = [{"$ref": REFERENCE.format(model=name)} for name in named]
    return named | {"JobEvent": {"description": told, "oneOf": references}}


def stream_content() -> Schema:
    """Of a response that is a job's stream."""
    told_in_turn = [
        ("queued", '"position":0,"eta_s":0.6'),
        ("started", '"attempt":1'),
        ("progress", '"step":1,"steps":8,"percent":12.5,"eta_s":0.5'),
    ]
    lines = [
        f'id: {number}\nevent: {name}\ndata: {{"type":"{name}","job_id":"job_1",{rest}}}\n\n'
        for number, (name, rest) in enumerate(told_in_turn, 1)
    ]
    told = "Server-Sent Events; what stands behind `data:` of each is JSON, a `JobEvent` of this document's schemas"
    return {"text/event-stream": {"schema": {**TEXT, "description": told}, "example": "".join(lines)}}


def json_content(schema: Schema) -> Schema:
    """Of a response in JSON."""
    return {"application/json": {"schema": schema}}


def refused(content: Schema) -> dict[int | str, dict[str, Any]]:
    """The responses of a request that is not honoured: by its own fault, or because the worker cannot now."""
    return {"4XX": {"description": "refused", "content": content}, "5XX": {"description": "failed", "content": content}}


REFUSED = refused({"application/problem+json": {"schema": PROBLEM}})
REFUSED_BY_OPENAI = refused(
    json_content(
        thing(error=thing(message=TEXT, type=TEXT, param=or_null(TEXT), code={**TEXT, "description": "to act on"}))
    )
)


def header(name: str, described: str, schema: Schema) -> Schema:
    """A parameter that comes as a header; never required."""
    return {"name": name, "in": "header", "required": False, "description": described, "schema": schema}


TRACE = header("traceparent", "the job's trace goes on from it (W3C Trace Context)", TEXT)


def query(name: str, described: str, schema: Schema) -> Schema:
    """One that comes with the address; never required."""
    return {"name": name, "in": "query", "required": False, "description": described, "schema": schema}


def examples(**bodies: Schema) -> Schema:
    """Of a body, by their names."""
    return {name: {"summary": name.replace("_", " "), "value": body} for name, body in bodies.items()}


JOB_EXAMPLES = examples(
    text_to_image={
        "prompt": "a red circle on a blue background",
        "steps": 8,
        "seed": 7,
        "preview": {"every": 4, "size": 64},
    },
    image_to_image={"task": "image-to-image", "prompt": "a green circle", "image": SAMPLE, "strength": 0.6},
    inpainting={"task": "inpainting", "prompt": "a yellow star", "image": SAMPLE, "mask": SAMPLE},
    upscale={"task": "upscale", "prompt": "a red circle", "image": SAMPLE, "upscale": {"factor": 2}},
)
GENERATION_EXAMPLES = examples(
    pictures={"prompt": "a red circle on a blue background", "n": 2, "response_format": "b64_json"},
    stream={"prompt": "a red circle on a blue background", "stream": True, "partial_images": 2},
)
EDIT_EXAMPLES = examples(
    edit={"prompt": "a green circle", "images": [{"image_url": f"data:image/png;base64,{SAMPLE}"}]}
)
TEXT_TO_IMAGE_EXAMPLES = examples(picture={"prompt": "a red circle on a blue background", "steps": 8})
IMAGE_TO_IMAGE_EXAMPLES = examples(picture={"prompt": "a green circle", "init_images": [SAMPLE], "steps": 8})
