"""ControlNets through the real worker: what it offers, what it refuses, and that a job is drawn by them."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from tests.models.controls.nets import lines, write_controlnet
from tests.models.tiny import psnr_db
from tests.real import Worker, start, stop
from tests.serving import events_of
from worker.models.registry import BUILTIN

JOB_S = 120.0
PICTURE = base64.b64encode(lines(256, 128).data).decode()


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    """On the built-in model, with a ControlNet that fits it and one that does not."""
    nets = tmp_path_factory.mktemp("nets")
    write_controlnet(nets / "edges", BUILTIN, conditioning_embedding_out_channels=(8, 8, 8, 8))
    write_controlnet(nets / "coarse", BUILTIN, conditioning_embedding_out_channels=(8, 8))
    worker = start("--control-dir", str(nets))
    try:
        worker.wait_until_ready()
        yield worker
    finally:
        stop(worker)


def draw(worker: Worker, *controls: dict[str, Any]) -> tuple[dict[str, Any], Image.Image]:
    """The job once it is completed, and its picture."""
    body = {"prompt": "a red circle", "seed": 3, "steps": 4, "controls": list(controls)}
    with httpx.Client(base_url=worker.url, timeout=JOB_S) as client:
        accepted = client.post("/v1/jobs", json=body)
        assert accepted.status_code == 202, accepted.text
        with client.stream("GET", accepted.json()["sse_url"]) as stream:
            last = list(events_of(stream))[-1]
        job = client.get(f"/v1/jobs/{accepted.json()['job_id']}").json()
        assert job["status"] == "completed", last
        image = client.get(job["images"][0]["url"])
        return job, Image.open(io.BytesIO(image.content))


def test_what_is_offered(worker: Worker) -> None:
    assert worker.client.get("/v1/info").json()["controls"] == [
        {
            "name": "coarse",
            "family": None,
            "fits": False,
            "reason": "it makes its picture 2 times smaller, and the model's VAE 8 times",
        },
        {"name": "edges", "family": None, "fits": True, "reason": None},
    ]


@pytest.mark.parametrize(("name", "told"), [("coarse", "does not fit the model: it makes its"), ("no", "is not among")])
def test_what_is_refused(worker: Worker, name: str, told: str) -> None:
    body = {"prompt": "x", "controls": [{"name": name, "image": PICTURE}]}
    answer = worker.client.post("/v1/jobs", json=body)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "controls.0.name"
    assert told in answer.json()["errors"][0]["message"]


def test_a_job_is_drawn_by_its_controls(worker: Worker) -> None:
    edges = {"name": "edges", "image": PICTURE}
    told = {"scale": 0.5, "start": 0.0, "end": 0.5, "preprocessor": "canny"}
    _, plain = draw(worker)
    _, guided = draw(worker, edges)
    job, both = draw(worker, edges, edges | told)
    pictures = [np.asarray(one) for one in (plain, guided, both)]
    for index, one in enumerate(pictures):
        assert all(psnr_db(one, other) < 40 for other in pictures[:index])
    size = {"width": 256, "height": 128, "bytes": len(base64.b64decode(PICTURE))}
    assert job["params"]["controls"][1] == {"name": "edges", "image": size} | told
    assert 'ControlNet 1: "Module: canny, Model: edges, Weight: 0.5, ' in both.info["parameters"]
    assert np.array_equal(np.asarray(draw(worker)[1]), pictures[0]), "and no job beside it"


def test_a_control_that_had_no_part_is_told_of(worker: Worker) -> None:
    job, _ = draw(worker, {"name": "edges", "image": PICTURE, "start": 0.3, "end": 0.4})
    assert job["warnings"] == ["controls: no step lies between the start and the end of edges, which had no part"]


def test_a_damaged_control_picture_fails_its_own_job(worker: Worker) -> None:
    cut = base64.b64encode(lines(256, 128).data[:90]).decode()
    body = {"prompt": "x", "steps": 2, "controls": [{"name": "edges", "image": cut}]}
    with httpx.Client(base_url=worker.url, timeout=JOB_S) as client:
        accepted = client.post("/v1/jobs", json=body).json()
        with client.stream("GET", accepted["sse_url"]) as stream:
            list(events_of(stream))
        job = client.get(f"/v1/jobs/{accepted['job_id']}").json()
    assert (job["status"], job["error"]["code"]) == ("failed", "invalid_input")
    assert job["error"]["message"] == "The control picture cannot be decoded: the file is damaged or cut off"
