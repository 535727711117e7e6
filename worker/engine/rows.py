"""How many rows one model call may have: what the operator said, or what pays, found by timing ever larger calls.

Knows rows, pixels and seconds; no tensor and no job.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable

UNMEASURED_ROWS = 16
"""Until there was time to measure."""
LEAST_ROWS = 2
"""One image with guidance."""
MOST_ROWS = 256
LONGEST_CALL_S = 0.5
"""No call is timed that is likely to take longer: a job may come in the middle of it."""
PAUSES_S = (0.0, 0.0, 60.0, 600.0)
"""Before each round through all numbers of rows, of which the quickest call counts: the first finds kernels and memory,
and a machine that had something else to do when the worker started is seen again later."""
SETTLED_AFTER = 2
"""Rounds."""
PAYS = 0.97
"""The fewest rows that reach this share of the best rate are enough: more of them make each step longer for everyone
and no picture sooner."""
OTHERWISE = 3
"""A call of a job that takes this part of the time of the quickest timed one was not made by the same machine: it had
something else to do when rows were measured."""
STILL_RISING = 1.03
"""Two doublings in a row that bring less than this are the end of what the device gives."""


class RowLimit:
    """`fixed` is the operator's word. Otherwise rows are measured; until then it is what was `known` at the start.

    What is measured holds for pictures of `native_pixels`, the model's own size where that is known; a call of larger
    pictures is full with fewer rows.
    `on_measured` hears of it when it is known, and when it is known better. `clock` counts seconds. `padded`: every
    call computes all its rows, so that one with fewer would need no less memory.
    """

    def __init__(
        self,
        fixed: int | None = None,
        *,
        padded: bool = False,
        native_pixels: int | None = None,
        known: int | None = None,
        on_measured: Callable[[int], None] = lambda rows: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.padded = padded
        self._fixed = fixed
        self.native_pixels = native_pixels
        self._measured = known
        self._on_measured = on_measured
        self._clock = clock
        self._tries: dict[int, list[float]] = {}
        self._round = 1
        self._next: int | None = LEAST_ROWS
        self._not_before = clock()
        self._holds = MOST_ROWS
        self._fitting: dict[Hashable, int] = {}

    @property
    def usual(self) -> int:
        """Rows in a call of pictures of the model's own size."""
        return self._fixed or self._measured or UNMEASURED_ROWS

    def of(self, key: Hashable, pixels: int) -> int:
        """Rows in a call of drawings of this key, each row of `pixels`."""
        rows = self.usual
        if self._fixed is None and self.native_pixels is not None:
            rows = max(LEAST_ROWS, rows * self.native_pixels // pixels)
        return min(rows, self._fitting.get(key, rows))

    def times_usual(self, rows: int, pixels: int) -> float:
        """How many times as long as a usual call one over so many rows of `pixels` takes at most: attention grows with
        their square. Not less than 1."""
        return max(1.0, rows / self.usual * (pixels / (self.native_pixels or pixels)) ** 2)

    def overflowed(self, key: Hashable, fitting: int) -> None:
        """A call ran out of memory; from now on there are at most `fitting` rows in one of that key."""
        self._fitting[key] = fitting

    def freed(self) -> None:
        """What took memory beside the calls is gone: what ran out of it is tried again."""
        self._fitting.clear()

    @property
    def wanted(self) -> int | None:
        """How many rows the next timed call should have; None while there is nothing to learn."""
        return None if self._fixed or self._clock() < self._not_before else self._next

    def timed(self, rows: int, seconds: float, fitting: int | None = None) -> None:
        """A call over `rows` rows of the model's own size took so long; `fitting` rows would fit into memory."""
        if fitting is not None:
            self._holds = max(LEAST_ROWS, fitting)
        self._tries.setdefault(rows, []).append(seconds)
        self._go_on()

    def made(self, rows: int, pixels: int, seconds: float) -> None:
        """A call of jobs over `rows` rows of `pixels` took so long. Where that shows that the machine was busy when it
        was measured, nothing is known of it any more."""
        tries = self._tries.get(rows)
        if not tries or pixels != self.native_pixels or OTHERWISE * seconds > min(tries):
            return
        self._tries, self._round, self._next = {}, 1, LEAST_ROWS
        self._not_before, self._holds = self._clock(), MOST_ROWS
        if self._measured is not None:
            self._measured = None
            self._on_measured(self.usual)

    def too_many(self) -> None:
        """The call that was wanted cannot be made. Where that is the smallest, something else has the memory, and
        nothing is learnt before a later round."""
        failed = self._next or LEAST_ROWS
        if failed == LEAST_ROWS:
            self._measured = self._measured or LEAST_ROWS
            self._round = max(self._round, SETTLED_AFTER)
            self._begin_round()
            return
        self._tries = {rows: tries for rows, tries in self._tries.items() if rows < failed}
        self._holds = min(self._holds, max(self._tries))
        self._go_on()

    def _go_on(self) -> None:
        """Each number once more in each round, and more rows while they bring more."""
        best = {rows: min(tries) for rows, tries in self._tries.items()}
        short = [rows for rows, seconds in best.items() if seconds <= LONGEST_CALL_S]
        while not (due := [rows for rows in short if len(self._tries[rows]) < self._round]):
            if self._may_rise(best):
                self._next = 2 * max(best)
                return
            if self._round >= SETTLED_AFTER:
                self._settle(best)
            if not self._begin_round():
                return
        self._next = min(due, key=lambda rows: (len(self._tries[rows]), rows))

    def _begin_round(self) -> bool:
        """False if there is none to come."""
        if self._round == len(PAUSES_S):
            self._next = None
            return False
        if pause_s := PAUSES_S[self._round]:
            self._not_before = self._clock() + pause_s
            self._holds = MOST_ROWS  # what had the rest of the memory may have let go of it
        self._round += 1
        return True

    def _may_rise(self, best: dict[int, float]) -> bool:
        rates = [rows / seconds for rows, seconds in best.items()]
        flat = len(rates) >= 3 and max(rates[-2:]) < STILL_RISING * max(rates[:-2])
        most = max(best)
        return not flat and 2 * best[most] <= LONGEST_CALL_S and 2 * most <= min(MOST_ROWS, self._holds)

    def _settle(self, best: dict[int, float]) -> None:
        rates = {rows: rows / seconds for rows, seconds in best.items()}
        pays = min(rows for rows, rate in rates.items() if rate >= PAYS * max(rates.values()))
        measured = min(pays, self._holds)
        if measured != self._measured or self._round == SETTLED_AFTER:
            self._measured = measured
            self._on_measured(measured)
