"""Which drawings step together."""

from __future__ import annotations

import random
from collections.abc import Hashable

from worker.engine.batching import choose
from worker.engine.runner import Drawing


def drawing(key: Hashable = "64x64", *, rows: int = 1, turn: int = 0, step: int = 0, steps: int = 9) -> Drawing:
    return Drawing(key=key, rows=rows, index=0, seed=0, steps=steps, step=step, turn=turn)


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


def test_nobody_starves_whatever_the_mix() -> None:
    chance = random.Random(0)
    for _ in range(50):
        rows = chance.choice([1, 2, 4, 16])
        drawings = [drawing(chance.choice("abc"), rows=chance.choice([1, 2]), steps=10**6) for _ in range(12)]
        for turn in range(1, 60):
            batch = choose(drawings, rows)
            assert len({one.key for one in batch}) == 1
            assert len(batch) == 1 or sum(one.rows for one in batch) <= rows
            for one in batch:
                one.step, one.turn = one.step + 1, turn
            # Never longer than if each of the twelve went alone, and the three keys one after the other.
            assert turn - min(one.turn for one in drawings) <= len(drawings)
