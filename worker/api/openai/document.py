"""What the OpenAPI document shows of this API's answers; each schema is whole."""

from __future__ import annotations

from typing import Any

from worker.api.document import TEXT, WHOLE, every, json_content, may_lack, one_of, thing

DETAILS = thing(text_tokens=WHOLE, image_tokens=WHOLE)
PICTURES = may_lack(
    thing(
        "the pictures, in the form that was asked for",
        created=WHOLE,
        data=every(may_lack(thing(b64_json={**TEXT, "description": "base64"}, url=TEXT), "b64_json", "url")),
        background=one_of("opaque"),
        output_format=one_of("png", "webp", "jpeg"),
        size={**TEXT, "description": "WIDTHxHEIGHT"},
        usage=thing(
            "a measure of size, by which nothing is charged",
            input_tokens=WHOLE,
            input_tokens_details=DETAILS,
            output_tokens=WHOLE,
            output_tokens_details=DETAILS,
            total_tokens=WHOLE,
        ),
        safety_identifier={**TEXT, "description": "where one was sent"},
    ),
    "safety_identifier",
)
MODEL = thing(id=TEXT, object=one_of("model"), created=WHOLE, owned_by=TEXT)
MODELS = thing(object=one_of("list"), data=every(MODEL))
EVENTS = {**TEXT, "description": "Server-Sent Events, where `stream` asks for them"}
ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "the pictures, or the events",
        "content": {**json_content(PICTURES), "text/event-stream": {"schema": EVENTS}},
    }
}
