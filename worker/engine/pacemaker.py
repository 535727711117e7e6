"""How long steps take by their rows, and decodings: measured as they happen, the newest counting most."""

from __future__ import annotations

from worker.jobs.engine import Pace

FORGETTING = 0.97
"""What an observation still counts after the next one: about the last thirty matter."""


class Pacemaker:
    """Fits seconds = base + rows x share to the steps seen, by weighted least squares."""

    def __init__(self) -> None:
        self._weight = self._rows = self._seconds = self._rows_rows = self._rows_seconds = 0.0
        self._decode_s = 0.0

    def stepped(self, rows: int, seconds: float) -> None:
        """One model call over `rows` rows."""
        self._weight = FORGETTING * self._weight + 1
        self._rows = FORGETTING * self._rows + rows
        self._seconds = FORGETTING * self._seconds + seconds
        self._rows_rows = FORGETTING * self._rows_rows + rows * rows
        self._rows_seconds = FORGETTING * self._rows_seconds + rows * seconds

    def decoded(self, seconds: float) -> None:
        """One image."""
        self._decode_s += (seconds - self._decode_s) * (0.1 if self._decode_s else 1.0)

    def pace(self, call_rows: int) -> Pace | None:
        """As seen so far, for calls of up to `call_rows`; None before the first step."""
        if not self._weight:
            return None
        mean_rows, mean_s = self._rows / self._weight, self._seconds / self._weight
        variance = self._rows_rows / self._weight - mean_rows**2
        covariance = self._rows_seconds / self._weight - mean_rows * mean_s
        # More rows never take less time, nor do none take less than none.
        row_s = min(max(covariance / variance, 0.0), mean_s / mean_rows) if variance > 1e-6 else 0.0
        return Pace(call_rows, mean_s - row_s * mean_rows, row_s, self._decode_s)
