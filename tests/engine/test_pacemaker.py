"""The pace is what was seen lately, at every number of rows."""

from __future__ import annotations

import random

import pytest

from worker.engine.pacemaker import Pacemaker
from worker.jobs.engine import Pace


def test_nothing_is_known_before_the_first_step() -> None:
    assert Pacemaker().pace(16) is None


def test_one_number_of_rows_says_nothing_of_others() -> None:
    maker = Pacemaker()
    for _ in range(5):
        maker.stepped(4, 0.2)
    assert maker.pace(16) == Pace(16, pytest.approx(0.2), 0.0, pytest.approx(0.2))


def test_the_share_of_a_row_is_found_under_noise() -> None:
    maker, rng = Pacemaker(), random.Random(1)
    for _ in range(200):
        rows = rng.choice((2, 4, 8, 16))
        maker.stepped(rows, (0.02 + 0.005 * rows) * rng.uniform(0.9, 1.1))
    pace = maker.pace(16)
    assert pace is not None
    for rows in (2, 8, 16):
        assert pace.step_s(rows) == pytest.approx(0.02 + 0.005 * rows, rel=0.15)
    assert pace.step_s(100) == pace.step_s(16), "a call has no more rows than it may"


def test_the_newest_counts_most() -> None:
    maker = Pacemaker()
    for _ in range(100):
        maker.stepped(8, 0.1)
    for _ in range(60):
        maker.stepped(8, 0.3)
    pace = maker.pace(8)
    assert pace is not None
    assert pace.step_s(8) > 0.26


def test_more_rows_never_take_less_and_none_take_no_less_than_nothing() -> None:
    faster, steeper = Pacemaker(), Pacemaker()
    for rows, seconds in ((2, 0.2), (16, 0.1)):
        faster.stepped(rows, seconds)
    for rows, seconds in ((2, 0.01), (4, 0.2)):
        steeper.stepped(rows, seconds)
    pace = faster.pace(16)
    assert pace is not None
    assert pace.row_s == 0.0
    pace = steeper.pace(16)
    assert pace is not None
    assert pace.base_s == pytest.approx(0.0)


def test_what_small_calls_took_is_still_known_after_many_full_ones() -> None:
    maker, rng = Pacemaker(), random.Random(1)
    for rows in (2, 4, 8):
        for _ in range(2):
            maker.stepped(rows, 0.02 + 0.005 * rows)
    for _ in range(500):
        rows = rng.choice((16, 18))
        maker.stepped(rows, (0.02 + 0.005 * rows) * rng.uniform(0.8, 1.2))
    pace = maker.pace(18)
    assert pace is not None
    assert pace.step_s(16) == pytest.approx(0.1, rel=0.1)
    assert pace.step_s(2) == pytest.approx(0.03, rel=0.4)


def test_the_first_call_of_a_size_is_forgotten_with_the_second() -> None:
    maker = Pacemaker()
    for rows in (2, 4, 16):
        maker.stepped(rows, 1.0)
        for _ in range(3):
            maker.stepped(rows, 0.02 + 0.005 * rows)
    pace = maker.pace(16)
    assert pace is not None
    assert pace.base_s == pytest.approx(0.02, rel=0.01)
    assert pace.row_s == pytest.approx(0.005, rel=0.01)


def test_a_size_called_once_counts_for_next_to_nothing_beside_others() -> None:
    maker = Pacemaker()
    maker.stepped(2, 1.0)
    for _ in range(300):
        maker.stepped(16, 0.1)
    pace = maker.pace(16)
    assert pace is not None
    assert pace.step_s(16) == pytest.approx(0.1, rel=0.01)


def test_decodings_are_averaged() -> None:
    maker = Pacemaker()
    maker.stepped(2, 0.1)
    for _ in range(20):
        maker.decoded(0.05)
    pace = maker.pace(16)
    assert pace is not None
    assert pace.decode_s == pytest.approx(0.05)


def test_a_decoding_is_thought_to_take_a_step_of_one_image_until_there_was_one() -> None:
    maker = Pacemaker()
    for rows in (2, 8):
        for _ in range(3):
            maker.stepped(rows, 0.1 + 0.05 * rows)
    pace = maker.pace(8)
    assert pace is not None
    assert pace.decode_s == pytest.approx(0.2)
    maker.decoded(0.03)
    pace = maker.pace(8)
    assert pace is not None
    assert pace.decode_s == 0.03
