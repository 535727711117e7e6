"""Images that are drawn in tiles, as the engine handles them: one picture, one progress, one share of the device."""

from __future__ import annotations

import io
import threading
from collections.abc import Sequence
from itertools import groupby, pairwise

import numpy as np
from PIL import Image as PillowImage

from tests.engine.fakes import InTiles, MakesTilesOneByOne
from tests.engine.rig import Rig
from tests.fakes import PREVIEW, Sketch, paint
from worker.engine.batching import OLDEST_FIRST_EVERY, Batching
from worker.errors import OutOfMemory
from worker.jobs.events import Cancelled, CancelReason, Ending, Preview, Progress


def tiled(**changes: object) -> dict[str, object]:
    return {"width": 128, "height": 128, "steps": 3} | changes


def test_the_tiles_of_an_image_become_one_picture() -> None:
    rig = Rig(InTiles(allowed=100))
    job = rig.post(**tiled(num_images=2, seed=5))
    rig.wait_ended(job)
    images = rig.completed(job).images
    assert [(image.index, image.seed, image.width, image.height) for image in images] == [
        (0, 5, 128, 128),
        (1, 6, 128, 128),
    ]
    for image in images:
        assert np.array_equal(np.asarray(PillowImage.open(io.BytesIO(image.data))), paint(image.seed, 128, 128))
    assert rig.gauge.pictures == 8, "each tile is decoded by itself"
    rig.close()


def test_a_step_is_told_when_every_tile_has_done_it() -> None:
    rig = Rig(InTiles(allowed=100), max_rows=3)
    job = rig.post(**tiled(preview=PREVIEW))
    rig.wait_ended(job)
    assert [event.step for event in rig.told.only(job, Progress)] == [1, 2, 3]
    previews = rig.told.only(job, Preview)
    assert [(one.step, one.width, one.height) for one in previews] == [(1, 32, 32), (2, 32, 32)]
    rig.close()


def test_others_step_while_tiles_are_made() -> None:
    rig = Rig(runner := MakesTilesOneByOne())
    neighbour = rig.post(width=64, height=64, steps=10_000)
    runner.wait_for_calls(1)
    runner.allow_all()

    def take_longer_than_a_step(number: int) -> None:
        pace = rig.engine.snapshot().pace
        assert pace is not None
        threading.Event().wait(2 * pace.step_s(pace.call_rows))

    runner.on_tile = take_longer_than_a_step
    job = rig.post(**tiled(num_images=2))
    rig.wait_ended(job)
    rig.cancel(neighbour)
    assert len(runner.calls_before) == 8
    first, *others = [later - sooner for sooner, later in pairwise(runner.calls_before)]
    assert first == 0, "with the first there was the text to encode"
    assert others == [1] * 6
    assert len(rig.completed(job).images) == 2
    rig.close()


def test_others_are_taken_up_while_tiles_are_made() -> None:
    rig = Rig(runner := MakesTilesOneByOne(), start=False)
    job, other, third = rig.post(**tiled(num_images=2)), rig.post(**tiled()), rig.post(width=64, height=64, steps=1)
    runner.allow_all()
    rig.engine.start()
    rig.wait_ended()
    assert all(rig.completed(one) for one in (job, other, third))
    assert runner.calls[0] == [(3, 1)]
    assert runner.calls_before.count(0) == 5, "two of each, and one more of the first, when the third was taken up"
    rig.close()


def test_nobody_is_taken_up_for_rows_that_tiles_to_come_will_have() -> None:
    rig = Rig(runner := MakesTilesOneByOne(), max_rows=2, start=False)
    job, other = rig.post(**tiled(num_images=2)), rig.post(width=64, height=64)
    runner.allow_all()
    opened: list[int] = []
    runner.on_tile = lambda number: opened.append(len(runner.opened))
    rig.engine.start()
    rig.wait_ended(job, other)
    assert opened == [1] * 8
    rig.close()


def test_a_job_whose_tiles_are_made_can_be_cancelled_and_the_next_one_is_taken_up() -> None:
    rig = Rig(runner := MakesTilesOneByOne(), start=False)
    job, after = rig.post(**tiled()), rig.post(**tiled())
    runner.allow_all()
    runner.on_tile = lambda number: rig.engine.cancel(job, CancelReason.REQUESTED) and None
    rig.engine.start()
    rig.wait_ended()
    assert isinstance(rig.told.ending(job), Cancelled)
    assert rig.told.only(job, Progress) == []
    assert rig.completed(after)
    assert len(runner.calls_before) < 8
    rig.close()


def test_a_job_whose_third_tile_cannot_be_made_fails_alone() -> None:
    rig = Rig(runner := MakesTilesOneByOne(), start=False)
    job, after = rig.post(**tiled()), rig.post(**tiled())
    runner.allow_all()

    failed: list[int] = []

    def fail(number: int) -> None:
        if number == 2 and not failed:
            failed.append(number)
            raise OutOfMemory

    runner.on_tile = fail
    rig.engine.start()
    rig.wait_ended()
    assert rig.failed(job).code == "out_of_memory"
    assert rig.completed(after)
    rig.close()


def test_a_job_whose_tiles_are_made_ends_with_the_engine() -> None:
    rig = Rig(runner := MakesTilesOneByOne(), start=False)
    job = rig.post(**tiled())
    runner.on_tile = lambda number: rig.engine.stop(0) and None
    rig.engine.start()
    rig.wait_stopped()
    rig.wait_ended()
    assert isinstance(rig.told.ending(job), Ending)
    assert len(runner.calls_before) < 4
    rig.close()


def test_cancelled_in_the_middle_no_tile_is_drawn_any_more() -> None:
    runner = InTiles(allowed=2)
    rig = Rig(runner, max_rows=3)
    job = rig.post(**tiled(steps=6))
    runner.wait_for_calls(3)
    rig.cancel(job)
    runner.allow_all()
    rig.wait_ended(job)
    assert isinstance(rig.told.ending(job), Cancelled)
    after = rig.post(**tiled(seed=9))
    rig.wait_ended(after)
    assert runner.finished == [9] * 4
    rig.close()


def test_cancelled_while_some_tiles_are_decoded() -> None:
    """What is decoded is thrown away with the rest."""
    runner = InTiles(allowed=100)
    finish = runner.finish

    def finish_and_cancel(drawing: Sketch) -> object:
        rig.engine.cancel(job, CancelReason.REQUESTED)
        return finish(drawing)

    runner.finish = finish_and_cancel
    rig = Rig(runner, start=False)
    job = rig.post(**tiled())
    rig.engine.start()
    rig.wait_ended(job)
    assert isinstance(rig.told.ending(job), Cancelled)
    assert len(runner.finished) == 1
    rig.close()


def test_a_picture_in_tiles_lets_others_in() -> None:
    runner = InTiles(allowed=1)
    rig = Rig(runner, max_rows=4)
    jobs = [rig.post(**tiled()) for _ in range(2)]
    runner.wait_for_calls(2)
    assert {seed for call in runner.calls for seed, _ in call} == {1, 2}
    runner.allow_all()
    rig.wait_ended(*jobs)
    rig.close()


def test_a_crowd_of_tiles_makes_no_other_picture_wait() -> None:
    """They share its calls, and are many more than there are rows."""
    runner = MakesTilesOneByOne()
    rig = Rig(runner, max_rows=3, start=False)  # two of them do not fit
    neighbour = rig.post(width=64, height=64, steps=10_000, seed=1, guidance_scale=5.0)
    job = rig.post(**tiled(width=112, height=112, num_images=3, steps=5, seed=2, guidance_scale=5.0))
    runner.allow_all()
    rig.engine.start()
    rig.wait_ended(job)
    rig.cancel(neighbour)
    assert all(len(call) == 1 for call in runner.calls)
    seeds = [seed for call in runner.calls for seed, _ in call]
    first, last = seeds.index(2), len(seeds) - seeds[::-1].index(4)
    waits = [len(list(run)) for seed, run in groupby(seeds[first:last], lambda seed: seed == 1) if not seed]
    assert sum(waits) == 4 * 3 * 5
    assert max(waits) <= 2 * OLDEST_FIRST_EVERY
    rig.close()


def sketch(key: str, **changes: object) -> Sketch:
    usual = {"rows": 2, "pixels": 64, "index": 0, "seed": 0, "steps": 100, "width": 8, "height": 8}
    return Sketch(key=key, **usual | changes)  # type: ignore[arg-type]


def test_many_tiles_have_the_share_of_one_picture() -> None:
    batching = Batching()
    tiles, other = [sketch("tile", tiles=25) for _ in range(25)], sketch("other")
    calls = []
    for turn in range(90):
        batch = batching.choose([*tiles, other], lambda key, pixels: 10)
        for one in batch:
            one.step, one.turn = one.step + 1, turn
        calls.append(batch[0].key)
        if other.done:
            break
    tile_calls, other_calls = calls.count("tile"), calls.count("other")
    assert abs(5 * tile_calls - other_calls) <= 6, "a call of five tiles costs five times as much"


class RunsAhead(InTiles):
    """The first tile does all its steps in its first call, as samplers of two calls a step let some run ahead."""

    def step(self, batch: Sequence[Sketch]) -> None:
        super().step(batch)
        for drawing in batch:
            if drawing.tile is not None and (drawing.tile.top, drawing.tile.left) == (0, 0):
                drawing.step = drawing.steps


def test_a_preview_has_all_tiles_also_where_one_runs_ahead() -> None:
    rig = Rig(RunsAhead(allowed=100))
    job = rig.post(**tiled(preview=PREVIEW))
    rig.wait_ended(job)
    previews = rig.told.only(job, Preview)
    assert [(one.step, one.width, one.height) for one in previews] == [(1, 32, 32), (2, 32, 32)]
    assert rig.completed(job)
    rig.close()
