"""Stable Diffusion 3 and FLUX through the real worker: from a folder to the pictures of their stock pipelines."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.models import families
from tests.models.parity import ALONE_DB
from tests.models.tiny import by_stock, job, psnr_db, scene
from tests.real import client_of, running
from tests.serving import SseEvent, events_of
from worker.jobs.params import Task

SIDE_PX = 64
"""The least that a worker draws."""
STEPS, STRENGTH = 5, 0.5
WRITE: dict[str, Callable[[Path], Path]] = {
    "sd3": families.write_sd3,
    "flux": lambda folder: families.write_flux(folder, dev=False),
}


@pytest.fixture(scope="module", params=WRITE)
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path, str]]:
    """The family, the model's folder, and where the worker that loaded it listens."""
    folder = WRITE[request.param](tmp_path_factory.mktemp("served") / "tiny")
    with running("--model", str(folder), "--dtype", "float32") as worker:
        yield request.param, folder, worker.url


def draw(url: str, **fields: Any) -> tuple[list[SseEvent], np.ndarray[Any, Any]]:
    """What the stream said, and the picture."""
    usual = {"seed": 42, "steps": STEPS, "width": SIDE_PX, "height": SIDE_PX, "prompt": "a red circle"}
    with client_of(url) as client:
        posted = client.post("/v1/jobs", json=usual | {"preview": {"every": 1, "size": SIDE_PX}} | fields)
        assert posted.status_code == 202, posted.text
        with client.stream("GET", posted.json()["sse_url"]) as response:
            events = list(events_of(response))
        assert events[-1].name == "completed", events[-1].data
        image = client.get(events[-1].data["images"][0]["url"])
        return events, np.asarray(Image.open(io.BytesIO(image.content)))


def test_what_it_says_it_is(served: tuple[str, Path, str]) -> None:
    family, _, url = served
    with client_of(url) as client:
        info = client.get("/v1/info").json()
        answer = client.post("/v1/jobs", json={"prompt": "x", "width": 64, "height": 64, "guidance_scale": 3.5})
    guidance = {"sd3": "rows", "flux": "none"}[family]
    assert (info["model"]["family"], info["model"]["guidance"]) == (family, guidance)
    assert info["samplers"] == ["flow_euler"]
    assert answer.status_code == (422 if guidance == "none" else 202), answer.text


@pytest.mark.parametrize("task", [Task.TEXT_TO_IMAGE, Task.IMAGE_TO_IMAGE])
def test_the_stock_pipelines_picture(served: tuple[str, Path, str], task: Task) -> None:
    family, folder, url = served
    scale = {"sd3": 3.0, "flux": 0.0}[family]
    begun: dict[str, Any] = {}
    sent: dict[str, Any] = {}
    if task is Task.IMAGE_TO_IMAGE:
        begun = {"image": scene(SIDE_PX, SIDE_PX), "strength": STRENGTH}
        sent = begun | {"image": base64.b64encode(begun["image"].data).decode()}
    events, drawn = draw(url, task=task, guidance_scale=scale, **sent)
    done = 3 if begun else STEPS  # of 2.5 steps
    assert [event.data["step"] for event in events if event.name == "progress"] == [*range(1, done + 1)]
    previews = [event.data for event in events if event.name == "preview"]
    assert [one["step"] for one in previews] == [*range(1, done)]
    last = Image.open(io.BytesIO(base64.b64decode(previews[-1]["image"])))
    assert last.size == (SIDE_PX, SIDE_PX), "as large as was asked for"
    asked = job(
        task=task,
        sampler="flow_euler",
        steps=STEPS,
        width=SIDE_PX,
        height=SIDE_PX,
        guidance_scale=scale,
        prompt="a red circle",
        **begun,
    )
    expected = by_stock(families.load_stock(folder, task), asked, max_sequence_length=256)
    assert expected.std() > 20, "a grey picture would prove nothing"
    assert psnr_db(drawn, expected) >= ALONE_DB
