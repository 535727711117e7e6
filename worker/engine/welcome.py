"""Whether a newcomer's first call is its own: where it would come too late with everybody, and within a budget.

Knows rows and seconds; no key and no tensor.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from worker.engine.runner import D, Drawing
from worker.jobs.engine import Pace

SHARE = 0.04
"""So much of the device's time may go into calls for newcomers alone; each costs what a call does whatever its rows,
less the part of that which these rows have in everybody's."""
SAVED = 6.0
"""So many of them in a row, where none was needed for a while."""
EARLY, HARDLY, LATE = 1.9, 1.6, 3.0
"""A client should see its first step within twice the time of a call, counted from its post. Who would see it earlier
than the first needs no help (between that and two lie the network and calls that take longer than most), or than the
second where all is saved that can be; who would see it later than the third waited for a place, not for a call, and no
call makes that good."""
WORTH = 0.6
"""A call for newcomers alone takes at most so much of everybody's."""
TRIES = 3
"""So many are made, whatever is saved, although small calls do not seem to be quicker: a worker that was full from its
start on does not know, and learns it by them."""


class Welcome:
    """`share` of the device's time may be spent; with 0 nobody has a call of its own."""

    def __init__(self, share: float = SHARE) -> None:
        self._share = share
        self._saved_s = math.inf  # nobody has come yet
        self._tries = TRIES

    def chosen(self, batch: list[D], newcomers: Sequence[D], pace: Pace | None, now: float) -> list[D]:
        """`newcomers` if one of them, taken up at its `since`, should not wait for all of `batch`; else `batch`.

        `pace` is how long calls take, None if that is not known; `now` is on the monotonic clock.
        """
        if pace is None:
            return batch
        most_s = SAVED * pace.base_s
        self._saved_s = min(self._saved_s, most_s)
        cost_s = pace.base_s * (1 - rows_of(newcomers) / rows_of(batch))
        if self._share and cost_s > 0.0 and self._alone(batch, newcomers, pace, now, cost_s):
            self._saved_s = max(0.0, self._saved_s - cost_s)
            return list(newcomers)
        self._saved_s = min(self._saved_s + self._share * pace.step_s(rows_of(batch)), most_s)
        return batch

    def _alone(self, batch: Sequence[D], newcomers: Sequence[D], pace: Pace, now: float, cost_s: float) -> bool:
        step_s = pace.step_s(rows_of(batch))
        early = EARLY - (EARLY - HARDLY) * min(1.0, self._saved_s / (SAVED * pace.base_s))
        if not any(early * step_s < now - one.since + step_s < LATE * step_s for one in newcomers):
            return False
        if pace.step_s(rows_of(newcomers)) <= WORTH * step_s:
            return cost_s <= self._saved_s
        self._tries -= 1
        return self._tries >= 0


def rows_of(drawings: Sequence[Drawing]) -> int:
    """What they take up in one call."""
    return sum(one.rows for one in drawings)
