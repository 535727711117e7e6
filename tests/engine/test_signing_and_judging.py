"""What the engine does with pictures that are signed, or that were flagged."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.engine.rig import Rig
from tests.fakes import PATIENCE_S, PNG, PREVIEW, SECRET, Instant, Sketch, paint
from worker import errors
from worker.engine import engine as engine_module
from worker.engine.encoding import encode_preview
from worker.engine.encoding_pool import THREADS
from worker.engine.judging import Judging, blurred
from worker.engine.runner import Pixels
from worker.jobs.events import Cancelled, CancelReason, Preview
from worker.jobs.params import ImageFormat, JobParams, PreviewParams
from worker.jobs.tiling import Tile

Start = Callable[..., Rig]


class SignsUnless:
    """Appends a seal; raises `error` for the jobs of a prompt."""

    def __init__(self, prompt: str = "", error: Exception | None = None) -> None:
        self._prompt, self._error = prompt, error

    def __call__(self, data: bytes, params: JobParams) -> bytes:
        if self._error is not None and params.prompt == self._prompt:
            raise self._error
        return data + f"sealed {params.output.format}".encode()


class Flags:
    """Flags the pictures of those seeds, whatever job they are of."""

    def __init__(self, *seeds: int) -> None:
        self.flagged = [paint(seed, 64, 64).tobytes() for seed in seeds]

    def __call__(self, pixels: Pixels) -> bool:
        return pixels.tobytes() in self.flagged


class Breaks(Flags):
    """Fails at its work."""

    def __call__(self, pixels: Pixels) -> bool:
        raise RuntimeError(SECRET)


def judging(judge: Callable[[Pixels], bool], on_unsafe: Any = "blur") -> Judging:
    loaded = Judging(lambda: judge, on_unsafe)
    loaded.load()
    return loaded


def test_every_picture_is_signed_and_no_preview(start: Start) -> None:
    rig = start(Instant(), sign=SignsUnless())
    job = rig.post(num_images=3, preview=PREVIEW, output=replace(PNG, format=ImageFormat.WEBP))
    rig.wait_ended()
    assert [image.data[-11:] for image in rig.completed(job).images] == [b"sealed webp"] * 3


@pytest.mark.parametrize(
    ("error", "code", "retriable"),
    [
        (errors.SigningFailed(), "signing_failed", True),
        (errors.InvalidInput(), "invalid_input", False),
        (RuntimeError(SECRET), "engine_failed", True),
    ],
)
def test_a_picture_that_cannot_be_signed_fails_its_job_alone(
    start: Start, error: Exception, code: str, retriable: bool
) -> None:
    rig = start(Instant(), sign=SignsUnless("unsigned", error))
    before, bad, after = rig.post(), rig.post(prompt="unsigned", num_images=2), rig.post()
    rig.wait_ended()
    failed = rig.failed(bad)
    assert (failed.code, failed.retriable) == (code, retriable)
    assert "secret" not in failed.message
    assert rig.completed(before)
    assert rig.completed(after)


def test_what_waits_to_be_encoded_of_a_job_that_has_ended_is_not(start: Start) -> None:
    signing, go_on = threading.Semaphore(0), threading.Event()
    signed: list[int] = []

    def sign(data: bytes, params: JobParams) -> bytes:
        signed.append(params.seed)
        signing.release()
        assert go_on.wait(PATIENCE_S)
        return data

    class CancelsAtTheFourth(Instant):
        def finish(self, drawing: Sketch) -> Pixels:
            if drawing.seed == 13:
                rig.engine.cancel(job, CancelReason.REQUESTED)
            return super().finish(drawing)

    rig = start(CancelsAtTheFourth(), sign=sign, start=False)
    job = rig.post(seed=10, num_images=5)
    rig.engine.start()
    rig.wait_ended(job)
    assert isinstance(rig.told.ending(job), Cancelled)
    assert all(signing.acquire(timeout=PATIENCE_S) for _ in range(THREADS))
    go_on.set()
    rig.wait_ended(rig.post(seed=20))
    assert signed == [10, 10, 20]


def test_what_waits_for_a_job_to_be_alone_begins_when_that_has_ended(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "IDLE_WAIT_S", 3600.0)
    signing, go_on = threading.Event(), threading.Event()

    def sign(data: bytes, params: JobParams) -> bytes:
        signing.set()
        assert go_on.wait(PATIENCE_S)
        return data

    rig = start(Instant(), sign=sign)
    rig.post(alone=True)
    assert signing.wait(PATIENCE_S)
    rig.post()
    go_on.set()
    rig.wait_ended()


def test_a_flagged_picture_warns_in_its_job(start: Start) -> None:
    rig = start(Instant(), judging=judging(Flags(11)))
    usual, job = rig.post(seed=20, num_images=2), rig.post(seed=10, num_images=3)
    rig.wait_ended()
    assert rig.completed(usual).warnings == ()
    assert rig.completed(job).warnings == ("image 1: flagged by the safety checker and blurred",)


def test_a_flagged_picture_fails_its_job_alone_where_that_is_wanted(start: Start) -> None:
    rig = start(Instant(), judging=judging(Flags(11), "fail"))
    usual, bad = rig.post(seed=20), rig.post(seed=10, num_images=3)
    rig.wait_ended()
    assert rig.completed(usual)
    failed = rig.failed(bad)
    assert (failed.code, failed.retriable) == ("unsafe_output", False)
    assert failed.message == "Image 1 was flagged by the safety checker"


def test_a_flagged_preview_is_blurred_and_the_job_goes_on(start: Start) -> None:
    def previews(**settings: Any) -> list[bytes]:
        rig = start(Instant(), **settings)
        job = rig.post(seed=10, preview=replace(PREVIEW, format=ImageFormat.WEBP, size=64), width=512, height=512)
        rig.wait_ended()
        assert rig.completed(job).warnings == ()
        return [event.data for event in rig.told.only(job, Preview)]

    flags = Flags()
    flags.flagged.append(paint(10, 64, 64).tobytes())  # what the runner shows of a picture of 512 pixels
    plain, shown = previews(), previews(judging=judging(flags, "fail"))
    params = PreviewParams(1, 64, ImageFormat.WEBP)
    bare, left = (encode_preview(one, 512, 512, params)[0] for one in (paint(10, 64, 64), blurred(paint(10, 64, 64))))
    assert bare != left
    assert (plain, shown) == ([bare] * 3, [left] * 3)


def test_a_picture_in_tiles_is_judged_whole() -> None:
    left, right = paint(1, 64, 64), paint(2, 64, 64)
    pieces = [(Tile(0, 0, 64, 64), left), (Tile(64, 0, 64, 64), right)]
    whole = np.concatenate([left, right], axis=1)
    seen: list[Pixels] = []
    told: list[str] = []

    def flags(pixels: Pixels) -> bool:
        seen.append(pixels)
        return True

    [(tile, left_over)] = judging(flags).picture(pieces, 3, told.append)
    assert tile is None
    assert np.array_equal(seen, [whole])
    assert np.array_equal(left_over, blurred(whole))
    assert told == ["image 3: flagged by the safety checker and blurred"]


def test_no_picture_is_told_that_could_not_be_judged(start: Start) -> None:
    rig = start(Instant(), judging=judging(Breaks()))
    job = rig.post()
    rig.wait_ended()
    assert rig.failed(job).code == "engine_failed"
    assert "secret" not in rig.failed(job).message


@pytest.mark.parametrize(("width", "height"), [(64, 64), (512, 96), (7, 300), (1, 1)])
def test_what_is_blurred_keeps_its_size_and_none_of_its_details(width: int, height: int) -> None:
    lines = np.zeros((height, width, 3), dtype=np.uint8)
    lines[::2] = 255
    left = blurred(lines)
    assert left.shape == lines.shape
    assert left.dtype == np.uint8
    if height > 8:
        assert np.ptp(left) < 64
