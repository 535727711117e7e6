"""A job's drawings, clock and pictures, and the box through which its events leave."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from tests.engine.fakes import InTiles
from tests.engine.rig import Journal
from tests.fakes import PATIENCE_S, Instant, Sketch, Warns, make_params, paint
from worker.engine.outbox import Outbox
from worker.engine.run import JobRun, Pictures
from worker.jobs.engine import Load
from worker.jobs.events import Cancelled, CancelReason, Completed, Failed, Image, Progress, Timings
from worker.jobs.params import ImageFormat
from worker.jobs.queue import Work


def run_of(**changes: object) -> JobRun[Sketch]:
    run: JobRun[Sketch] = JobRun(Work("job", make_params(**changes)))
    assert run.open_on(Instant().open, PATIENCE_S)
    return run


def image(index: int) -> Image:
    return Image(index, index, 8, 8, ImageFormat.PNG, b"")


def test_a_job_is_as_far_as_its_slowest_image() -> None:
    run = run_of(num_images=2, steps=5)
    run.drawings[0].step = 3
    assert run.step == 0
    assert run.remaining_image_steps == 7
    run.drawings[1].step = 2
    assert run.step == 2
    assert (run.load.steps, run.load.images) == (3, 2)


def test_what_its_images_say_is_said_once() -> None:
    run: JobRun[Sketch] = JobRun(Work("job", make_params(num_images=2)))
    assert run.open_on(Warns("a", "b").open, PATIENCE_S)
    assert run.warnings == ("a", "b")


def test_its_drawings_are_made_one_at_a_time_where_there_is_no_time_for_more() -> None:
    run: JobRun[Sketch] = JobRun(Work("job", make_params(num_images=2)))
    runner = InTiles()
    assert [run.open_on(runner.open, 0) for _ in range(7)] == [False] * 6 + [True]
    assert len(runner.opened) == 1
    assert len(run.drawings) == 8


def test_what_it_asks_of_the_device_is_known_from_its_first_drawing_on() -> None:
    run: JobRun[Sketch] = JobRun(Work("job", make_params(num_images=2, steps=5)))
    runner = InTiles()
    assert run.load == Load(0, 0, 0)
    assert not run.open_on(runner.open, 0)
    begun = run.load
    assert (begun.steps, begun.images) == (5, 8)
    assert run.open_on(runner.open, PATIENCE_S)
    assert run.load == begun


def test_timings_add_up() -> None:
    run = run_of(num_images=2)
    run.denoised()
    for drawing, seconds in zip(list(run.drawings), (0.25, 0.5), strict=True):
        assert run.decoded(drawing, paint(1, 8, 8), seconds) is not None
    assert run.undecoded == 0
    timings = run.final_timings()
    assert timings.decode_s == 0.75
    assert None not in (timings.queue_s, timings.encode_s, timings.denoise_s, timings.total_s)


def test_an_image_is_there_with_its_last_tile() -> None:
    run: JobRun[Sketch] = JobRun(Work("job", make_params(num_images=2)))
    assert run.open_on(InTiles().open, PATIENCE_S)
    assert run.undecoded == 8
    assert [drawing.index for drawing in run.shown] == [0] * 4
    first, second = run.drawings[:4], run.drawings[4:]
    pixels = paint(1, 8, 8)
    assert [run.decoded(one, pixels, 0.1) for one in (*first[:3], second[0])] == [None] * 4
    pieces = run.decoded(first[3], pixels, 0.1)
    assert pieces is not None
    assert [tile for tile, _ in pieces] == [one.tile for one in first]
    assert (run.undecoded, run.drawings) == (3, second[1:])


def test_a_job_that_never_drew_has_no_time_for_it() -> None:
    timings = JobRun(Work("job", make_params())).final_timings()
    assert (timings.encode_s, timings.denoise_s, timings.decode_s) == (None, None, None)


def test_pictures_are_complete_with_the_last_one_and_in_order() -> None:
    pictures = Pictures(2)
    pictures.preview_follows()
    assert pictures.arrived(image(1)) is None
    assert pictures.arrived(image(0)) is None, "a preview is still to come"
    assert pictures.arrived(None) == (image(0), image(1))


def test_of_many_threads_exactly_one_brings_the_last_picture() -> None:
    for _ in range(20):
        pictures = Pictures(16)
        with ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(pictures.arrived, map(image, range(16))))
        assert [answer for answer in answers if answer is not None] == [tuple(map(image, range(16)))]


def test_what_was_put_leaves_in_one_message() -> None:
    told, (one, other) = Journal(), (run_of(), run_of())
    outbox = Outbox(told)
    outbox.put(one, Progress(1, 4, None))
    outbox.put(other, Progress(2, 4, None))
    assert told.messages == []
    outbox.flush()
    outbox.flush()
    assert [len(message) for message in told.messages] == [2]


def test_nothing_leaves_behind_an_ending() -> None:
    told, run = Journal(), run_of()
    outbox = Outbox(told)
    failed = Failed("engine_failed", "", True)
    outbox.put(run, Progress(1, 4, None))
    outbox.put(run, Cancelled(CancelReason.REQUESTED))
    outbox.send(run, failed)  # from the pool, before the engine's thread flushes
    outbox.flush()
    outbox.send(run, Completed((), Timings()))
    assert told.of("job") == [failed]


def test_of_many_threads_one_ends_the_job() -> None:
    for _ in range(20):
        told, run = Journal(), run_of()
        outbox = Outbox(told)
        with ThreadPoolExecutor(4) as pool:
            for _ in range(8):
                pool.submit(outbox.send, run, Completed((), Timings()))
        assert len(told.of("job")) == 1
