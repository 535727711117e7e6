"""Pictures that are marked, signed and judged, by the real worker on the built-in model."""

from __future__ import annotations

import base64
import contextlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import c2pa
import httpx
import numpy as np
import pytest
from PIL import Image

from tests.certificates import Authority, Signer
from tests.models.safety import ALWAYS, write_safety_checker
from tests.real import Worker, running
from tests.serving import SseEvent, events_of
from worker.jobs.provenance import DigitalSource


@pytest.fixture(scope="module")
def signer(tmp_path_factory: pytest.TempPathFactory) -> Signer:
    return Authority().write_signer(tmp_path_factory.mktemp("signer"))


@pytest.fixture(scope="module")
def checker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_safety_checker(tmp_path_factory.mktemp("safety") / "checker", ALWAYS)


@pytest.fixture(scope="module")
def worker(signer: Signer, checker: Path) -> Iterator[Worker]:
    """Signs, and flags whatever it draws."""
    flags = "--c2pa-cert", str(signer.cert), "--c2pa-key", str(signer.key), "--safety-checker", str(checker)
    with running(*flags) as started:
        yield started


def post(worker: Worker, **fields: object) -> tuple[list[SseEvent], bytes]:
    """A job's events, and its first picture if it has one."""
    with httpx.Client(base_url=worker.url, trust_env=False, timeout=60) as client:
        posted = client.post("/v1/jobs", json={"prompt": "a red circle", "seed": 5, "steps": 6} | fields)
        assert posted.status_code == 202, posted.text
        with client.stream("GET", posted.json()["sse_url"]) as response:
            events = list(events_of(response))
        images = events[-1].data.get("images") or []
        return events, client.get(images[0]["url"]).content if images else b""


def manifest_of(data: bytes, format: str, signer: Signer) -> dict[str, Any]:
    trust = {"trust": {"trust_anchors": signer.root}}
    with c2pa.Context.from_dict(trust) as context:
        reader = c2pa.Reader(f"image/{format}", io.BytesIO(data), context=context)
        assert reader.get_validation_state() == "Trusted"
        manifest = reader.get_active_manifest()
    assert manifest is not None
    return manifest


def sources_of(manifest: dict[str, Any]) -> list[tuple[str, str | None]]:
    return [
        (action["action"], action.get("digitalSourceType"))
        for assertion in manifest["assertions"]
        if assertion["label"].startswith("c2pa.actions")
        for action in assertion["data"]["actions"]
    ]


@pytest.mark.parametrize("format", ["png", "jpeg", "webp"])
@pytest.mark.parametrize("metadata", [True, False])
def test_a_picture_is_marked_signed_and_judged(worker: Worker, signer: Signer, format: str, metadata: bool) -> None:
    events, data = post(worker, output={"format": format, "metadata": metadata})
    assert events[-1].name == "completed"
    assert events[-1].data["warnings"] == ["image 0: flagged by the safety checker and blurred"]
    assert sources_of(manifest_of(data, format, signer)) == [("c2pa.created", DigitalSource.GENERATED.value)]
    picture = Image.open(io.BytesIO(data))
    assert DigitalSource.GENERATED.value.encode() in picture.info["xmp"]
    assert (b"red circle" in data or b"r\0e\0d" in data) == metadata
    values = np.asarray(picture, dtype=float)
    assert np.abs(np.diff(values, axis=0)).mean() < 3, "nothing but slow transitions"


def test_inpainting_is_signed_as_composite(worker: Worker, signer: Signer) -> None:
    def encoded(picture: Image.Image) -> str:
        buffer = io.BytesIO()
        picture.save(buffer, "PNG")
        return base64.b64encode(buffer.getvalue()).decode()

    image, mask = Image.new("RGB", (128, 128), (9, 90, 200)), Image.new("L", (128, 128))
    mask.paste(255, (40, 40, 90, 90))
    events, data = post(worker, task="inpainting", image=encoded(image), mask=encoded(mask))
    assert events[-1].name == "completed"
    manifest = manifest_of(data, "png", signer)
    assert sources_of(manifest) == [("c2pa.opened", None), ("c2pa.edited", DigitalSource.COMPOSITE.value)]
    picture = Image.open(io.BytesIO(data))
    assert DigitalSource.COMPOSITE.value.encode() in picture.info["xmp"]
    assert picture.getpixel((3, 3)) == (9, 90, 200), "what was not painted is the client's own"


def test_the_same_job_gives_the_same_pixels_signed(worker: Worker) -> None:
    one, other = (post(worker)[1] for _ in range(2))
    assert one != other, "a manifest has an identifier of its own"
    assert np.array_equal(*(np.asarray(Image.open(io.BytesIO(data))) for data in (one, other)))


def test_flagged_pictures_fail_where_that_is_wanted(checker: Path) -> None:
    with contextlib.ExitStack() as stack:
        worker = stack.enter_context(running("--safety-checker", str(checker), "--on-unsafe", "fail"))
        events, data = post(worker)
        info = worker.client.get("/ready").json()
    assert (events[-1].name, data) == ("failed", b"")
    assert {name: events[-1].data[name] for name in ("code", "retriable")} == {
        "code": "unsafe_output",
        "retriable": False,
    }
    assert info == {"ready": True}
