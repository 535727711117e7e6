"""How many rows one model call may have: what the operator said, or what pays, found by timing ever larger calls.

Knows rows, pixels and seconds; no tensor and no job.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable

UNMEASURED_ROWS = 16
"""Until there was time to measure."""
LEAST_ROWS = 2
"""One image with guidance."""
MOST_ROWS = 256
LONGEST_CALL_S = 0.5
"""No call is timed that is likely to take longer: a job may come in the middle of it."""
TRIES = 3
"""Calls of as many rows; the first one, which finds kernels and memory, does not count."""
PAYS = 0.97
"""The fewest rows that reach this share of the best rate are enough: more of them make each step longer for everyone
and no picture sooner."""
STILL_RISING = 1.03
"""Two doublings in a row that bring less than this are the end of what the device gives."""


class RowLimit:
    """`fixed` is the operator's word. Otherwise rows are measured, unless `known` from an earlier start.

    What is measured holds for pictures of `native_pixels`; a call of larger pictures is full with fewer rows.
    `on_measured` hears of it once.
    """

    def __init__(
        self,
        fixed: int | None = None,
        *,
        native_pixels: int = 1,
        known: int | None = None,
        on_measured: Callable[[int], None] = lambda rows: None,
    ) -> None:
        self._fixed = fixed
        self._native_pixels = native_pixels
        self._measured = known
        self._on_measured = on_measured
        self._seconds: dict[int, float] = {}
        self._tries: list[float] = []
        self._holds = MOST_ROWS
        self._fitting: dict[Hashable, int] = {}

    @property
    def usual(self) -> int:
        """Rows in a call of pictures of the model's own size."""
        return self._fixed or self._measured or UNMEASURED_ROWS

    def of(self, key: Hashable, pixels: int) -> int:
        """Rows in a call of drawings of this key, each row of `pixels`."""
        rows = self.usual if self._fixed else max(LEAST_ROWS, self.usual * self._native_pixels // pixels)
        return min(rows, self._fitting.get(key, rows))

    def overflowed(self, key: Hashable, fitting: int) -> None:
        """A call ran out of memory; from now on there are at most `fitting` rows in one of that key."""
        self._fitting[key] = fitting

    @property
    def wanted(self) -> int | None:
        """How many rows the next timed call should have; None when nothing is left to learn."""
        if self._fixed or self._measured:
            return None
        return 2 * max(self._seconds) if self._seconds else LEAST_ROWS

    def timed(self, rows: int, seconds: float, fitting: int | None = None) -> None:
        """A call over `rows` rows of the model's own size took so long; `fitting` rows would fit into memory."""
        if fitting is not None:
            self._holds = max(LEAST_ROWS, fitting)
        self._tries.append(seconds)
        if len(self._tries) < TRIES and seconds <= LONGEST_CALL_S:
            return
        self._seconds[rows] = seconds = min(self._tries[1:] or self._tries)
        self._tries = []
        rates = [rows / seconds for rows, seconds in self._seconds.items()]
        flat = len(rates) >= 3 and max(rates[-2:]) < STILL_RISING * max(rates[:-2])
        if flat or 2 * seconds > LONGEST_CALL_S or 2 * rows > min(MOST_ROWS, self._holds):
            self._settle()

    def too_many(self) -> None:
        """The call that was wanted cannot be made."""
        self._seconds = self._seconds or {LEAST_ROWS: 1.0}
        self._settle()

    def _settle(self) -> None:
        rates = {rows: rows / seconds for rows, seconds in self._seconds.items()}
        pays = min(rows for rows, rate in rates.items() if rate >= PAYS * max(rates.values()))
        self._measured = min(pays, self._holds)
        self._on_measured(self._measured)
