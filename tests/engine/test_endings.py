"""Every job ends once, whatever goes wrong, and takes no other along."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import pytest

from tests.conftest import eventually
from tests.engine.fakes import (
    MOODS,
    CallsWhenOpening,
    HoldsEncodersAndSteps,
    HoldsFirstPreview,
    HoldsPixels,
    LacksRoomBesideWeights,
    LosesDeviceWhileEncoding,
    Moody,
    NeedsItsMemoryBack,
)
from tests.engine.rig import Rig
from tests.fakes import (
    PREVIEW,
    SECRET,
    FailsAtStep,
    FailsToDecode,
    FailsToLoad,
    FailsToOpen,
    Instant,
    LosesDevice,
    OutOfMemory,
    Sketch,
)
from worker import errors
from worker.engine.rows import RowLimit
from worker.engine.runner import DeviceLost, Pixels
from worker.jobs.engine import EngineState
from worker.jobs.events import Cancelled, CancelReason, Failed, Preview, Started
from worker.jobs.params import ImageFormat, JobParams, LoraParams, PreviewParams, Priority, UpscaleParams

Start = Callable[..., Rig]
CODES = dict.fromkeys(MOODS, "engine_failed") | {"has no memory": "out_of_memory", "fails to decode": "nan_output"}


# One job fails


@pytest.mark.parametrize("mood", MOODS)
def test_a_job_fails_alone(start: Start, mood: str) -> None:
    rig = start(Moody())
    before = [rig.post(num_images=2), rig.post(preview=PREVIEW)]
    bad = rig.post(prompt=mood, preview=PREVIEW, num_images=2)
    after = [rig.post(), rig.post(steps=9, preview=PREVIEW)]
    rig.wait_ended()
    assert rig.failed(bad).code == CODES[mood]
    assert "secret" not in rig.failed(bad).message
    for neighbour in before + after:
        assert rig.completed(neighbour)
    eventually(lambda: rig.engine.snapshot().running == 0)
    assert rig.engine.snapshot().state is EngineState.READY


@pytest.mark.parametrize("kind", [FailsToOpen, FailsToDecode, lambda: FailsAtStep(2)])
def test_an_unforeseen_error_says_nothing_of_itself(start: Start, kind: Callable[[], Instant]) -> None:
    rig = start(kind())
    jobs = [rig.post(), rig.post()]
    rig.wait_ended()
    assert all(SECRET not in rig.failed(job).message for job in jobs)


def test_a_foreseen_error_is_told_as_it_is(start: Start) -> None:
    rig = start(FailsToOpen(errors.InvalidInput("this model has no such word")))
    job = rig.post()
    rig.wait_ended()
    failed = rig.failed(job)
    assert (failed.code, failed.message, failed.retriable) == ("invalid_input", "this model has no such word", False)
    assert failed.timings.total_s is not None


def test_where_a_call_fails_for_one_of_many_the_others_have_lost_nothing(start: Start) -> None:
    rig = start(runner := FailsAtStep(3, seed=5))
    jobs = [rig.post(steps=6) for _ in range(8)]
    rig.wait_ended()
    assert rig.failed(jobs[4]).code == "engine_failed"
    for job in jobs[:4] + jobs[5:]:
        assert rig.completed(job)
    done = [pair for call in runner.calls for pair in call if pair[0] == 5]
    assert max(step for _, step in done) == 3


def test_a_job_with_several_images_in_a_failing_call_fails_once(start: Start) -> None:
    rig = start(FailsAtStep(2))
    job = rig.post(num_images=4)
    rig.wait_ended()
    assert rig.failed(job)


def test_a_job_whose_first_picture_cannot_be_encoded_is_not_drawn_to_its_end(start: Start) -> None:
    rig = start(runner := Moody(), max_rows=1)
    bad = rig.post(prompt="previews nonsense", steps=10_000, preview=PreviewParams(1, 32, ImageFormat.JPEG))
    rig.wait_ended(bad)
    good = rig.post()
    rig.wait_ended()
    assert rig.completed(good)
    assert len(runner.calls) < 10_000


# Memory


@pytest.mark.parametrize(("guidance_scale", "most"), [(5.0, 4), (5.0, 2), (1.0, 1)])
def test_out_of_memory_halves_the_calls_and_every_job_completes(start: Start, guidance_scale: float, most: int) -> None:
    rig = start(runner := OutOfMemory(max_rows=most))
    jobs = [rig.post(guidance_scale=guidance_scale, steps=12) for _ in range(8)]
    rig.wait_ended()
    assert all(rig.completed(job) for job in jobs)
    assert max(rig.gauge.rows) == most
    failed_calls = len(runner.calls) - len(rig.gauge.rows)
    assert failed_calls <= 4, "what does not fit is not tried at every step"


TOO_LARGE = "The device's memory does not hold a picture of 64 x 64; a smaller one, or one without guidance, may fit"


def test_whoever_does_not_fit_is_told_what_would(start: Start) -> None:
    rig = start(HoldsPixels(128 * 128))
    fit = [rig.post(width=side, height=side) for side in (128, 64)]
    rig.wait_ended(*fit)
    large = rig.post(width=256, height=256)
    rig.wait_ended(large)
    assert all(rig.completed(job) for job in fit)
    assert rig.failed(large).message.endswith("does not hold a picture of 256 x 256; one of 128 x 128 has fit")


BY_NETWORK = UpscaleParams(2, "large", 1)


@pytest.mark.parametrize(
    ("padded", "changes", "told"),
    [
        (True, {}, "a picture of 64 x 64; a smaller one may fit, or any with a lower --max-rows of the worker"),
        (False, {"upscale": BY_NETWORK}, "the upscaler large and a tile; a picture of any size takes as much"),
        (
            False,
            {"loras": (LoraParams("a", 1.0),)},
            "a picture of 64 x 64 with its LoRAs or ControlNets; a smaller one, or one without guidance, may fit",
        ),
    ],
)
def test_advice_is_of_what_would_help(start: Start, *, padded: bool, changes: dict[str, object], told: str) -> None:
    rig = start(OutOfMemory(max_rows=0), rows=RowLimit(8, padded=padded))
    job = rig.post(**changes)
    rig.wait_ended()
    assert rig.failed(job).message == f"The device's memory does not hold {told}"


def test_only_what_does_not_fit_by_itself_fails_for_want_of_memory(start: Start) -> None:
    rig = start(FailsAtStep(2, seed=2, error=errors.OutOfMemory("too large")))
    jobs = [rig.post() for _ in range(4)]
    rig.wait_ended()
    following = rig.post()
    rig.wait_ended()
    assert (rig.failed(jobs[1]).code, rig.failed(jobs[1]).message) == ("out_of_memory", TOO_LARGE)
    for job in (jobs[0], *jobs[2:], following):
        assert rig.completed(job)


def test_the_failed_calls_tensors_are_gone_before_it_is_tried_again(start: Start) -> None:
    rig = start(runner := NeedsItsMemoryBack())
    rig.post(num_images=4, steps=1)
    rig.wait_ended()
    assert runner.kept == [False, False]


class KeepsForLater(Instant):
    """Has memory for `what` only once it has let go of what it keeps for later jobs."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self._what = what
        self._keeps = True
        self.asked = 0

    def _need(self, what: str) -> None:
        if what == self._what and self._keeps:
            raise errors.OutOfMemory

    def open(self, params: JobParams) -> list[Sketch]:
        self._need("opening")
        return super().open(params)

    def before_step(self, batch: Sequence[Sketch]) -> None:
        self._need("a step")

    def finish(self, drawing: Sketch) -> Pixels:
        self._need("decoding")
        return super().finish(drawing)

    def let_go(self) -> bool:
        self.asked += 1
        kept, self._keeps = self._keeps, False
        return kept


@pytest.mark.parametrize("what", ["opening", "a step", "decoding"])
def test_what_is_kept_for_later_jobs_goes_first(start: Start, what: str) -> None:
    rig = start(runner := KeepsForLater(what))
    jobs = [rig.post(num_images=2) for _ in range(3)]
    rig.wait_ended()
    assert all(rig.completed(job) for job in jobs)
    assert runner.asked == 1
    assert max(rig.gauge.rows) > 1, "and no call has fewer rows for it"


WEIGHTS = (LoraParams("weights", 1.0),)


@pytest.mark.parametrize(("padded", "share_calls"), [(True, False), (False, False), (False, True)])
def test_whoever_had_room_has_it_back_from_a_newcomer_with_weights(
    start: Start, *, padded: bool, share_calls: bool
) -> None:
    runner = LacksRoomBesideWeights("a step", share_calls=share_calls)
    rig = start(runner, rows=RowLimit(16, padded=padded))
    old = [rig.post(guidance_scale=5.0, steps=20) for _ in range(4)]
    runner.allow(3)
    runner.wait_for_calls(4)
    newcomer = rig.post(guidance_scale=5.0, steps=1000, loras=WEIGHTS)
    runner.allow_all()
    rig.wait_ended()
    assert all(rig.completed(job) for job in old)
    assert rig.failed(newcomer).code == "out_of_memory"
    assert len(runner.calls[-3]) == 4, "and calls have as many rows as before"


def test_whoever_comes_after_weights_and_does_not_fit_fails_alone(start: Start) -> None:
    rig = start(runner := LacksRoomBesideWeights("a step"))
    before = rig.post(steps=20, loras=WEIGHTS)
    runner.wait_for_calls(1)
    after = rig.post(steps=20)
    runner.allow_all()
    rig.wait_ended()
    assert rig.completed(before)
    assert rig.failed(after).code == "out_of_memory"


def test_whoever_never_fitted_fails_alone_beside_a_newcomer_with_weights(start: Start) -> None:
    rig = start(runner := LacksRoomBesideWeights("a step"), start=False)
    large, newcomer = rig.post(steps=20), rig.post(steps=20, loras=WEIGHTS)
    runner.allow_all()
    rig.engine.start()
    rig.wait_ended()
    assert rig.failed(large).code == "out_of_memory"
    assert rig.completed(newcomer)


@pytest.mark.parametrize(("side", "fits"), [(64, True), (56, True), (72, False)])
def test_a_decoding_has_its_room_back_where_it_is_known_to_have_had_it(start: Start, *, side: int, fits: bool) -> None:
    runner = LacksRoomBesideWeights("a decoding")
    rig = start(runner, rows=RowLimit(16, native_pixels=64 * 64))
    old = rig.post(steps=2, num_images=2, width=64, height=side)
    runner.wait_for_calls(1)
    newcomer = rig.post(steps=10, loras=WEIGHTS)
    runner.allow_all()
    rig.wait_ended()
    kept, failed = (old, newcomer) if fits else (newcomer, old)
    assert rig.completed(kept)
    assert rig.failed(failed).code == "out_of_memory"


def test_tiles_that_are_made_have_their_room_back(start: Start) -> None:
    rig = start(runner := LacksRoomBesideWeights("another tile"), start=False)
    old, newcomer = rig.post(width=128, height=128, num_images=2), rig.post(steps=20, loras=WEIGHTS)
    runner.allow_all()
    rig.engine.start()
    rig.wait_ended()
    assert rig.completed(old)
    assert rig.failed(newcomer).code == "out_of_memory"


def test_where_calls_are_padded_fewer_images_would_not_help(start: Start) -> None:
    rig = start(runner := OutOfMemory(max_rows=0), rows=RowLimit(8, padded=True))
    rig.post(num_images=8)
    rig.wait_ended()
    assert len(runner.calls) == 1


def test_a_panic_in_a_library_fails_its_job_alone(start: Start) -> None:
    class Panic(BaseException):
        """As Rust's are, in Python."""

    class Panics(Instant):
        def open(self, params: JobParams) -> list[Sketch]:
            if params.prompt == "panic":
                raise Panic(SECRET)
            return super().open(params)

    def sign(data: bytes, params: JobParams) -> bytes:
        if params.prompt == "sign":
            raise Panic(SECRET)
        return data

    rig = start(Panics(), sign=sign)
    bad, good = [rig.post(prompt=prompt) for prompt in ("panic", "sign")], rig.post()
    rig.wait_ended()
    assert [rig.failed(job).code for job in bad] == ["engine_failed"] * 2
    assert rig.completed(good)


def test_a_panic_that_is_no_jobs_ends_the_engine_in_order(start: Start) -> None:
    class Panics(Instant):
        def prepare(self) -> bool:
            raise BaseException(SECRET)

    rig = start(Panics())
    job = rig.post(steps=10_000)
    rig.wait_stopped()
    assert rig.failed(job).code == "engine_failed"
    assert rig.engine.snapshot().state is EngineState.FAILED
    assert not rig.engine.snapshot().healthy


# Races


def test_a_cancel_that_comes_while_the_job_is_being_opened_is_not_lost(start: Start) -> None:
    rig = start(runner := CallsWhenOpening(), start=False)
    job, neighbour = rig.post(steps=1000), rig.post()
    answers = []
    runner.on_open = lambda: answers.append(rig.engine.cancel(job, CancelReason.REQUESTED))
    rig.engine.start()
    rig.wait_ended()
    assert answers == [False, False]
    assert isinstance(rig.told.ending(job), Cancelled)
    assert rig.completed(neighbour)
    assert rig.told.of(job)[0] == Started(1)


def test_a_job_cancelled_while_its_preview_is_encoded_has_one_ending(start: Start) -> None:
    rig = start(runner := HoldsEncodersAndSteps(previews=True))
    job = rig.post(steps=50, preview=PREVIEW)
    runner.allow(1)
    assert runner.held.reached.wait(10)
    runner.wait_for_calls(2)
    rig.cancel(job)
    runner.allow(1)
    rig.wait_ended()
    runner.allow_all()
    assert rig.engine.stop(10)
    assert isinstance(rig.told.of(job)[-1], Cancelled)
    assert rig.told.only(job, Preview) == []


# The device is gone


def test_when_the_device_is_lost_every_job_ends(start: Start) -> None:
    rig = start(runner := LosesDeviceWhileEncoding(), max_rows=1, start=False)
    encoding, running, waiting = rig.post(steps=1), rig.post(), rig.post()
    rig.engine.start()
    rig.wait_stopped()
    assert isinstance(rig.reason, DeviceLost)
    snapshot = rig.engine.snapshot()
    assert (snapshot.state, snapshot.healthy, snapshot.waiting) == (EngineState.FAILED, False, ())
    for job in (running, waiting):
        failed = rig.failed(job)
        assert (failed.code, failed.retriable) == ("engine_failed", True)
        assert SECRET not in failed.message
    assert snapshot.running >= 1
    assert rig.told.ending(encoding) is None
    runner.allow_all()
    rig.wait_ended(encoding)
    assert rig.completed(encoding), "its picture was drawn, and the device is not needed any more"


@pytest.mark.parametrize("where", ["open", "step", "preview", "finish"])
def test_a_lost_device_ends_the_engine_wherever_it_shows(start: Start, where: str) -> None:
    class LosesDeviceIn(Instant):
        pass

    def lose(*_: object) -> None:
        raise DeviceLost(SECRET)

    setattr(LosesDeviceIn, where, lose)
    rig = start(LosesDeviceIn(), max_rows=1, start=False)
    jobs = [rig.post(num_images=2, preview=PREVIEW), rig.post()]
    rig.engine.start()
    rig.wait_stopped()
    rig.wait_ended()
    assert all(rig.failed(job).code == "engine_failed" for job in jobs)
    assert rig.engine.snapshot().state is EngineState.FAILED


def test_jobs_in_one_call_with_the_loss_all_fail(start: Start) -> None:
    rig = start(LosesDevice(3, seed=2))
    jobs = [rig.post(), rig.post(), rig.post()]
    rig.wait_stopped()
    assert {rig.failed(job).code for job in jobs} == {"engine_failed"}


def test_a_job_that_comes_too_late_gets_its_ending_too(start: Start) -> None:
    failed = start(FailsToLoad())
    failed.wait_stopped()
    assert failed.failed(failed.post()).code == "engine_failed"
    stopped = start(Instant())
    assert stopped.engine.stop(10)
    assert isinstance(stopped.told.ending(stopped.post()), Cancelled)
    assert failed.engine.snapshot().waiting == stopped.engine.snapshot().waiting == ()


@pytest.mark.parametrize("at_once", [True, False])
def test_when_the_model_cannot_be_loaded_every_waiting_job_ends(start: Start, at_once: bool) -> None:
    error = errors.ModelUnusable("the fake model cannot be loaded")
    rig = start(error if at_once else FailsToLoad(), start=False)
    jobs = [rig.post(priority=priority) for priority in Priority]
    rig.engine.start()
    rig.wait_stopped()
    rig.wait_ended()
    assert all(rig.failed(job).code == "engine_failed" for job in jobs)
    assert all(len(rig.told.of(job)) == 1 for job in jobs)
    assert isinstance(rig.reason, errors.ModelUnusable)
    assert rig.engine.snapshot().state is EngineState.FAILED
    assert not rig.ready.is_set()
    assert rig.engine.stop(10)


# Everything at once


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("end", ["all done", "stopped", "device lost", "drained"])
def test_whatever_is_mixed_every_job_has_one_ending(start: Start, seed: int, end: str) -> None:
    chance = random.Random(seed)
    lost_at = chance.randrange(200, 900) if end == "device lost" else None
    rig = start(MoodyUntil(lost_at), max_rows=chance.choice([2, 6, 16]))
    posted: dict[str, str] = {}
    cancelled: set[str] = set()
    for number in range(200):
        prompt = chance.choice([*MOODS, *["a red circle"] * 14])
        job = rig.post(
            prompt=prompt,
            seed=1000 * number,
            steps=chance.choice([2, 3, 5, 12]),
            num_images=chance.choice([1, 1, 1, 2, 3]),
            guidance_scale=chance.choice([1.0, 5.0]),
            width=chance.choice([64, 64, 72]),
            preview=PREVIEW if prompt in MOODS or chance.random() < 0.2 else None,
            priority=chance.choice(list(Priority)),
        )
        posted[job] = prompt
        if chance.random() < 0.3:
            victim = chance.choice(list(posted))
            cancelled.add(victim)
            if victim in rig.unended and rig.cancel(victim):
                posted.pop(victim)
        if chance.random() < 0.1 and (unended := rig.unended):
            rig.wait_ended(chance.choice(unended))
    match end:
        case "all done":
            rig.wait_ended()
            eventually(lambda: rig.engine.snapshot().running == 0)
            for job, prompt in posted.items():
                ending = rig.told.ending(job)
                assert job in cancelled or (ending.code if isinstance(ending, Failed) else None) == CODES.get(prompt)
        case "drained":
            for job in rig.drain():
                posted.pop(job)
            rig.wait_ended()
        case "device lost":
            rig.wait_stopped()
    rig.close()
    assert all(rig.told.ending(job) for job in posted)


class MoodyUntil(Moody):
    """Loses the device at call number `lost_at`, if there is one."""

    def __init__(self, lost_at: int | None) -> None:
        super().__init__()
        self._lost_at = lost_at

    def before_step(self, batch: object) -> None:
        if len(self.calls) == self._lost_at:
            raise DeviceLost(SECRET)
        super().before_step(batch)  # type: ignore[arg-type]


def test_previews_that_come_faster_than_they_are_encoded_are_left_out(start: Start) -> None:
    rig = Rig(runner := HoldsFirstPreview())
    job = rig.post(steps=200, preview=PreviewParams(1, 32, ImageFormat.JPEG))
    runner.wait_for_calls(200)
    runner.held.released.set()
    rig.told.wait(lambda: rig.told.ending(job) is not None)
    assert 0 < len(rig.told.only(job, Preview)) < 199
    assert rig.engine.stop(10)
