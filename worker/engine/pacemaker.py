"""How long steps take by their rows, and decodings: measured as they happen, the newest counting most."""

from __future__ import annotations

from dataclasses import dataclass

from worker.jobs.engine import Pace

FORGETTING = 0.97
"""What an observation still counts after the next one: about the last thirty matter."""
REMEMBERED = 8.0
"""The least that a number of rows counts which was seen at all: a full worker still knows what small calls took."""
COLD = 1e-3
"""What the first call of a size counts, until there is a second: libraries choose and prepare their kernels in it."""
UNSEEN_DECODE_ROWS = 2
"""Until there was a decoding: it is about as much work as a step of one image with guidance, in every family."""


@dataclass(slots=True)
class _Seen:
    mean_s: float
    weight: float = COLD
    cold: bool = True


class Pacemaker:
    """Fits seconds = base + rows x share to the steps seen, by weighted least squares."""

    def __init__(self) -> None:
        self._seen: dict[int, _Seen] = {}
        self._decode_s = 0.0

    def stepped(self, rows: int, seconds: float) -> None:
        """One model call over `rows` rows."""
        for seen in self._seen.values():
            seen.weight = max(COLD if seen.cold else REMEMBERED, FORGETTING * seen.weight)
        known = self._seen.get(rows)
        if known is None or known.cold:
            self._seen[rows] = _Seen(seconds) if known is None else _Seen(seconds, weight=1.0, cold=False)
            return
        known.weight += 1
        known.mean_s += (seconds - known.mean_s) / known.weight

    def decoded(self, seconds: float) -> None:
        """One image."""
        self._decode_s += (seconds - self._decode_s) * (0.1 if self._decode_s else 1.0)

    def pace(self, call_rows: int) -> Pace | None:
        """As seen so far, for calls of up to `call_rows`; None before the first step."""
        if not self._seen:
            return None
        weight = mean_rows = mean_s = 0.0
        for rows, seen in self._seen.items():
            weight += seen.weight
            mean_rows += seen.weight * rows
            mean_s += seen.weight * seen.mean_s
        mean_rows, mean_s = mean_rows / weight, mean_s / weight
        variance = covariance = 0.0
        for rows, seen in self._seen.items():
            variance += seen.weight * (rows - mean_rows) ** 2
            covariance += seen.weight * (rows - mean_rows) * (seen.mean_s - mean_s)
        # More rows never take less time, nor do none take less than none.
        row_s = min(max(covariance / variance, 0.0), mean_s / mean_rows) if variance else 0.0
        base_s = mean_s - row_s * mean_rows
        return Pace(call_rows, base_s, row_s, self._decode_s or base_s + UNSEEN_DECODE_ROWS * row_s)
