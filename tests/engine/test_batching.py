"""Which drawings step together."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Hashable

from worker.engine.batching import Batching
from worker.engine.runner import Drawing


def drawing(
    key: Hashable = "64x64",
    *,
    rows: int = 1,
    pixels: int = 64,
    turn: int = 0,
    step: int = 0,
    steps: int = 9,
    job_left: int = 0,
) -> Drawing:
    return Drawing(
        key=key, rows=rows, pixels=pixels, index=0, seed=0, steps=steps, step=step, turn=turn, job_left=job_left
    )


def choose(drawings: list[Drawing], max_rows: int) -> list[Drawing]:
    """As an engine that has just started."""
    return Batching().choose(drawings, lambda key, pixels: max_rows)


def calls_by_key(drawings: list[Drawing], calls: int, max_rows: int = 64) -> Counter[Hashable]:
    """How often each key stepped within `calls` model calls."""
    batching, counted = Batching(), Counter[Hashable]()
    for turn in range(1, calls + 1):
        batch = batching.choose(drawings, lambda key, pixels: max_rows)
        counted[batch[0].key] += 1
        for one in batch:
            one.turn = turn
    return counted


def test_nothing_to_draw_makes_no_batch() -> None:
    assert choose([], 8) == []
    assert choose([drawing(step=9)], 8) == [], "what is done does not step"


def test_drawings_of_one_key_share_a_call_up_to_the_rows() -> None:
    one, two, three = (drawing(rows=2) for _ in range(3))
    assert choose([one, two, three], 4) == [one, two]
    assert choose([one, two, three], 5) == [one, two]
    assert choose([one, two, three], 6) == [one, two, three]


def test_whoever_waited_longest_decides_the_key() -> None:
    recent, longest, same = drawing("a", turn=5), drawing("b", turn=2), drawing("b", turn=7)
    assert choose([recent, longest, same], 8) == [longest, same]


def test_the_first_always_fits() -> None:
    large, small = drawing(rows=9), drawing(turn=1)
    assert choose([large, small], 4) == [large]


def test_a_smaller_one_takes_the_room_that_a_larger_one_cannot_use() -> None:
    first, large, small = drawing(rows=2), drawing(rows=2, turn=1), drawing(turn=2)
    assert choose([first, large, small], 3) == [first, small]


def test_among_equals_those_that_are_behind_go_first() -> None:
    ahead, behind = drawing(step=3, turn=4), drawing(step=2, turn=4)
    assert choose([ahead, behind], 1) == [behind]


def test_where_not_all_fit_a_newcomer_goes_first_and_then_whoever_has_least_left() -> None:
    long, short, new = (
        drawing(step=3, turn=1, job_left=40),
        drawing(step=3, turn=5, job_left=2),
        drawing(turn=6, job_left=50),
    )
    assert choose([long, short, new], 1) == [new]
    assert choose([long, short, new], 2) == [new, short]
    assert choose([long, short], 1) == [short]


def test_equal_jobs_end_one_after_the_other_and_each_has_its_part_meanwhile() -> None:
    """Four jobs of 40 steps where a call takes one: the first is done long before the last, and none stands still."""
    drawings = [drawing(steps=40) for _ in range(4)]
    batching, ended, stood = Batching(), [], 0
    for turn in range(1, 161):
        for one in drawings:
            one.job_left = one.steps - one.step
        (one,) = batching.choose(drawings, lambda key, pixels: 1)
        one.step, one.turn = one.step + 1, turn
        stood = max([stood, *(turn - other.turn for other in drawings if not other.done)])
        if one.done:
            ended.append(turn)
    assert ended[0] <= 60
    assert ended[-1] == 160
    assert sum(ended) / 4 <= 120, "together they would all end near 160"
    assert stood <= 4 * 4 + 1


def test_a_size_that_costs_sixteen_times_as_much_steps_a_sixteenth_as_often() -> None:
    small, large = drawing("small", pixels=64, steps=10**6), drawing("large", pixels=16 * 64, steps=10**6)
    assert calls_by_key([small, large], 170) == {"small": 160, "large": 10}


def test_a_picture_among_many_of_another_size_gets_its_own_share_and_not_half() -> None:
    """All eight get an equal part: seven of them in one call, so both sizes are called alike."""
    many = [drawing("many", steps=10**6) for _ in range(7)]
    assert calls_by_key([*many, drawing("one", steps=10**6)], 100) == {"many": 50, "one": 50}
    # Where a call takes only one, seven calls bring the many what one call brings the one.
    assert calls_by_key([*many, drawing("one", steps=10**6)], 80, max_rows=1) == {"many": 70, "one": 10}


def test_whoever_comes_new_neither_waits_for_the_past_nor_is_paid_for_it() -> None:
    batching, old = Batching(), [drawing("old", steps=10**6)]
    for turn in range(100):
        old[0].turn = turn
        batching.choose(old, lambda key, pixels: 64)
    both = [*old, drawing("new", turn=99, steps=10**6)]
    following = [batching.choose(both, lambda key, pixels: 64)[0].key for _ in range(10)]
    assert Counter(following) == {"old": 5, "new": 5}
    for _ in range(20):
        batching.choose(both[:1], lambda key, pixels: 64)
    back = [batching.choose(both, lambda key, pixels: 64)[0].key for _ in range(10)]
    assert Counter(back) == {"old": 5, "new": 5}, "being away saves nothing up"


def test_each_key_has_rows_of_its_own() -> None:
    drawings = [drawing("a"), drawing("a"), drawing("a")]
    assert len(Batching().choose(drawings, lambda key, pixels: {"a": 2, "b": 1}[key])) == 2  # type: ignore[index]


def test_nobody_starves_whatever_the_mix() -> None:
    chance = random.Random(0)
    for _ in range(50):
        rows = chance.choice([1, 2, 4, 16])
        drawings = [drawing(chance.choice("abc"), rows=chance.choice([1, 2]), steps=10**6) for _ in range(12)]
        batching = Batching()
        for turn in range(1, 60):
            batch = batching.choose(drawings, lambda key, pixels, rows=rows: rows)  # type: ignore[misc]
            assert len({one.key for one in batch}) == 1
            assert len(batch) == 1 or sum(one.rows for one in batch) <= rows
            for one in batch:
                one.step, one.turn = one.step + 1, turn
            # Never longer than if every row went alone, and the three keys one after the other.
            assert turn - min(one.turn for one in drawings) <= sum(one.rows for one in drawings) + 3
