"""Upscalers of a folder through the real worker: what is offered, what is refused, and the picture that comes."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from PIL import Image

from tests.models.tiny import psnr_db
from tests.models.upscalers import files
from tests.models.upscalers.files import write
from tests.real import Worker, start, stop
from tests.serving import events_of

JOB_S = 120.0
WIDTH, HEIGHT, TILES = 300, 200, 6


def smooth() -> Any:
    """A picture without noise, as pictures are.  # [HEIGHT, WIDTH, 3]"""
    down, across = np.mgrid[0:HEIGHT, 0:WIDTH]
    waves = [np.sin(across / 7 + down / 11), np.cos(across / 13 - down / 5), np.sin(across * down / 900)]
    return np.stack([127.5 + 120 * wave for wave in waves], axis=-1).astype(np.uint8)


def encoded(pixels: Any) -> str:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


PICTURE = encoded(smooth())
BODY = {"task": "upscale", "prompt": "waves", "image": PICTURE}


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    folder = tmp_path_factory.mktemp("upscalers")
    write(folder / "dense.safetensors", files.dense(3), files.numbered)
    write(folder / "small.safetensors", files.compact(3, scale=2))
    worker = start("--upscaler-dir", str(folder))
    try:
        worker.wait_until_ready()
        yield worker
    finally:
        stop(worker)


def run(worker: Worker, body: dict[str, Any]) -> tuple[list[Any], dict[str, Any], Image.Image]:
    """The events of a job, the job, and its picture."""
    with httpx.Client(base_url=worker.url, timeout=JOB_S) as client:
        accepted = client.post("/v1/jobs", json=body)
        assert accepted.status_code == 202, accepted.text
        with client.stream("GET", accepted.json()["sse_url"]) as stream:
            events = list(events_of(stream))
        job = client.get(f"/v1/jobs/{accepted.json()['job_id']}").json()
        assert job["status"] == "completed", events[-1]
        return events, job, Image.open(io.BytesIO(client.get(job["images"][0]["url"]).content))


def by_hand(name: str) -> Any:
    """What the network makes of the picture in one piece."""
    pixels = torch.from_numpy(smooth().copy()).permute(2, 0, 1)[None].float() / 255
    if name == "dense":
        larger = files.dense_by_hand(files.dense(3), pixels)
    else:
        larger = files.compact_by_hand(files.compact(3, scale=2), pixels, 2)
    return (larger[0].clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()


def test_they_are_offered_beside_the_models_own(worker: Worker) -> None:
    info = worker.client.get("/v1/info").json()
    assert info["upscalers"] == ["latent", "dense", "small"]
    assert "upscale" in info["tasks"]


@pytest.mark.parametrize(("name", "factor"), [("dense", 4), ("small", 2)])
def test_the_picture_is_the_networks(worker: Worker, name: str, factor: int) -> None:
    upscale = {"factor": factor, "upscaler": name}
    events, job, picture = run(worker, BODY | {"upscale": upscale, "preview": {"every": 1, "size": 64}})
    told = [event.data for event in events if event.name == "progress"]
    assert [one["step"] for one in told] == list(range(1, TILES + 1))
    assert {one["steps"] for one in told} == {TILES}
    assert all(one["eta_s"] >= 0 for one in told)
    assert any(event.name == "preview" for event in events)
    assert picture.size == (WIDTH * factor, HEIGHT * factor)
    assert psnr_db(np.asarray(picture), by_hand(name)) >= (60 if name == "small" else 40), "no seam is seen"
    assert job["params"]["upscale"] == upscale | {"tiles": 1}
    assert job["params"]["sampler"] is None
    written = picture.info["parameters"]
    assert written == f"waves\nSize: {picture.width}x{picture.height}, Postprocess upscale by: {factor}, " + (
        f"Postprocess upscaler: {name}"
    )


def test_half_of_what_a_network_makes(worker: Worker) -> None:
    _, _, picture = run(worker, BODY | {"upscale": {"factor": 2, "upscaler": "dense"}})
    assert picture.size == (2 * WIDTH, 2 * HEIGHT)
    half = Image.fromarray(by_hand("dense")).resize(picture.size, Image.Resampling.LANCZOS)
    assert psnr_db(np.asarray(picture), np.asarray(half)) >= 40


@pytest.mark.parametrize(
    ("more", "field", "told"),
    [
        ({"upscale": {"upscaler": "no"}}, "upscale.upscaler", "must be one of latent, dense, small"),
        ({"upscale": {"upscaler": "small", "factor": 4}}, "upscale.factor", "is 2 at most with this upscaler"),
        *(
            ({"upscale": {"upscaler": "small"}, name: value}, name, "is for the upscaler latent alone")
            for name, value in {
                "negative_prompt": "",
                "steps": 5,
                "guidance_scale": 0.0,
                "sampler": "euler",
                "strength": 0.5,
            }.items()
        ),
        ({"upscale": {"upscaler": "small"}, "num_images": 2}, "num_images", "all would be the same"),
    ],
)
def test_what_is_refused(worker: Worker, more: dict[str, Any], field: str, told: str) -> None:
    answer = worker.client.post("/v1/jobs", json=BODY | more)
    assert answer.status_code == 422
    assert [fault["field"] for fault in answer.json()["errors"]] == [field]
    assert told in answer.json()["errors"][0]["message"]


def test_neighbours_keep_every_byte_and_a_cancel_is_heeded(worker: Worker) -> None:
    body = {"prompt": "a red circle", "seed": 3, "steps": 12}
    _, _, alone = run(worker, body)
    large = Image.fromarray(smooth()).resize((512, 512))
    asked = BODY | {"image": encoded(np.asarray(large)), "upscale": {"factor": 4, "upscaler": "dense"}}
    with httpx.Client(base_url=worker.url, timeout=JOB_S) as client:
        posted = client.post("/v1/jobs", json=asked).json()
        seen = []
        with client.stream("GET", posted["sse_url"]) as stream:
            for event in events_of(stream):
                seen.append(event.name)
                if event.name == "progress" and "deleted" not in seen:
                    client.delete(f"/v1/jobs/{posted['job_id']}").raise_for_status()
                    seen.append("deleted")
        assert seen[-1] == "cancelled"
        client.post("/v1/jobs", json=asked).raise_for_status()
    _, _, beside = run(worker, body)
    np.testing.assert_array_equal(np.asarray(beside), np.asarray(alone))
