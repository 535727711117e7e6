"""Who is drawn when, what is told of it, and how the engine starts, drains and stops."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import ClassVar

import pytest

from tests.conftest import eventually
from tests.engine.fakes import HoldsEncoders, HoldsFirstPreview, MoodySketch, TakesItsTime, TakesItsTimeByRows
from tests.engine.rig import Rig
from tests.fakes import PREVIEW, Instant, LoadsWhenTold, NeverEnds, Sketch, StepByStep
from worker.engine.engine import STALL_STEPS
from worker.engine.rows import RowLimit
from worker.errors import OutOfMemory as OutOfMemoryError
from worker.jobs.engine import EngineState, Snapshot
from worker.jobs.events import Cancelled, CancelReason, Completed, Preview, Progress, Started
from worker.jobs.params import ImageFormat, JobParams, LoraParams, PreviewParams, Priority
from worker.jobs.queue import Full

Start = Callable[..., Rig]


def seeds(runner: Instant) -> list[list[int]]:
    """Which seeds stood in each model call."""
    return [sorted(seed for seed, _ in call) for call in runner.calls]


# Joining


def test_a_short_job_joins_long_ones_between_two_steps_and_leaves_before_them(start: Start) -> None:
    rig = start(runner := StepByStep())
    first = rig.post(steps=50)
    runner.wait_for_calls(1)
    second = rig.post(steps=50)
    runner.allow(9)
    runner.wait_for_calls(10)
    newcomer = rig.post(steps=4)
    runner.allow(5)  # the call that has begun, and four more
    rig.wait_ended(newcomer)
    assert rig.completed(newcomer).images[0].seed == 3
    assert seeds(runner)[10:14] == [[1, 2, 3]] * 4
    assert all(3 not in call for call in seeds(runner)[:10])
    assert rig.told.ending(first) is rig.told.ending(second) is None
    assert rig.told.only(first, Progress)[-1].step == 14
    runner.allow_all()
    rig.wait_ended()
    assert len(runner.calls) == 51  # one call alone, before the second joined


def test_each_image_is_its_own_seeds(start: Start) -> None:
    rig = start(Instant())
    job = rig.post(seed=7, num_images=3)
    rig.wait_ended()
    assert [image.seed for image in rig.completed(job).images] == [7, 8, 9]
    assert len({image.data for image in rig.completed(job).images}) == 3


def test_at_most_two_jobs_are_taken_up_between_two_steps(start: Start) -> None:
    rig = start(runner := StepByStep())
    rig.post(steps=20)
    runner.wait_for_calls(1)
    for _ in range(5):
        rig.post(steps=20)
    runner.allow(4)
    runner.wait_for_calls(5)
    assert [len(call) for call in runner.calls] == [1, 3, 5, 6, 6]


def test_who_comes_early_in_a_call_has_a_first_call_of_its_own(start: Start) -> None:
    rig = start(runner := TakesItsTimeByRows(), max_rows=16, welcome_share=1.0)
    for _ in range(6):
        rig.post(steps=600)
    firsts = []
    for number in range(1, 31):  # where the machine is busy, a call takes longer than is foreseen
        runner.wait_for_calls(12 * number)
        newcomer = rig.post(steps=2)
        rig.wait_ended(newcomer)
        seed = rig.completed(newcomer).images[0].seed
        firsts.append(next(len(call) for call in runner.calls if (seed, 1) in call))
        if firsts[-1] == 1:
            break
    for job_id in rig.unended:
        rig.cancel(job_id)
    assert firsts[-1] == 1, firsts


def test_a_job_that_is_to_be_alone_waits_for_the_others_and_they_for_it(start: Start) -> None:
    rig = start(runner := StepByStep())
    rig.post(steps=2)
    runner.wait_for_calls(1)
    rig.post(alone=True, steps=2)
    rig.post(steps=1)
    runner.allow_all()
    rig.wait_ended()
    assert runner.calls == [[(1, 1)], [(1, 2)], [(2, 1)], [(2, 2)], [(3, 1)]]


def test_waiting_jobs_come_by_priority_and_then_in_order(start: Start) -> None:
    rig = start(runner := StepByStep(), max_rows=1)
    rig.post(steps=1)
    runner.wait_for_calls(1)
    for priority in (Priority.LOW, Priority.NORMAL, Priority.HIGH, Priority.NORMAL, Priority.HIGH):
        rig.post(steps=1, priority=priority)
    assert rig.engine.snapshot().waiting == ("job 4", "job 6", "job 3", "job 5", "job 2")
    runner.allow_all()
    rig.wait_ended()
    assert [params.seed for params in runner.opened] == [1, 4, 6, 3, 5, 2]


def test_a_full_queue_refuses(start: Start) -> None:
    rig = start(StepByStep(), capacity=1, start=False)
    rig.post()
    with pytest.raises(Full):
        rig.post()
    rig.engine.start()


# Rows


def test_a_call_never_has_more_rows_than_allowed(start: Start) -> None:
    rig = start(Instant(), max_rows=5)
    for number in range(20):
        rig.post(guidance_scale=1.0 + number % 2, num_images=1 + number % 3, steps=3)
    rig.wait_ended()
    assert max(rig.gauge.rows) <= 5
    assert max(rig.gauge.rows) > 3, "and rows are filled"
    assert sum(rig.gauge.rows) == sum((1 + n % 2) * (1 + n % 3) * 3 for n in range(20))


def test_one_drawing_alone_may_have_more_rows_than_allowed(start: Start) -> None:
    rig = start(Instant(), max_rows=1)
    rig.post(guidance_scale=5.0, num_images=2)
    rig.wait_ended()
    assert set(rig.gauge.rows) == {2}


def test_nobody_is_taken_up_while_all_rows_are_in_use(start: Start) -> None:
    rig = start(runner := StepByStep(), max_rows=2)
    rig.post(steps=3, num_images=2)
    waiting = rig.post(steps=1)
    runner.allow(2)
    runner.wait_for_calls(3)
    assert rig.told.of(waiting) == []
    runner.allow_all()
    rig.wait_ended()
    assert seeds(runner) == [[1, 2]] * 3 + [[2]]


def test_a_short_job_need_not_wait_for_eight_long_ones_that_fill_every_call(start: Start) -> None:
    rig = start(runner := StepByStep(), max_rows=16, rows_under_way=32)
    long = [rig.post(steps=50, guidance_scale=5.0) for _ in range(8)]
    runner.allow(8)
    runner.wait_for_calls(9)
    assert len(runner.calls[7]) == 8, "sixteen rows"
    short = rig.post(steps=4, guidance_scale=5.0)
    runner.allow(5)  # the call that has begun, and four more
    rig.wait_ended(short)
    assert sum(9 in call for call in seeds(runner)) == 4
    assert all(len(call) == 8 for call in runner.calls[8:13])
    assert all(rig.told.ending(job) is None for job in long)


@pytest.mark.parametrize("error", [None, OutOfMemoryError("full"), RuntimeError("broken")])
def test_what_pays_is_measured_while_nothing_is_to_be_drawn(start: Start, error: Exception | None) -> None:
    told: list[int] = []
    limit = RowLimit(native_pixels=64 * 64, on_measured=told.append)
    rig = start(runner := TakesItsTime(full_at=8, error=error), rows=limit)
    eventually(lambda: told)
    assert told == [limit.usual] == [8 if error is None else 4]
    jobs = [rig.post(steps=3) for _ in range(12)]
    rig.wait_ended(*jobs)
    assert max(len(call) for call in runner.calls) <= limit.usual
    assert rig.reason is None


def test_a_call_that_is_timed_has_the_memory_of_what_is_kept_for_later_jobs(start: Start) -> None:
    class Keeps(TakesItsTime):
        keeps = True

        def time_call(self, rows: int) -> tuple[float, int | None]:
            if self.keeps:
                raise OutOfMemoryError("full")
            return super().time_call(rows)

        def let_go(self) -> bool:
            kept, self.keeps = self.keeps, False
            return kept

    told: list[int] = []
    start(Keeps(full_at=8), rows=RowLimit(native_pixels=64 * 64, on_measured=told.append))
    eventually(lambda: told)
    assert told == [8]


def test_sizes_that_cannot_share_a_call_take_turns(start: Start) -> None:
    rig = start(runner := StepByStep())
    rig.post(steps=6, height=128)
    runner.wait_for_calls(1)
    rig.post(steps=4, width=128)
    rig.post(steps=4, width=128)
    runner.allow_all()
    rig.wait_ended()
    assert seeds(runner) == [[1], [2, 3], [1], [2, 3], [1], [2, 3], [1], [2, 3], [1], [1]]


def test_a_size_of_twice_the_pixels_has_half_the_turns(start: Start) -> None:
    rig = start(runner := StepByStep())
    rig.post(steps=8)
    runner.wait_for_calls(1)
    rig.post(steps=4, width=128)
    runner.allow_all()
    rig.wait_ended()
    assert seeds(runner)[:9].count([1]) == 6
    assert seeds(runner)[:9].count([2]) == 3


def test_a_stream_of_newcomers_does_not_hold_up_another_size(start: Start) -> None:
    rig = start(runner := StepByStep(), max_rows=3)
    odd = rig.post(steps=5, width=128)
    runner.wait_for_calls(1)
    for _ in range(12):
        rig.post(steps=2, height=128)
    runner.allow(10)
    rig.wait_ended(odd)  # half of the calls are its own
    assert rig.completed(odd)


# Decoding


def test_jobs_are_decoded_by_turns(start: Start) -> None:
    rig = start(runner := Instant(), start=False)
    rig.post(seed=10, num_images=4, steps=2)
    rig.post(seed=20, steps=3)  # it is opened one call sooner
    rig.engine.start()
    rig.wait_ended()
    assert runner.finished == [10, 20, 11, 12, 13]


def test_a_stream_of_newcomers_does_not_hold_up_the_decodings_of_a_large_job(start: Start) -> None:
    rig = start(runner := Instant(), rows_under_way=64, start=False)
    rig.post(seed=100, num_images=8, steps=1)
    for _ in range(24):
        rig.post(steps=1)
    rig.engine.start()
    rig.wait_ended()
    assert runner.finished.index(103) < runner.finished.index(25), "not all of them go before it"


def test_the_end_of_what_has_its_own_pace_is_no_decoding(start: Start) -> None:
    class Enlarges(Instant):
        def open(self, params: JobParams) -> list[Sketch]:
            return [replace(sketch, own_pace=True) for sketch in super().open(params)]

    rig = start(Enlarges())
    rig.wait_ended(rig.post())
    assert rig.gauge.pictures == 0


# What is told


def test_images_of_a_job_keep_in_step_and_progress_comes_once_for_each_step(start: Start) -> None:
    rig = start(runner := Instant(), max_rows=4)
    job = rig.post(steps=9, num_images=3, guidance_scale=5.0)
    rig.wait_ended()
    assert [(event.step, event.steps) for event in rig.told.only(job, Progress)] == [(n, 9) for n in range(1, 10)]
    done = {1: 0, 2: 0, 3: 0}
    for call in runner.calls:
        done |= dict(call)
        assert max(done.values()) - min(done.values()) <= 1


def test_one_message_a_step_speaks_of_all_jobs(start: Start) -> None:
    rig = start(runner := StepByStep())
    jobs = [rig.post(steps=9) for _ in range(3)]
    runner.allow(5)
    runner.wait_for_calls(6)
    last = [message for message in rig.told.messages if isinstance(message[0][1], Progress)][-1]
    assert [job_id for job_id, _ in last] == jobs


def test_a_jobs_life_in_order(start: Start) -> None:
    rig = start(Instant())
    job = rig.post(steps=3)
    rig.wait_ended()
    assert [type(event) for event in rig.told.of(job)] == [Started, Progress, Progress, Progress, Completed]
    timings = rig.completed(job).timings
    assert all(value is not None and value >= 0 for value in vars_of(timings))
    assert (timings.total_s or 0) >= (timings.denoise_s or 0)
    assert rig.gauge.texts == rig.gauge.pictures == 1


def vars_of(timings: object) -> list[float | None]:
    return [getattr(timings, name) for name in timings.__slots__]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("steps", "every", "expected"), [(7, 2, [2, 4, 6]), (6, 2, [2, 4]), (3, 5, []), (3, 1, [1, 2])]
)
def test_previews_come_at_the_asked_steps_but_not_of_the_finished_picture(
    start: Start, steps: int, every: int, expected: list[int]
) -> None:
    rig = start(Instant())
    job = rig.post(steps=steps, width=128, preview=PreviewParams(every, 32, ImageFormat.WEBP))
    rig.wait_ended()
    previews = rig.told.only(job, Preview)
    assert [preview.step for preview in previews] == expected
    assert all((one.width, one.height, one.steps, one.data[8:12]) == (32, 16, steps, b"WEBP") for one in previews)


def test_a_job_whose_images_do_not_fit_one_call_still_gets_each_preview_once(start: Start) -> None:
    rig = start(Instant(), max_rows=4)
    job = rig.post(steps=8, num_images=3, guidance_scale=5.0, preview=PREVIEW)
    rig.wait_ended()
    assert [preview.step for preview in rig.told.only(job, Preview)] == list(range(1, 8))


def test_previews_that_are_encoded_sooner_are_not_told_before_earlier_ones(start: Start) -> None:
    rig = start(runner := HoldsFirstPreview(previews=True))
    job = rig.post(steps=4, preview=PREVIEW)
    eventually(lambda: rig.gauge.encoded == 3)  # the second and third preview, and the picture
    assert rig.told.only(job, Preview) == []
    runner.allow_all()
    rig.wait_ended()
    assert [preview.step for preview in rig.told.only(job, Preview)] == [1, 2, 3]


def test_a_job_completes_only_after_its_last_preview(start: Start) -> None:
    rig = start(runner := HoldsEncoders(seed=1, previews=True))
    slow = rig.post(steps=2, preview=PREVIEW)
    assert runner.held.reached.wait(10)
    other = rig.post()
    rig.wait_ended(other)  # encoded behind the slow job's picture
    assert rig.told.ending(slow) is None
    runner.allow_all()
    rig.wait_ended()
    assert [type(event) for event in rig.told.of(slow)][-2:] == [Preview, Completed]


# Cancelling


def test_a_waiting_job_is_gone_at_once(start: Start) -> None:
    rig = start(runner := StepByStep(), max_rows=1)
    rig.post()
    runner.wait_for_calls(1)
    waiting = rig.post()
    assert rig.cancel(waiting)
    assert not rig.engine.cancel(waiting, CancelReason.REQUESTED), "it does not wait any more"
    runner.allow_all()
    rig.wait_ended()
    assert rig.told.of(waiting) == []
    assert len(runner.opened) == 1


def test_cancelling_a_running_job_frees_its_rows_and_touches_no_other(start: Start) -> None:
    rig = start(runner := StepByStep(), max_rows=2)
    stays = rig.post(steps=6)
    runner.wait_for_calls(1)
    goes = rig.post(steps=50)
    runner.allow(2)
    runner.wait_for_calls(3)
    following = rig.post(steps=3)
    assert not rig.cancel(goes, CancelReason.TIMEOUT)
    assert not rig.cancel(goes, CancelReason.SHUTDOWN)
    runner.allow(1)
    rig.wait_ended(goes)
    ending = rig.told.ending(goes)
    assert isinstance(ending, Cancelled)
    assert ending.reason is CancelReason.TIMEOUT, "the first reason stays"
    runner.allow_all()
    rig.wait_ended()
    assert rig.completed(stays)
    assert rig.completed(following)
    assert seeds(runner) == [[1], [1, 2], [1, 2], [1, 3], [1, 3], [1, 3]]


def test_cancelling_what_is_not_there_reaches_no_later_job(start: Start) -> None:
    rig = start(Instant())
    first = rig.post()
    rig.wait_ended(first)
    rig.engine.cancel(first, CancelReason.REQUESTED)
    rig.engine.cancel("never heard of", CancelReason.REQUESTED)
    second = rig.post()
    rig.wait_ended()
    assert rig.completed(second)


# Starting and stopping


def test_jobs_wait_while_the_model_loads(start: Start) -> None:
    rig = start(runner := LoadsWhenTold())
    assert runner.loading.wait(10)
    job = rig.post()
    assert rig.engine.snapshot() == Snapshot(EngineState.LOADING, True, 0.25, (job,), (), None)
    assert not rig.ready.is_set()
    runner.finish_loading()
    rig.wait_ended()
    assert rig.ready.is_set()
    assert rig.completed(job)


def test_a_snapshot_tells_what_is_going_on(start: Start) -> None:
    rig = start(runner := StepByStep(), max_rows=3)
    rig.post(steps=10)
    rig.post(steps=4, num_images=2)
    waiting = rig.post()
    runner.allow(2)
    runner.wait_for_calls(3)
    snapshot = rig.engine.snapshot()
    assert (snapshot.state, snapshot.healthy, snapshot.load_progress) == (EngineState.READY, True, 1.0)
    assert (snapshot.waiting, snapshot.running) == ((waiting,), 2)
    assert sum(load.rows * load.steps for load in snapshot.loads) == 10 + 2 * 4 - sum(rig.gauge.rows)
    assert snapshot.pace is not None
    assert snapshot.pace.call_rows == 3
    runner.allow_all()
    rig.wait_ended()
    eventually(lambda: rig.engine.snapshot().loads == ())


def test_a_job_counts_as_running_until_its_last_picture_is_encoded(start: Start) -> None:
    rig = start(runner := HoldsEncoders(seed=1))
    job = rig.post()
    assert runner.held.reached.wait(10)
    assert rig.engine.snapshot().running == 1
    assert not rig.cancel(job), "too late: it completes"
    other = rig.post()
    rig.wait_ended(other)
    assert rig.told.ending(job) is None
    runner.allow_all()
    rig.wait_ended()
    assert rig.completed(job)
    eventually(lambda: rig.engine.snapshot().running == 0)


def test_what_was_drawn_is_not_held_while_its_picture_is_encoded(start: Start) -> None:
    class Watches(HoldsEncoders):
        seen: ClassVar[list[weakref.ref[Sketch]]] = []

        def open(self, params: JobParams) -> list[Sketch]:
            (sketch,) = map(MoodySketch.of, super().open(params))
            self.seen.append(weakref.ref(sketch))
            return [sketch]

    rig = start(runner := Watches())
    job = rig.post()
    assert runner.held.reached.wait(10)
    rig.wait_ended(rig.post())  # the turn that decoded the first is over
    assert rig.told.ending(job) is None
    assert runner.seen[0]() is None
    runner.allow_all()
    rig.wait_ended()


def test_draining_returns_who_waits_and_finishes_who_runs(start: Start) -> None:
    rig = start(runner := StepByStep(), max_rows=1)
    running = rig.post()
    runner.wait_for_calls(1)
    waiting = [rig.post(), rig.post()]
    urgent = rig.post(priority=Priority.HIGH)
    assert rig.drain() == [urgent, *waiting]
    assert rig.engine.snapshot().state is EngineState.DRAINING
    assert rig.engine.snapshot().waiting == ()
    runner.allow_all()
    rig.wait_ended()
    assert rig.completed(running)
    assert len(runner.opened) == 1
    assert rig.drain() == []


def test_an_engine_that_drains_while_it_loads_takes_nothing_up(start: Start) -> None:
    rig = start(runner := LoadsWhenTold())
    waiting = rig.post()
    assert runner.loading.wait(10)
    assert rig.drain() == [waiting]
    late = rig.post()
    runner.finish_loading()
    eventually(lambda: rig.engine.snapshot().load_progress == 1.0)
    assert rig.engine.snapshot().state is EngineState.DRAINING
    assert rig.engine.stop(10)
    assert not rig.ready.is_set()
    assert runner.opened == []
    assert rig.told.ending(late) == rig.told.of(late)[0]


def test_stopping_ends_the_thread_and_every_job(start: Start) -> None:
    rig = start(runner := StepByStep(), max_rows=1)
    running, waiting = rig.post(steps=50), rig.post()
    runner.wait_for_calls(1)
    runner.allow(1)
    runner.wait_for_calls(2)
    assert not rig.engine.stop(0.01), "the step that goes on is not cut short"
    runner.allow_all()
    assert rig.engine.stop(10)
    assert rig.engine.snapshot().state is EngineState.STOPPED
    assert rig.stopped.is_set()
    assert rig.reason is None
    for job in (running, waiting):
        ending = rig.told.ending(job)
        assert isinstance(ending, Cancelled)
        assert ending.reason is CancelReason.SHUTDOWN


def test_stopping_a_device_that_hangs_gives_up_in_time(start: Start) -> None:
    rig = start(runner := NeverEnds())
    rig.post()
    runner.wait_for_calls(1)
    assert not rig.engine.stop(0.01)
    runner.allow_all()
    rig.wait_stopped()


def test_an_engine_without_a_sign_of_life_is_not_healthy(start: Start) -> None:
    rig = start(runner := NeverEnds(), first_call_s=0.05)
    job = rig.post()
    runner.wait_for_calls(1)
    eventually(lambda: not rig.engine.snapshot().healthy)
    assert rig.engine.snapshot().state is EngineState.READY
    runner.allow_all()
    rig.wait_ended(job)


def test_how_long_a_step_may_take_is_known_from_the_first_one_on(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    rig = start(runner := StepByStep(), stall_s=0.0)
    job = rig.post(steps=2)
    runner.wait_for_calls(1)
    assert rig.engine.snapshot().healthy, "the first one has its time"
    runner.allow(1)
    runner.wait_for_calls(2)
    pace = rig.engine.snapshot().pace
    assert pace is not None
    late_s = 2 * STALL_STEPS * pace.step_s(pace.call_rows)
    monkeypatch.setattr("worker.engine.engine.time", SimpleNamespace(monotonic=lambda: time.monotonic() + late_s))
    assert not rig.engine.snapshot().healthy
    runner.allow_all()
    rig.wait_ended(job)


def test_larger_pictures_than_usual_have_more_time(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    rig = start(runner := StepByStep(allowed=1), rows=RowLimit(2, native_pixels=64 * 64), stall_s=1.0)
    rig.wait_ended(rig.post(steps=1))
    for number, (side, healthy) in enumerate(((64, False), (1280, True)), start=2):
        job = rig.post(steps=1, width=side, height=side)
        runner.wait_for_calls(number)
        with monkeypatch.context() as patch:
            patch.setattr("worker.engine.engine.time", SimpleNamespace(monotonic=lambda: time.monotonic() + 10))
            assert rig.engine.snapshot().healthy is healthy
        runner.allow(1)
        rig.wait_ended(job)


@pytest.mark.parametrize(("loras", "healthy"), [((), False), ((LoraParams("large", 1.0),), True)])
def test_weights_beside_the_model_have_time_to_be_read(
    start: Start, loras: tuple[LoraParams, ...], *, healthy: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    opening, opened = threading.Event(), threading.Event()

    class OpensSlowly(Instant):
        def open(self, params: JobParams) -> list[Sketch]:
            if params.prompt == "slow":
                opening.set()
                opened.wait(10)
            return super().open(params)

    rig = start(OpensSlowly(), stall_s=1.0)
    rig.wait_ended(rig.post())
    rig.post(prompt="slow", loras=loras)
    assert opening.wait(10)
    with monkeypatch.context() as patch:
        patch.setattr("worker.engine.engine.time", SimpleNamespace(monotonic=lambda: time.monotonic() + 60))
        assert rig.engine.snapshot().healthy is healthy
    opened.set()
    rig.wait_ended()


def test_time_in_which_the_process_did_not_run_is_no_hang(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    rig = start(runner := StepByStep(allowed=1))
    rig.wait_ended(rig.post(steps=1))
    job = rig.post(steps=1)
    runner.wait_for_calls(2)
    for later_s, stood_still_s, healthy in ((1000, 1000, True), (2000, 1000, True), (3000, 0, False)):
        with monkeypatch.context() as patch:
            moment_s = time.monotonic() + later_s
            patch.setattr("worker.engine.engine.time", SimpleNamespace(monotonic=lambda moment_s=moment_s: moment_s))
            if stood_still_s:
                rig.engine.stood_still(stood_still_s)
            assert rig.engine.snapshot().healthy is healthy
    runner.allow(1)
    rig.wait_ended(job)


def test_an_idle_engine_stays_healthy(start: Start) -> None:
    rig = start(Instant())
    assert rig.ready.wait(10)
    assert rig.engine.snapshot() == Snapshot(EngineState.READY, True, 1.0, (), (), None)


# Preparing


def test_later_calls_are_prepared_between_steps_and_not_while_draining(start: Start) -> None:
    class Prepares(StepByStep):
        prepared = 0
        moments: ClassVar[list[int]] = []

        def prepare(self) -> bool:
            self.prepared += 1
            return False

        def before_step(self, batch: Sequence[Sketch]) -> None:
            super().before_step(batch)
            self.moments.append(self.prepared)

    rig = start(runner := Prepares(allowed=4))
    rig.post(steps=8)
    runner.wait_for_calls(5)
    rig.engine.drain()
    runner.allow_all()
    rig.wait_ended()
    first = runner.moments[0]
    assert [moment - first for moment in runner.moments] == [0, 1, 2, 3, 4, 4, 4, 4]
