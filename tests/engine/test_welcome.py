"""A newcomer that would see its first step too late has its first call for itself, within a budget."""

from __future__ import annotations

import pytest

from worker.engine.batching import Batching
from worker.engine.runner import Drawing
from worker.engine.welcome import SAVED, SHARE, TRIES
from worker.jobs.engine import Pace

PACE = Pace(call_rows=18, base_s=0.1, row_s=0.05, decode_s=0.0)
"""A call of eight jobs takes 0.9 s, 0.1 s of that whatever its rows; one with the newcomer 1.0 s."""


def drawing(step: int = 0, since: float = 0.0) -> Drawing:
    return Drawing(key="64x64", rows=2, pixels=64, index=0, seed=0, steps=50, step=step, since=since)


class Crowd:
    """Eight jobs under way, and the engine's choice at times that a test names."""

    def __init__(self, pace: Pace = PACE) -> None:
        self._pace = pace
        self._batching = Batching()
        self._crowd = [drawing(step=3) for _ in range(8)]

    def saved(self, calls: int) -> Crowd:
        """After so many calls that nobody came to."""
        for _ in range(calls):
            assert self.call(now=0.0) == 8
        return self

    def spent(self) -> Crowd:
        """After so many newcomers that nothing is left of what was saved."""
        while self.call(drawing(), now=0.95) == 1:
            pass
        return self

    def call(self, *newcomers: Drawing, now: float) -> int:
        """How many drawings step next."""
        batch = self._batching.choose([*self._crowd, *newcomers], lambda key, pixels: 18, self._pace, now)
        assert set(map(id, newcomers)) <= set(map(id, batch))
        return len(batch)


def test_who_came_early_in_the_last_call_has_the_next_one_alone_and_then_goes_with_all() -> None:
    crowd, new = Crowd().saved(20), drawing()
    assert crowd.call(new, now=0.8) == 1
    new.step = 1
    assert crowd.call(new, now=1.0) == 9


@pytest.mark.parametrize("waited_s", [0.1, 0.5, 2.0, 600.0])
def test_who_is_in_time_or_waited_for_a_place_goes_with_all(waited_s: float) -> None:
    assert Crowd().saved(20).call(drawing(), now=waited_s) == 9


def test_newcomers_go_together() -> None:
    assert Crowd().saved(20).call(drawing(since=0.7), drawing(), now=0.8) == 2


def test_a_worker_that_has_just_started_has_saved_all_that_can_be() -> None:
    crowd, welcomed = Crowd(), 0
    while crowd.call(drawing(), now=0.95) == 1:
        welcomed += 1
    assert 1 < welcomed <= SAVED + 2


def test_where_it_seems_to_take_nearly_as_long_as_everybody_that_is_tried_a_few_times_and_left() -> None:
    crowd = Crowd(Pace(call_rows=18, base_s=0.8, row_s=0.005, decode_s=0.0))
    alone = [crowd.saved(200).call(drawing(), now=0.8) == 1 for _ in range(2 * TRIES)]
    assert alone == [True] * TRIES + [False] * TRIES


def test_that_is_tried_whatever_is_saved() -> None:
    crowd = Crowd(Pace(call_rows=18, base_s=0.8, row_s=0.005, decode_s=0.0))
    assert [crowd.call(drawing(), now=0.85) for _ in range(TRIES + 1)] == [1] * TRIES + [9]


@pytest.mark.parametrize(("calls", "waited_s", "stepping"), [(2, 0.8, 9), (2, 0.95, 1), (20, 0.8, 1), (20, 0.5, 9)])
def test_the_less_is_saved_the_later_it_must_be(calls: int, waited_s: float, stepping: int) -> None:
    assert Crowd().spent().saved(calls).call(drawing(), now=waited_s) == stepping


def test_not_before_calls_were_timed() -> None:
    crowd = [drawing(step=3) for _ in range(8)]
    assert len(Batching().choose([*crowd, drawing()], lambda key, pixels: 18, None, 0.8)) == 9


def test_however_many_come_it_costs_no_more_than_its_share() -> None:
    crowd, alone_s, all_s = Crowd(), 0.0, 0.0
    for _ in range(1000):
        drawings = crowd.call(drawing(), now=0.8)
        all_s += PACE.step_s(2 * drawings)
        alone_s += PACE.base_s if drawings == 1 else 0.0
    assert 0.5 * SHARE < alone_s / all_s <= 1.1 * SHARE


def test_what_is_saved_is_bounded() -> None:
    crowd, welcomed = Crowd().saved(2000), 0
    while crowd.call(drawing(), now=0.8) == 1:
        welcomed += 1
    assert welcomed <= SAVED + 1
