"""The tasks that begin with a picture, from the request to the last pixel, by the real worker on the built-in model."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image, ImageDraw

from tests.real import Worker, running
from tests.serving import events_of

RED, GREEN, BLUE = (200, 40, 40), (40, 160, 60), (40, 80, 200)


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    with running("--state-dir", str(tmp_path_factory.mktemp("state"))) as started:
        yield started


def encoded(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def draw(worker: Worker, **fields: object) -> tuple[dict[str, Any], Image.Image]:
    with httpx.Client(base_url=worker.url, trust_env=False, timeout=60) as client:
        posted = client.post("/v1/jobs", json={"seed": 5, "steps": 8} | fields)
        assert posted.status_code == 202, posted.text
        with client.stream("GET", posted.json()["sse_url"]) as response:
            assert list(events_of(response))[-1].name == "completed"
        job = client.get(f"/v1/jobs/{posted.json()['job_id']}").json()
        return job, Image.open(io.BytesIO(client.get(job["images"][0]["url"]).content))


def scene(width: int = 128, height: int = 128) -> Image.Image:
    picture = Image.new("RGB", (width, height), (250, 250, 250))
    ImageDraw.Draw(picture).ellipse((width // 8, height // 4, width // 2, height * 3 // 4), fill=RED)
    return picture


def test_all_tasks_are_offered(worker: Worker) -> None:
    info = worker.client.get("/v1/info").json()
    assert {"text-to-image", "image-to-image", "inpainting", "upscale"} == set(info["tasks"])
    assert info["tasks"] == info["worker"]["tasks"]
    assert info["upscalers"] == ["latent"]


def test_image_to_image_keeps_what_strength_leaves(worker: Worker) -> None:
    source = scene()
    asked = {"task": "image-to-image", "prompt": "a green circle", "image": encoded(source)}
    weak, strong = (
        float(np.abs(np.asarray(draw(worker, **asked, strength=strength)[1], float) - np.asarray(source, float)).mean())
        for strength in (0.2, 1.0)
    )
    assert weak < strong


def test_progress_counts_the_steps_that_are_done(worker: Worker) -> None:
    job, picture = draw(
        worker, task="image-to-image", prompt="a red circle", image=encoded(scene(100, 70)), strength=0.5
    )
    assert job["progress"] == {"step": 4, "steps": 4, "percent": 100.0}
    assert picture.size == (100, 70), "the input's size, though the model draws multiples of its own"
    assert "Denoising strength: 0.5" in picture.info["parameters"]
    assert job["params"]["image"]["width"] == 100


def test_upscaling_keeps_the_picture_and_doubles_its_sides(worker: Worker) -> None:
    source = scene(101, 70)
    job, picture = draw(
        worker,
        task="upscale",
        prompt="a red circle on a white background",
        image=encoded(source),
        upscale={"factor": 2},
        steps=10,
        preview={"every": 1, "size": 64},
    )
    assert picture.size == (202, 140)
    assert job["params"]["upscale"] == {"factor": 2, "upscaler": "latent", "tiles": 2}
    assert job["progress"] == {"step": 3, "steps": 3, "percent": 100.0}
    assert "Hires upscale: 2, Hires upscaler: latent" in picture.info["parameters"]
    resized = np.asarray(source.resize(picture.size, Image.Resampling.LANCZOS), float)
    assert np.abs(np.asarray(picture, float) - resized).mean() < 20


def test_upscaling_is_cancelled_in_the_middle(worker: Worker) -> None:
    body = {"task": "upscale", "prompt": "a red circle", "image": encoded(scene()), "upscale": {"factor": 4}}
    with httpx.Client(base_url=worker.url, trust_env=False, timeout=60) as client:
        posted = client.post("/v1/jobs", json=body | {"steps": 150, "strength": 1.0}).json()
        with client.stream("GET", posted["sse_url"]) as response:
            names = []
            for event in events_of(response):
                names.append(event.name)
                if names.count("progress") == 1 and event.name == "progress":
                    client.delete(f"/v1/jobs/{posted['job_id']}")
        assert names[-1] == "cancelled"
        assert names.count("progress") < 150
    draw(worker, prompt="a red circle")  # and the worker goes on


def test_inpainting_changes_only_what_is_painted(worker: Worker) -> None:
    source = scene(131, 93)
    mask = Image.new("L", source.size)
    ImageDraw.Draw(mask).rectangle((70, 10, 125, 85), fill=255)
    job, picture = draw(
        worker,
        task="inpainting",
        prompt="a large blue square on a green background",
        image=encoded(source),
        mask=encoded(mask),
        strength=1.0,
        steps=12,
    )
    before, after, painted = np.asarray(source), np.asarray(picture), np.asarray(mask) > 0
    assert np.array_equal(before[~painted], after[~painted])
    assert np.abs(before[painted].astype(float) - after[painted]).mean() > 20
    assert job["params"]["mask"]["width"] == 131


def test_a_damaged_picture_fails_its_own_job(worker: Worker) -> None:
    whole = base64.b64decode(encoded(Image.effect_noise((128, 128), 90)))
    body = {"prompt": "x", "task": "image-to-image", "image": base64.b64encode(whole[:2000]).decode()}
    with httpx.Client(base_url=worker.url, trust_env=False, timeout=60) as client:
        posted = client.post("/v1/jobs", json=body).json()
        with client.stream("GET", posted["sse_url"]) as response:
            last = list(events_of(response))[-1]
    assert (last.name, last.data["code"], last.data["retriable"]) == ("failed", "invalid_input", False)
    assert "damaged" in last.data["message"]


def test_waiting_jobs_keep_their_pictures_through_a_kill(tmp_path: Path) -> None:
    body = {"prompt": "a red circle", "task": "image-to-image", "image": encoded(scene()), "seed": 9, "steps": 6}
    flags = ("--state-dir", str(tmp_path))
    with running(*flags) as first, httpx.Client(base_url=first.url, trust_env=False, timeout=60) as client:
        long = client.post("/v1/jobs", json=body | {"steps": 120}).json()["job_id"]
        wanted = client.post("/v1/jobs", json=body).json()["job_id"]
        first.process.kill()
        first.process.wait(30)
    with running(*flags) as second, httpx.Client(base_url=second.url, trust_env=False, timeout=60) as client:
        client.delete(f"/v1/jobs/{long}")
        with client.stream("GET", f"/v1/jobs/{wanted}/stream") as response:
            assert list(events_of(response))[-1].name == "completed"
