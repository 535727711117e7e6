"""Finished pictures by URL."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from io import BytesIO

import numpy as np
import pytest
from PIL import ExifTags, Image

from tests.fakes import StepByStep, paint
from tests.serving import ServedWorker

Serve = Callable[..., ServedWorker]


@pytest.fixture(scope="module")
def job(instant: ServedWorker) -> dict[str, object]:
    return instant.finish(seed=40, num_images=2, width=72)


@pytest.fixture(scope="module")
def url(job: dict[str, object]) -> str:
    return f"/v1/jobs/{job['job_id']}/images/0"


def test_the_bytes_are_those_that_were_announced(instant: ServedWorker, job: dict[str, object]) -> None:
    for index, image in enumerate(job["images"]):
        response = instant.client.get(image["url"])
        assert response.status_code == 200
        assert response.headers["content-type"] == "image/png"
        assert len(response.content) == image["bytes"] == int(response.headers["content-length"])
        pixels = np.asarray(Image.open(BytesIO(response.content)))
        assert np.array_equal(pixels, paint(40 + index, 72, 64))


@pytest.mark.parametrize("form", ["png", "webp", "jpeg"])
def test_formats_and_their_content_types(instant: ServedWorker, form: str) -> None:
    image = instant.finish(output={"format": form})["images"][0]
    assert image["format"] == form
    response = instant.client.get(image["url"])
    assert response.headers["content-type"] == f"image/{form}"
    picture = Image.open(BytesIO(response.content))
    assert (picture.format, picture.size) == (form.upper(), (64, 64))


def test_quality_counts(instant: ServedWorker) -> None:
    sizes = [
        instant.finish(width=512, height=512, output={"format": "jpeg", "quality": quality})["images"][0]["bytes"]
        for quality in (10, 95)
    ]
    assert sizes[0] < sizes[1]


def test_metadata_holds_the_parameters_where_other_tools_look(instant: ServedWorker) -> None:
    fields = {"prompt": "a réd circle ⭕", "negative_prompt": "blurry", "seed": 5, "num_images": 2}
    for image in instant.finish(**fields)["images"]:
        picture = Image.open(BytesIO(instant.client.get(image["url"]).content))
        assert picture.text["parameters"] == (
            "a réd circle ⭕\nNegative prompt: blurry\n"
            f"Steps: 4, Sampler: euler, CFG scale: 5, Seed: {image['seed']}, Size: 64x64, Model: fake"
        )
    for form in ("webp", "jpeg"):
        url = instant.finish(**fields, output={"format": form})["images"][0]["url"]
        exif = Image.open(BytesIO(instant.client.get(url).content)).getexif().get_ifd(ExifTags.IFD.Exif)
        comment = exif[ExifTags.Base.UserComment]
        assert comment[8:].decode("utf-16-be").startswith("a réd circle ⭕\n")


@pytest.mark.parametrize("form", ["png", "webp", "jpeg"])
def test_without_metadata_nothing_of_the_prompt_is_in_the_file(instant: ServedWorker, form: str) -> None:
    image = instant.finish(prompt="xyzzy", output={"metadata": False, "format": form})["images"][0]
    content = instant.client.get(image["url"]).content
    assert b"xyzzy" not in content
    assert "xyzzy".encode("utf-16-be") not in content


def test_what_caches_need(instant: ServedWorker, url: str) -> None:
    first = instant.client.get(url)
    assert first.headers["accept-ranges"] == "bytes"
    assert "immutable" in first.headers["cache-control"]
    etag = first.headers["etag"]
    assert etag.startswith('"')
    assert etag.endswith('"')
    assert hashlib.sha256(first.content).hexdigest().startswith(etag.strip('"'))
    for value in (etag, f'"other", {etag}', f"W/{etag}", "*"):
        response = instant.client.get(url, headers={"If-None-Match": value})
        assert (response.status_code, response.content) == (304, b"")
        assert response.headers["etag"] == etag
        assert response.headers["cache-control"] == first.headers["cache-control"]
    assert instant.client.get(url, headers={"If-None-Match": '"other"'}).status_code == 200


def test_an_entity_tag_is_read_as_one(instant: ServedWorker, url: str) -> None:
    etag = instant.client.get(url).headers["etag"]
    for value in ('"a*b"', f'"x{etag[1:]}', f'"a, {etag[1:]}', etag.strip('"'), '"*"', ""):
        assert instant.client.get(url, headers={"If-None-Match": value}).status_code == 200, value
    several = [("If-None-Match", '"other"'), ("If-None-Match", etag)]
    assert instant.client.get(url, headers=several).status_code == 304


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_what_is_asked_for_only_if_it_matches(instant: ServedWorker, url: str, method: str) -> None:
    etag = instant.client.get(url).headers["etag"]
    for value in (etag, f'"other", {etag}', "*"):
        assert instant.client.request(method, url, headers={"If-Match": value}).status_code == 200, value
    for value in ('"other"', f"W/{etag}", '"a*b"', etag.strip('"'), ""):
        for more in ({}, {"Range": "bytes=0-1"}, {"If-None-Match": etag}):
            refused = instant.client.request(method, url, headers={"If-Match": value} | more)
            assert refused.status_code == 412, value
            if method == "GET":
                assert refused.json()["code"] == "precondition_failed"
    part = instant.client.get(url, headers={"If-Match": etag, "Range": "bytes=0-1"})
    assert (part.status_code, len(part.content)) == (206, 2)
    assert instant.client.get(url, headers={"If-Match": etag, "If-None-Match": etag}).status_code == 304


def test_different_pictures_have_different_etags(instant: ServedWorker, job: dict[str, object]) -> None:
    assert len({instant.client.get(image["url"]).headers["etag"] for image in job["images"]}) == 2


@pytest.mark.parametrize(
    ("asked", "start", "end"),
    [("0-0", 0, 1), ("0-9", 0, 10), ("10-", 10, None), ("-5", -5, None), ("5-999999", 5, None), ("-999999", 0, None)],
)
def test_a_range_gives_a_part(instant: ServedWorker, url: str, asked: str, start: int, end: int | None) -> None:
    whole = instant.client.get(url).content
    response = instant.client.get(url, headers={"Range": f"bytes={asked}"})
    assert (response.status_code, response.content) == (206, whole[start:end])
    first = start % len(whole)
    last = first + len(response.content) - 1
    assert response.headers["content-range"] == f"bytes {first}-{last}/{len(whole)}"
    assert response.headers["content-length"] == str(len(response.content))
    assert response.headers["content-type"] == "image/png"


@pytest.mark.parametrize("asked", ["999999-", "999999-9999999", "-0"])
def test_a_range_outside_is_refused(instant: ServedWorker, url: str, asked: str) -> None:
    size = len(instant.client.get(url).content)
    response = instant.client.get(url, headers={"Range": f"bytes={asked}"})
    assert (response.status_code, response.json()["code"]) == (416, "range_not_satisfiable")
    assert response.headers["content-range"] == f"bytes */{size}"


@pytest.mark.parametrize(
    "asked", ["bytes=0-1,5-6", "bytes=9-5", "bytes=-", "bytes=x-y", "items=0-1", "bytes=٠-١", "0-1"]
)
def test_a_range_that_cannot_be_served_is_ignored(instant: ServedWorker, url: str, asked: str) -> None:
    response = instant.client.get(url, headers={"Range": asked.encode()})
    assert (response.status_code, response.content) == (200, instant.client.get(url).content)


def test_a_range_of_another_version_is_ignored(instant: ServedWorker, url: str) -> None:
    whole = instant.client.get(url)
    same = instant.client.get(url, headers={"Range": "bytes=0-1", "If-Range": whole.headers["etag"]})
    other = instant.client.get(url, headers={"Range": "bytes=0-1", "If-Range": '"other"'})
    assert (same.status_code, other.status_code) == (206, 200)


def test_parts_make_the_whole(instant: ServedWorker, url: str) -> None:
    whole = instant.client.get(url).content
    parts = [
        instant.client.get(url, headers={"Range": f"bytes={start}-{start + 99}"}).content
        for start in range(0, len(whole), 100)
    ]
    assert b"".join(parts) == whole


def test_head_answers_as_get_without_the_bytes(instant: ServedWorker, url: str) -> None:
    whole, head = instant.client.get(url), instant.client.head(url)
    assert (head.status_code, head.content) == (200, b"")
    for name in ("content-length", "content-type", "etag", "cache-control", "accept-ranges"):
        assert head.headers[name] == whole.headers[name]
    assert instant.client.head(url, headers={"If-None-Match": whole.headers["etag"]}).status_code == 304
    ranged = instant.client.head(url, headers={"Range": "bytes=0-1"})
    assert (ranged.status_code, ranged.headers["content-length"]) == (200, whole.headers["content-length"])


@pytest.mark.parametrize("index", ["2", "-1", "00", "x", "0x0", "9" * 100, "%00", "٠"])
def test_an_image_that_is_not_there_is_not_found(instant: ServedWorker, job: dict[str, object], index: str) -> None:
    response = instant.client.get(f"/v1/jobs/{job['job_id']}/images/{index}")
    assert (response.status_code, response.json()["code"]) == (404, "image_not_found")


def test_an_image_that_is_not_there_yet_is_not_found(serve: Serve) -> None:
    worker = serve(StepByStep())
    job_id = worker.post()["job_id"]
    assert worker.client.get(f"/v1/jobs/{job_id}/images/0").status_code == 404
    worker.runner.allow_all()
    worker.stream(job_id)
    assert worker.client.get(f"/v1/jobs/{job_id}/images/0").status_code == 200


def test_a_file_name_is_offered(instant: ServedWorker, job: dict[str, object], url: str) -> None:
    disposition = instant.client.get(url).headers["content-disposition"]
    assert disposition == f'inline; filename="{job["job_id"]}-0.png"'
    assert json.dumps(disposition).isascii()
