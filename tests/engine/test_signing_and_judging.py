"""What the engine does with pictures that are signed, or that were flagged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.engine.rig import Rig
from tests.fakes import PNG, PREVIEW, SECRET, Instant, paint
from worker import errors
from worker.engine.judged import Judged, blurred
from worker.engine.runner import Pixels
from worker.jobs.params import ImageFormat, JobParams

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
        self._flagged = [paint(seed, 64, 64).tobytes() for seed in seeds]

    def __call__(self, pixels: Pixels) -> bool:
        return pixels.tobytes() in self._flagged


class Breaks(Flags):
    """Fails at its work."""

    def __call__(self, pixels: Pixels) -> bool:
        raise RuntimeError(SECRET)


def judged(judge: Callable[[Pixels], bool], on_unsafe: Any = "blur") -> Judged[Any]:
    return Judged(Instant(), lambda: judge, on_unsafe)


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


def test_a_flagged_picture_warns_in_its_job(start: Start) -> None:
    rig = start(judged(Flags(11)))
    usual, job = rig.post(seed=20, num_images=2), rig.post(seed=10, num_images=3)
    rig.wait_ended()
    assert rig.completed(usual).warnings == ()
    assert rig.completed(job).warnings == ("image 1: flagged by the safety checker and blurred",)


def test_a_flagged_picture_fails_its_job_alone_where_that_is_wanted(start: Start) -> None:
    rig = start(judged(Flags(11), "fail"))
    usual, bad = rig.post(seed=20), rig.post(seed=10, num_images=3)
    rig.wait_ended()
    assert rig.completed(usual)
    failed = rig.failed(bad)
    assert (failed.code, failed.retriable) == ("unsafe_output", False)
    assert failed.message == "Image 1 was flagged by the safety checker"


def test_no_picture_is_told_that_could_not_be_judged(start: Start) -> None:
    rig = start(judged(Breaks()))
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
