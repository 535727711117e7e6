"""Adapters in a request: by the names that the worker offers, and no others."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from tests.api.test_pictures import encoded, text
from tests.fakes import FACTS, LIMITS
from worker.api.body import parse_job
from worker.api.wire import params_json
from worker.errors import InvalidRequest
from worker.jobs.facts import ControlFacts, LoraFacts
from worker.jobs.params import ControlParams, JobParams, LoraParams, Preprocessor

OFFERED = replace(
    FACTS,
    loras=(
        LoraFacts("ink", ("inked",), "sd", True, None, 10),
        LoraFacts("wide", (), "sdxl", False, "it is made for sdxl", 10),
    ),
    controls=(ControlFacts("edges", "sd", True), ControlFacts("depth", "sdxl", False, "it is made for sdxl")),
)
PICTURE = text(encoded())


def parse(**fields: object) -> JobParams:
    return parse_job(json.dumps({"prompt": "x"} | fields).encode(), OFFERED, LIMITS)


def test_what_is_offered_is_taken() -> None:
    controls = [{"name": "edges", "image": PICTURE, "scale": 0.5, "end": 0.8, "preprocessor": "canny"}]
    asked = parse(loras=[{"name": "ink"}, {"name": "ink", "scale": -0.5}], controls=controls)
    assert asked.loras == (LoraParams("ink", 1.0), LoraParams("ink", -0.5))
    (control,) = asked.controls
    assert control == ControlParams("edges", control.image, 0.5, 0.0, 0.8, Preprocessor.CANNY)
    shown = params_json(asked)
    assert shown["loras"] == [{"name": "ink", "scale": 1.0}, {"name": "ink", "scale": -0.5}]
    assert shown["controls"][0]["image"] == {"width": 64, "height": 64, "bytes": len(encoded())}


@pytest.mark.parametrize(
    ("fields", "field", "message"),
    [
        ({"loras": [{"name": "ink"}, {"name": "none"}]}, "loras.1.name", "is not among the loras of this worker"),
        ({"loras": [{"name": "wide"}]}, "loras.0.name", "does not fit the model: it is made for sdxl"),
        ({"controls": [{"name": "none", "image": PICTURE}]}, "controls.0.name", "is not among the controls"),
        ({"controls": [{"name": "depth", "image": PICTURE}]}, "controls.0.name", "does not fit the model: it is made"),
        ({"controls": [{"name": "edges", "image": "aGk="}]}, "controls.0.image", "must be a PNG, JPEG or WebP picture"),
        ({"controls": [{"name": "edges"}]}, "controls.0.image", "Field required"),
        (
            {"controls": [{"name": "edges", "image": PICTURE, "start": 0.6, "end": 0.5}]},
            "controls.0.start",
            "must not be above end",
        ),
        ({"loras": [{"name": "ink", "scale": 11}]}, "loras.0.scale", "Input should be less than or equal to 10"),
        ({"loras": [{"name": "ink", "weight": 1}]}, "loras.0.weight", "is not a known field"),
    ],
)
def test_anything_else_is_refused_by_its_field(fields: dict[str, Any], field: str, message: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        parse(**fields)
    (fault,) = refused.value.errors
    assert fault.field == field
    assert fault.message.startswith(message)
