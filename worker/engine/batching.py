"""Who steps next: a policy over drawings that knows keys, rows, pixels and turns, and no tensors."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence

from worker.engine.runner import D


class Batching:
    """Deficit round robin over the keys, with cost = rows x pixels: the key that had least for its rows steps next.

    A key's share of the device goes with the rows it has waiting, so that a picture gets as much of the device's time
    beside others of its size as beside any other sizes. Whoever comes new starts level with the one who had least:
    nobody can save up.
    """

    def __init__(self) -> None:
        self._had: dict[Hashable, float] = {}

    def choose(self, drawings: Iterable[D], max_rows: Callable[[Hashable], int]) -> list[D]:
        """The drawings for the next model call: those of one key, as many as fit into `max_rows` of it.

        Within a key those that waited longest go first, and the first always fits; among equals those that are behind,
        so that a job's images stay within a step of each other.
        """
        waiting: dict[Hashable, list[D]] = {}
        for drawing in sorted((one for one in drawings if not one.done), key=lambda one: (one.turn, one.step)):
            waiting.setdefault(drawing.key, []).append(drawing)
        least = min((had for key, had in self._had.items() if key in waiting), default=0.0)
        self._had = {key: self._had.get(key, least) for key in waiting}
        if not waiting:
            return []
        # Of equals the one whose first drawing waited longest: the order of the dictionary.
        key = min(waiting, key=self._had.__getitem__)
        batch = fill(waiting[key], max_rows(key))
        share = sum(one.rows for one in waiting[key])
        self._had[key] += sum(one.rows * one.pixels for one in batch) / share
        return batch


def fill(drawings: Sequence[D], max_rows: int) -> list[D]:
    """The first one, and of the others in their order what still fits."""
    batch, rows = [drawings[0]], drawings[0].rows
    for drawing in drawings[1:]:
        if rows + drawing.rows <= max_rows:
            batch.append(drawing)
            rows += drawing.rows
    return batch
