"""Who steps next: a policy over drawings that knows keys, rows and turns, and no tensors."""

from __future__ import annotations

from collections.abc import Iterable

from worker.engine.runner import D


def choose(drawings: Iterable[D], max_rows: int) -> list[D]:
    """The drawings for the next model call: those of one key, as many as fit into `max_rows`.

    The one that has waited longest decides the key and always fits; the others of its key join in the order
    of their waiting; among equals those that are behind, so that a job's images stay within a step of each
    other. So every drawing steps again after at most as many calls as there are full batches.
    """
    waiting = sorted((one for one in drawings if not one.done), key=lambda one: (one.turn, one.step))
    if not waiting:
        return []
    batch, rows = [waiting[0]], waiting[0].rows
    for drawing in waiting[1:]:
        if drawing.key == batch[0].key and rows + drawing.rows <= max_rows:
            batch.append(drawing)
            rows += drawing.rows
    return batch
