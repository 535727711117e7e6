"""How many rows a model call may have, on devices that are full sooner or later."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from worker.engine.rows import LONGEST_CALL_S, MOST_ROWS, PAUSES_S, UNMEASURED_ROWS, RowLimit


def measure(seconds: Callable[[int], float]) -> tuple[RowLimit, list[int], list[int]]:
    """A limit that measured a device which takes `seconds` for so many rows; what was timed, what it told."""
    told: list[int] = []
    timed: list[int] = []
    limit = RowLimit(native_pixels=100, on_measured=told.append)
    while (rows := limit.wanted) is not None:
        cold = rows not in timed
        timed.append(rows)
        limit.timed(rows, seconds(rows) + 0.050 * cold)
    return limit, list(dict.fromkeys(timed)), told


@pytest.mark.parametrize(
    ("seconds", "pays"),
    [
        (lambda rows: 0.010 * rows, 2),  # full with one picture
        (lambda rows: 0.010 + 0.0001 * rows, MOST_ROWS),  # never full
        (lambda rows: 0.010 * max(1.0, rows / 16), 16),  # full with sixteen rows
        (lambda rows: 0.010 * rows * (1.0 if rows < 16 else 1.3), 2),  # slower when it is overfull
    ],
)
def test_the_fewest_rows_that_bring_the_best_rate_are_enough(seconds: Callable[[int], float], pays: int) -> None:
    limit, timed, told = measure(seconds)
    assert limit.usual == pays
    assert told == [pays]
    assert timed == [2 * 2**k for k in range(len(timed))]


def test_measuring_never_makes_a_call_that_is_likely_to_be_long() -> None:
    _, timed, _ = measure(lambda rows: 0.020 * rows * 0.7 ** (rows.bit_length()))
    assert all(0.020 * rows * 0.7 ** (rows.bit_length()) <= 1.2 * LONGEST_CALL_S for rows in timed)
    limit, timed, _ = measure(lambda rows: 30.0 * rows)
    assert (limit.usual, timed) == (2, [2])
    slow = RowLimit(native_pixels=100)
    slow.timed(2, 30.0)
    assert slow.wanted is None, "once is enough"


@pytest.mark.parametrize(("fitting", "most"), [(20, 16), (16, 16), (3, 2), (0, 2), (1000, MOST_ROWS)])
def test_no_call_is_made_that_memory_does_not_hold(fitting: int, most: int) -> None:
    limit = RowLimit(native_pixels=100)
    while (rows := limit.wanted) is not None:
        assert rows <= max(2, fitting)
        limit.timed(rows, 0.010, fitting)
    assert limit.usual == most


def test_a_call_that_cannot_be_made_is_not_made_again() -> None:
    limit = RowLimit(native_pixels=100)
    for rows in (2, 4):
        assert limit.wanted == rows
        limit.timed(rows, 0.010)
    assert limit.wanted == 8
    limit.too_many()
    for rows in (2, 4):
        assert limit.wanted == rows
        limit.timed(rows, 0.010)
    assert (limit.wanted, limit.usual) == (None, 4)
    limit = RowLimit(native_pixels=100)
    limit.too_many()
    assert (limit.wanted, limit.usual) == (None, 2)


def test_until_it_is_measured_there_is_a_usual_number_or_what_is_known() -> None:
    assert RowLimit(native_pixels=100).usual == UNMEASURED_ROWS
    told: list[int] = []
    known = RowLimit(native_pixels=100, known=6, on_measured=told.append)
    assert (known.wanted, known.usual) == (2, 6)
    while (rows := known.wanted) is not None:
        known.timed(rows, 0.010 * max(1.0, rows / 16))
    assert (known.usual, told) == (16, [16])


class Clock:
    """Moved by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_machine_that_was_busy_at_the_start_is_measured_again_later() -> None:
    clock, told = Clock(), list[int]()
    limit = RowLimit(native_pixels=100, on_measured=told.append, clock=clock)

    def measure(slower: Callable[[int], float]) -> list[int]:
        timed = []
        while (rows := limit.wanted) is not None:
            timed.append(rows)
            limit.timed(rows, 0.010 * max(1.0, rows / 16) * slower(rows))
        return timed

    assert measure(lambda rows: 1 if rows < 8 else 5) == [2, 4, 8, 16] * 2
    assert (limit.usual, told) == (4, [4])
    clock.now += PAUSES_S[2] - 1
    assert limit.wanted is None
    clock.now += 1
    assert measure(lambda rows: 1) == [2, 4, 8, 16, *[32] * 3, *[64] * 3]
    assert (limit.usual, told) == (16, [4, 16])
    clock.now += PAUSES_S[3]
    assert set(measure(lambda rows: 7)) == {2, 4, 8, 16, 32, 64}, "the quickest call counts"
    assert (limit.usual, told) == (16, [4, 16])
    clock.now += 1e6
    assert limit.wanted is None


def test_calls_of_jobs_show_that_the_machine_was_busy_when_rows_were_measured() -> None:
    clock, told = Clock(), list[int]()
    limit = RowLimit(native_pixels=100, on_measured=told.append, clock=clock)

    def measure(slower: float) -> None:
        while (rows := limit.wanted) is not None:
            limit.timed(rows, 0.010 * max(1.0, rows / 16) * slower)

    measure(40)
    assert (limit.usual, told) == (2, [2])
    limit.made(2, 100, 0.2)
    limit.made(2, 50, 0.010)
    limit.made(1, 100, 0.010)
    assert (limit.usual, limit.wanted) == (2, None), "slower than that, smaller or of fewer rows: it shows nothing"
    limit.made(2, 100, 0.012)
    assert (limit.usual, told) == (UNMEASURED_ROWS, [2, UNMEASURED_ROWS])
    limit.made(2, 100, 0.001)
    assert told == [2, UNMEASURED_ROWS], "there is nothing to compare it with"
    measure(1)
    assert (limit.usual, told) == (16, [2, UNMEASURED_ROWS, 16])


def on_a_device_full_at_16(limit: RowLimit, holds: int = MOST_ROWS) -> list[int]:
    """What is timed until nothing is wanted for now, on a device with memory for so many rows."""
    timed = []
    while (rows := limit.wanted) is not None:
        timed.append(rows)
        if rows <= holds:
            limit.timed(rows, 0.010 * max(1, rows / 16))
        else:
            limit.too_many()
    return timed


@pytest.mark.parametrize(("known", "meanwhile"), [(None, 2), (8, 8)])
def test_where_not_even_the_smallest_call_could_be_made_it_is_tried_again_later(
    known: int | None, meanwhile: int
) -> None:
    clock, told = Clock(), list[int]()
    limit = RowLimit(native_pixels=100, known=known, on_measured=told.append, clock=clock)
    assert on_a_device_full_at_16(limit, holds=0) == [2]
    assert (limit.usual, told) == (meanwhile, [])
    clock.now += PAUSES_S[2]
    assert set(on_a_device_full_at_16(limit)) == {2, 4, 8, 16, 32, 64}
    assert (limit.usual, told) == (16, [16])


def test_what_was_measured_outlives_a_smallest_call_that_could_not_be_made() -> None:
    clock, told = Clock(), list[int]()
    limit = RowLimit(native_pixels=100, on_measured=told.append, clock=clock)
    on_a_device_full_at_16(limit)
    for pause_s in PAUSES_S[2:]:
        clock.now += pause_s
        assert on_a_device_full_at_16(limit, holds=0) == [2]
    clock.now += 1e6
    assert (limit.wanted, limit.usual, told) == (None, 16, [16])


def test_memory_that_others_had_at_the_start_is_seen_to_be_free_later() -> None:
    clock, told = Clock(), list[int]()
    limit = RowLimit(native_pixels=100, on_measured=told.append, clock=clock)
    on_a_device_full_at_16(limit, holds=4)
    assert (limit.usual, told) == (4, [4])
    clock.now += PAUSES_S[2]
    on_a_device_full_at_16(limit)
    assert (limit.usual, told) == (16, [4, 16])


def test_a_call_of_larger_pictures_is_full_with_fewer_rows() -> None:
    limit = RowLimit(native_pixels=100, known=16)
    assert [limit.of("any", pixels) for pixels in (25, 100, 400, 10_000)] == [64, 16, 4, 2]


def test_a_call_takes_longer_than_usual_with_larger_pictures_and_not_with_smaller_ones() -> None:
    limit = RowLimit(native_pixels=100, known=16)
    assert [limit.times_usual(rows, pixels) for rows, pixels in ((16, 100), (64, 25), (2, 25))] == [1, 1, 1]
    assert limit.times_usual(4, 400) == 4 / 16 * 4**2
    assert RowLimit(4, native_pixels=100).times_usual(4, 400) == 4**2
    assert RowLimit(4).times_usual(4, 400) == 1, "where nobody knows what is large"


def test_the_operators_word_holds_for_every_size_and_is_never_measured() -> None:
    limit = RowLimit(6)
    assert limit.wanted is None
    assert [limit.of("any", pixels) for pixels in (25, 10_000)] == [6, 6]


def test_what_did_not_fit_into_memory_is_remembered_for_its_key_alone() -> None:
    limit = RowLimit(8)
    limit.overflowed("large", 4)
    assert [limit.of(key, 100) for key in ("large", "small")] == [4, 8]
