"""When to try again, and when no more; knows neither HTTP nor jobs, and waits for nothing itself."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

FIRST_S, LONGEST_S = 0.25, 10.0
SPREAD = 0.25
"""Clients that were given the same time come back within a quarter of it, not all at once."""


class Patience:
    """Bears `limit_s` seconds without a sign of life.

    What the other side asks for is kept to; else the wait is drawn from up to 0.25, 0.5, 1, … 10 seconds (full jitter:
    Brooker, "Exponential Backoff And Jitter", 2015).
    """

    def __init__(self, limit_s: float, now: Callable[[], float] = time.monotonic) -> None:
        self._limit_s = limit_s
        self._now = now
        self._away_since: float | None = None
        self._tries = 0

    def refreshed(self) -> None:
        """There was a sign of life."""
        self._away_since, self._tries = None, 0

    def heard(self) -> None:
        """There was a sign of life, but nothing that is new: the next waits are no shorter for it."""
        self._away_since = None

    def wait_s(self, asked_s: float | None = None) -> float | None:
        """Seconds until the next try; None if that would be too late."""
        now = self._now()
        if self._away_since is None:
            self._away_since = now
        if asked_s is None:
            wait_s = random.uniform(0, min(LONGEST_S, FIRST_S * 2**self._tries))
        else:
            wait_s = asked_s * random.uniform(1, 1 + SPREAD)
        self._tries = min(self._tries + 1, 30)  # 2 to the power of it stays a number
        return wait_s if now + (asked_s or 0.0) - self._away_since <= self._limit_s else None
