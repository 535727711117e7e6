"""Who steps next: a policy over drawings that knows keys, rows, pixels, steps and turns, and no tensors."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass

from worker.engine.runner import D
from worker.engine.welcome import SHARE, Welcome
from worker.jobs.engine import Pace

OLDEST_FIRST_EVERY = 4
"""One call of a key in so many goes to those that waited longest."""


@dataclass(slots=True)
class _Share:
    had: float
    calls: int = 0


class Batching:
    """Deficit round robin over the keys, with cost = rows x pixels: the key that had least for its rows steps next.

    A key's share of the device goes with the rows it has waiting, so that a picture gets as much of the device's time
    beside others of its size as beside any other sizes. Whoever comes new starts level with the one who had least:
    nobody can save up.

    Within a key, where not all fit into one call, newcomers go first, so that their client sees a step at once, and
    then whoever's job has least left: short jobs pass long ones, and equal ones end one after the other instead of all
    together at the end. Every fourth call takes those that waited longest, so that nobody starves: the tiles of an
    image have waited since one of them stepped, so many of them are no crowd of newcomers. A newcomer that would see
    its first step too late has its first call for itself (`Welcome`).
    """

    def __init__(self, welcome_share: float = SHARE) -> None:
        self._shares: dict[Hashable, _Share] = {}
        self._welcome = Welcome(welcome_share)

    def choose(
        self,
        drawings: Iterable[D],
        max_rows: Callable[[Hashable, int], int],
        pace: Pace | None = None,
        now: float = 0.0,
    ) -> list[D]:
        """The drawings for the next model call: those of one key, as many as fit into `max_rows` of it and its pixels.

        The first always fits. Of one job's images those that are behind go first. `pace` is how long calls take, `now`
        the monotonic clock.
        """
        waiting: dict[Hashable, list[D]] = {}
        for drawing in sorted((one for one in drawings if not one.done), key=lambda one: (one.turn, one.step)):
            waiting.setdefault(drawing.key, []).append(drawing)
        least = min((share.had for key, share in self._shares.items() if key in waiting), default=0.0)
        self._shares = {key: self._shares.get(key) or _Share(least) for key in waiting}
        if not waiting:
            return []
        # Of equals the one whose first drawing waited longest: the order of the dictionary.
        key = min(waiting, key=lambda key: self._shares[key].had)
        candidates, share = waiting[key], self._shares[key]
        share.calls += 1
        if share.calls % OLDEST_FIRST_EVERY:
            candidates = sorted(candidates, key=lambda one: (not one.is_new, one.job_left, one.step))
        room = max_rows(key, candidates[0].pixels)
        batch = fill(candidates, room)
        if newcomers := [one for one in candidates if one.is_new]:
            newcomers = fill(newcomers, room)
        batch = self._welcome.chosen(batch, newcomers, pace, now)
        # An image of which few tiles are left is still an image.
        wanted = max(sum(one.share for one in candidates), candidates[0].rows)
        share.had += sum(one.rows * one.pixels for one in batch) / wanted
        return batch


def fill(drawings: Sequence[D], max_rows: int) -> list[D]:
    """The first one, and of the others in their order what still fits."""
    batch, rows = [drawings[0]], drawings[0].rows
    for drawing in drawings[1:]:
        if rows + drawing.rows <= max_rows:
            batch.append(drawing)
            rows += drawing.rows
    return batch
