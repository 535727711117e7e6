"""What `POST /v1/jobs` takes and refuses: strictly, with every fault at once, and never with a 500."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import httpx
import pytest
from pydantic import ValidationError

from tests.fakes import FACTS, LIMITS
from tests.serving import PROMPT, ServedWorker
from worker import errors
from worker.api.body import parse_job
from worker.api.document import SAMPLE
from worker.api.request import MAX_SEED, JobRequest
from worker.jobs.facts import Guidance
from worker.jobs.params import ImageFormat, JobParams, OutputParams, PreviewParams, Task

JSON = {"Content-Type": "application/json"}


def parse(**fields: Any) -> JobParams:
    return parse_job(json.dumps({"prompt": "x"} | fields).encode(), FACTS, LIMITS)


def faults_of(body: dict[str, Any]) -> list[str]:
    """The fields that are refused in `body`."""
    with pytest.raises(errors.InvalidRequest) as refused:
        parse_job(json.dumps(body).encode(), FACTS, LIMITS)
    return [fault.field for fault in refused.value.errors]


def post_raw(worker: ServedWorker, body: bytes) -> httpx.Response:
    return worker.client.post("/v1/jobs", content=body, headers=JSON)


# What is accepted.


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt": "x" * 4000},
        {"prompt": "😀" * 4000},
        {"prompt": " "},
        {"prompt": "\u2028\r\n\t\x01\x7f"},
        {"negative_prompt": ""},
        {"negative_prompt": "x" * 4000},
        {"negative_prompt": None},
        {"steps": 1},
        {"steps": 150},
        {"guidance_scale": 0},
        {"guidance_scale": 30},
        {"seed": 0},
        {"seed": MAX_SEED},
        {"seed": MAX_SEED - 7, "num_images": 8},
        {"width": 64, "height": 2048},
        {"timeout_s": 3600},
        {"labels": {str(number): "x" * 200 for number in range(8)}},
        {"labels": {"x" * 200: ""}},
        {"model": "fake"},
        {"preview": {"every": 1000}},
        {"prompt": '"' * 4000, "negative_prompt": "," * 4000},
    ],
    ids=lambda fields: "-".join(fields),
)
def test_what_lies_within_the_limits_is_accepted(fields: dict[str, Any]) -> None:
    parsed = parse(**fields)
    for name, value in fields.items():
        if name not in ("model", "preview"):
            assert getattr(parsed, name) == value


@pytest.mark.parametrize("field", ["loras", "controls"])
def test_a_job_has_as_many_adapters_as_info_tells(field: str) -> None:
    one = {"name": "some"} | ({"image": "some"} if field == "controls" else {})
    most = [one] * LIMITS.max_adapters
    JobRequest.model_validate({"prompt": "x", field: most})
    with pytest.raises(ValidationError, match=f"{field}\n.*at most {LIMITS.max_adapters} items"):
        JobRequest.model_validate({"prompt": "x", field: [*most, one]})


@pytest.mark.parametrize(("sampler", "most"), [("lcm", 50), ("euler", 40), (None, 40)])
def test_some_samplers_make_only_so_many_steps(sampler: str | None, most: int) -> None:
    facts = replace(FACTS, samplers=("euler", "lcm"), most_steps={"lcm": 50, "euler": 40})

    def body(steps: int) -> bytes:
        return json.dumps({"prompt": "x", "sampler": sampler, "steps": steps}).encode()

    assert parse_job(body(most), facts, LIMITS).steps == most
    with pytest.raises(errors.InvalidRequest) as refused:
        parse_job(body(most + 1), facts, LIMITS)
    (fault,) = refused.value.errors
    assert (fault.field, fault.message) == ("steps", f"must be at most {most} with the sampler {sampler or 'euler'}")


def test_seed_zero_is_a_seed() -> None:
    assert parse(seed=0).seed == 0


def test_nested_fields_have_defaults() -> None:
    parsed = parse(preview={}, output={})
    assert parsed.preview == PreviewParams(5, 256, ImageFormat.JPEG)
    assert parsed.output == OutputParams(ImageFormat.PNG, 90, inline=False, metadata=True)
    assert parse().preview is None


# What is refused. Every body below must name exactly this field.

WRONG = [
    ("prompt", ""),
    ("prompt", None),
    ("prompt", "x" * 4001),
    ("prompt", "a\x00b"),
    ("prompt", 7),
    ("prompt", ["x"]),
    ("negative_prompt", "x" * 4001),
    ("negative_prompt", "\x00"),
    ("width", 0),
    ("width", 63),
    ("width", 68),
    ("width", 2056),
    ("width", 10**4000),
    ("height", -64),
    ("height", "64"),
    ("height", 64.0),
    ("steps", 0),
    ("steps", 151),
    ("steps", True),
    ("steps", "20"),
    ("steps", 20.0),
    ("steps", [20]),
    ("guidance_scale", -0.1),
    ("guidance_scale", 30.1),
    ("guidance_scale", "7"),
    ("guidance_scale", True),
    ("seed", -1),
    ("seed", MAX_SEED + 1),
    ("seed", 10**3999),
    ("seed", 1.5),
    ("seed", True),
    ("num_images", 0),
    ("num_images", 9),
    ("num_images", True),
    ("num_images", None),
    ("sampler", "unknown"),
    ("sampler", ""),
    ("sampler", 1),
    ("task", "image-to-image"),
    ("task", "inpainting"),
    ("task", "text_to_image"),
    ("task", None),
    ("preview", True),
    ("preview", []),
    ("preview.every", 0),
    ("preview.every", 10**4000),
    ("preview.size", 0),
    ("preview.format", "png"),
    ("output", None),
    ("output.format", "gif"),
    ("output.quality", 0),
    ("output.quality", 101),
    ("output.inline", 1),
    ("output.metadata", "true"),
    ("priority", "urgent"),
    ("on_disconnect", "stop"),
    ("timeout_s", 0),
    ("timeout_s", -1),
    ("timeout_s", 3601),
    ("model", 1),
    ("labels", []),
    ("labels", {"a": 1}),
    ("labels", {"": "x"}),
    ("labels", {"a": "\x00"}),
    ("labels", {"a\x00": "x"}),
    ("labels", {"a": "x" * 201}),
    ("labels", {"x" * 201: "a"}),
    ("labels", {str(number): "" for number in range(9)}),
    ("image", "aGVsbG8="),
    ("mask", "aGVsbG8="),
    ("strength", 0.5),
    ("loras", [1] * 9),
    ("controls", {}),
    ("unknown", 1),
    ("callback_url", "http://127.0.0.1"),
]


@pytest.mark.parametrize(("field", "value"), WRONG, ids=[f"{field}-{n}" for n, (field, _) in enumerate(WRONG)])
def test_a_wrong_value_is_refused_by_its_field(field: str, value: Any) -> None:
    outer, _, inner = field.partition(".")
    body = {"prompt": "x", outer: {inner: value} if inner else value}
    assert set(faults_of(body)) == {field}


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999"])
@pytest.mark.parametrize("field", ["guidance_scale", "seed", "steps", "timeout_s"])
def test_numbers_that_are_none_are_refused_over_http(instant: ServedWorker, field: str, number: str) -> None:
    response = post_raw(instant, f'{{"prompt": "x", "{field}": {number}}}'.encode())
    assert response.status_code == 422
    assert [fault["field"] for fault in response.json()["errors"]] == [field]


def test_every_fault_is_reported_at_once() -> None:
    body = {
        "prompt": "",
        "negative_prompt": "\x00",
        "width": 65,
        "height": 63,
        "steps": "20",
        "guidance_scale": 31,
        "seed": -1,
        "num_images": 9,
        "sampler": "no",
        "task": "inpainting",
        "preview": {"every": 0, "size": 0, "more": 1},
        "output": {"format": "gif", "quality": 0},
        "priority": "?",
        "on_disconnect": "?",
        "timeout_s": 10**6,
        "labels": {"a": 1},
        "image": "",
        "unknown": 1,
    }
    nested = {"preview.every", "preview.size", "preview.more", "output.format", "output.quality"}
    assert set(faults_of(body)) == set(body) - {"preview", "output"} | nested


def test_a_fault_hides_none_inside_other_fields() -> None:
    body = {
        "prompt": "",
        "loras": [{"name": "nobody knows it"}],
        "controls": [{"name": "nor this", "image": "!"}],
        "upscale": {"upscaler": "nor that"},
    }
    assert {"prompt", "loras.0.name", "controls.0.name", "controls.0.image"} <= set(faults_of(body))
    assert any(field.startswith("upscale") for field in faults_of(body))


def test_a_fault_hides_none_beside_it_in_a_list_or_an_object() -> None:
    for name, more in (("loras", {}), ("controls", {"image": SAMPLE})):
        entries = [{"name": "x", "scale": 99}, {"name": "unknown"}, "x", {"scale": 1, "more words": 1}]
        body = {"prompt": "x", name: [entry | more if isinstance(entry, dict) else entry for entry in entries]}
        faulty = [f"{name}.0.scale", f"{name}.2", f"{name}.3.name", f"{name}.3.?", f"{name}.1.name"]
        assert faults_of(body) == faulty
    facts = replace(FACTS, tasks=tuple(Task))
    upscale = {"factor": 3, "upscaler": "unknown", "more words": 1}
    body = {"prompt": "x", "task": "upscale", "image": SAMPLE, "upscale": upscale}
    with pytest.raises(errors.InvalidRequest) as refused:
        parse_job(json.dumps(body).encode(), facts, LIMITS)
    assert [fault.field for fault in refused.value.errors] == ["upscale.factor", "upscale.?", "upscale.upscaler"]


def test_of_a_task_that_is_none_nothing_is_said_but_that() -> None:
    body = {"prompt": "x", "task": "img2img", "image": SAMPLE, "mask": SAMPLE, "strength": 0.5, "upscale": {}}
    assert faults_of(body) == ["task"]
    assert faults_of(body | {"steps": 151}) == ["task", "steps"]


def test_a_model_without_guidance_takes_none() -> None:
    facts = replace(FACTS, guidance=Guidance.NONE, guidance_scale=0.0)
    body = {"prompt": "x", "guidance_scale": 1.1}
    with pytest.raises(errors.InvalidRequest) as refused:
        parse_job(json.dumps(body).encode(), facts, LIMITS)
    [fault] = refused.value.errors
    assert (fault.field, fault.message) == (
        "guidance_scale",
        "has no effect on this model: leave it out, or give 1 or less",
    )
    for asked in ({}, {"guidance_scale": None}, {"guidance_scale": 0}, {"guidance_scale": 1.0}):
        parsed = parse_job(json.dumps({"prompt": "x"} | asked).encode(), facts, LIMITS)
        assert parsed.guidance_scale == (asked.get("guidance_scale") or 0.0)
    embedded = replace(FACTS, guidance=Guidance.EMBEDDED)
    assert parse_job(json.dumps(body).encode(), embedded, LIMITS).guidance_scale == 1.1


def test_both_faults_of_one_field_are_reported() -> None:
    assert faults_of({"prompt": "x", "width": 2049, "height": 9}) == ["width", "width", "height", "height"]


def test_seed_and_number_of_images_are_checked_together() -> None:
    assert faults_of({"prompt": "x", "seed": MAX_SEED, "num_images": 2}) == ["seed"]
    assert faults_of({"prompt": "x", "seed": MAX_SEED - 6, "num_images": 8}) == ["seed"]


def test_the_work_of_a_job_is_bounded() -> None:
    assert faults_of({"prompt": "x", "width": 2048, "height": 2048, "steps": 150, "num_images": 8}) == ["steps"]


def test_another_model_is_a_conflict(instant: ServedWorker) -> None:
    response = instant.try_post(model="another")
    assert (response.status_code, response.json()["code"]) == (409, "model_mismatch")


@pytest.mark.parametrize("body", ["[]", '"x"', "1", "null", "true", "NaN"])
def test_a_body_that_is_no_object_is_refused(instant: ServedWorker, body: str) -> None:
    assert post_raw(instant, body.encode()).status_code == 422


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b'{"prompt":',
        b"{'prompt': 'x'}",
        b'{"prompt": "x",}',
        b'{"prompt": "x"} {}',
        b'{"prompt": "a\nb"}',
        b'{"prompt": "a\x00b"}',
        b'{"prompt": "\xff"}',
        b'{"prompt": "\xed\xa0\x80"}',
        rb'{"prompt": "\ud800"}',
        rb'{"\udfff": 1, "prompt": "x"}',
        b'\xef\xbb\xbf{"prompt": "x"}',
        '{"prompt": "x"}'.encode("utf-16"),
        b"[" * 60_000,
        b'{"prompt": ' + b"[" * 30_000 + b"]" * 30_000 + b"}",
        b'{"image":' * 100_000,
        b'{"prompt": "x", "seed": ' + b"9" * 60_000 + b"}",
    ],
    ids=range(18),
)
def test_what_is_no_json_is_malformed(instant: ServedWorker, body: bytes) -> None:
    response = post_raw(instant, body)
    assert (response.status_code, response.json()["code"]) in [(400, "malformed"), (422, "invalid_request")]


def test_a_malformed_body_is_told_where_it_breaks_off(instant: ServedWorker) -> None:
    response = post_raw(instant, b'{"prompt": "a red circle",\n "steps": x}')
    assert (response.status_code, response.json()["code"]) == (400, "malformed")
    assert "line 2, column 11" in response.json()["detail"]


def test_a_seed_of_4000_digits_is_refused_over_http(instant: ServedWorker) -> None:
    assert post_raw(instant, b'{"prompt": "x", "seed": ' + b"9" * 4000 + b"}").status_code == 422


@pytest.mark.parametrize(
    "name", ["/srv/worker", "a red circle", "site-packages", "\n", "\u2028", "x" * 9000, "", "__class__"]
)
def test_names_that_a_client_made_up_are_not_repeated(instant: ServedWorker, name: str) -> None:
    for body in ({name: 1}, {"preview": {name: 1}}, {"labels": {name: 1}}, {"output": {name: {"a": 1}}}):
        response = instant.try_post(**body)
        assert response.status_code == 422
        assert len(response.content) < 1000


@pytest.mark.parametrize(
    "body",
    [
        {"image": "", **{f"field{number}": 1 for number in range(100_000)}},
        {"image": "", "prompt": "x", "labels": {f"label{number}": 1 for number in range(100_000)}},
        {"image": "", "prompt": ["x"] * 100_000},
        {"image": "", "loras": [{f"field{number}": 1 for number in range(6000)}]},
        {f"field{number}": 1 for number in range(201)},
    ],
    ids=["fields", "labels", "values", "in a list", "a few too many"],
)
def test_a_body_of_very_many_faults_gets_a_short_answer(instant: ServedWorker, body: dict[str, Any]) -> None:
    response = post_raw(instant, json.dumps(body).encode())
    assert response.status_code == 422
    assert len(response.content) < 1000


# The body as such.


def test_a_body_without_pictures_may_hold_less(instant: ServedWorker) -> None:
    room = LIMITS.text_body_bytes - len(b'{"prompt": "x"}')
    assert post_raw(instant, b'{"prompt": "x"}' + b" " * room).status_code == 202
    refused = post_raw(instant, b'{"prompt": "x"}' + b" " * (room + 1))
    assert (refused.status_code, refused.json()["code"]) == (413, "body_too_large")
    with_picture = post_raw(instant, b'{"prompt": "x", "image": ""}' + b" " * room)
    assert with_picture.status_code == 422, "it is looked at, and refused for what it asks"


def test_texts_may_be_as_long_as_they_may_be_however_they_are_written(instant: ServedWorker) -> None:
    text = "\N{GRINNING FACE}" * LIMITS.prompt_characters
    labels = {f"{number}" * 20: "\N{GRINNING FACE}" * LIMITS.label_characters for number in range(LIMITS.max_labels)}
    body = json.dumps({"prompt": text, "negative_prompt": text, "labels": labels})  # all of it escaped
    assert post_raw(instant, body.encode()).status_code == 202


def test_a_body_that_declares_too_much_is_refused(instant: ServedWorker) -> None:
    response = post_raw(instant, b'{"prompt": "' + b"x" * LIMITS.body_bytes + b'"}')
    assert (response.status_code, response.json()["code"]) == (413, "body_too_large")


def test_a_body_without_a_length_that_is_too_large_is_refused(instant: ServedWorker) -> None:
    def endless() -> Iterator[bytes]:
        for _ in range(LIMITS.body_bytes // 100_000 + 1):
            yield b"x" * 100_000

    response = instant.client.post("/v1/jobs", content=endless(), headers=JSON)
    assert (response.status_code, response.json()["code"]) == (413, "body_too_large")


def test_a_body_in_pieces_is_accepted(instant: ServedWorker) -> None:
    pieces = iter([b'{"prompt"', b': "x', b'"}'])
    assert instant.client.post("/v1/jobs", content=pieces, headers=JSON).status_code == 202


@pytest.mark.parametrize(
    "media_type", ["", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "json"]
)
def test_another_media_type_is_refused(instant: ServedWorker, media_type: str) -> None:
    response = instant.client.post("/v1/jobs", content=b'{"prompt": "x"}', headers={"Content-Type": media_type})
    assert (response.status_code, response.json()["code"]) == (415, "unsupported_media_type")


def test_no_media_type_is_refused(instant: ServedWorker) -> None:
    assert instant.client.post("/v1/jobs", content=b'{"prompt": "x"}').status_code == 415


@pytest.mark.parametrize("media_type", ["application/json; charset=utf-8", "Application/JSON"])
def test_json_by_any_spelling_is_accepted(instant: ServedWorker, media_type: str) -> None:
    body = json.dumps({"prompt": PROMPT}).encode()
    assert instant.client.post("/v1/jobs", content=body, headers={"Content-Type": media_type}).status_code == 202


def test_the_openapi_document_holds_every_field(instant: ServedWorker) -> None:
    document = instant.client.get("/openapi.json").json()
    shown = document["paths"]["/v1/jobs"]["post"]["requestBody"]
    assert shown["required"] is True
    assert set(shown["content"]["application/json"]["schema"]["properties"]) == {
        "task", "prompt", "negative_prompt", "width", "height", "steps", "guidance_scale", "seed", "num_images",
        "sampler", "preview", "output", "priority", "on_disconnect", "timeout_s", "model", "labels",
        "image", "mask", "strength", "loras", "controls", "upscale",
    }  # fmt: skip
