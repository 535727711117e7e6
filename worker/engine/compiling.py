"""Compiled model calls: which kinds of drawings have them, which row buckets are compiled next, and what they may cost.

A kind is a latent shape with the shapes of its conditioning. Knows counts, bytes and a `Compiler`; no family, no job.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import torch

from worker.engine.device_errors import mapped_errors
from worker.engine.runner import DeviceLost
from worker.engine.shapes import Shapes, Tensors
from worker.errors import OutOfMemory

if TYPE_CHECKING:
    from worker.models.base import Model

logger = logging.getLogger(__name__)

Compiled: TypeAlias = Callable[[Any, torch.Tensor, torch.Tensor, Tensors], torch.Tensor]
"""A model's `predict`, with the model as its first argument; what it returns stays as it is when it is called again."""

MOST_BUCKETS = 16
"""Each takes a minute to compile, and as a CUDA graph its own memory."""
MEMORY_SHARE = 0.25
"""Of the memory that was free before the first one, compiled calls may keep this much."""
LEAST_CALLS = 8
"""A bucket that was called more rarely is not worth compiling."""
MOST_WASTE = 0.25
"""Of a bucket; where more of it would be padding, a call is cut into smaller buckets."""
IDLE_ROWS = 16
"""So few rows leave much of a device idle, so that padding costs less than a second call."""
WARM_CALLS = 3
"""The first of a call loads its kernels; CUDA graphs warm up in it, and are captured in the next."""


class Compiler(Protocol):
    """Compiles one call after the other, beside the engine: none of these words takes long."""

    def begin(self, shapes: Shapes) -> None:
        """Compile the call that takes these. Raises what keeps it from that."""

    def ended(self) -> Compiled | None:
        """What was begun, which computes the same up to rounding; None if it is not done yet. Raises what a compiler
        raises, and then that one has ended too."""

    def rest(self) -> None:
        """There is nothing more to compile for now."""


@dataclass(slots=True)
class _Kind:
    """What was seen of a kind: `shapes` of a row of its inputs, `calls` counts by bucket; its compiled calls keep
    `kept_bytes`. It `lacked` memory in its last compiled call; once it is `eager` it stays so."""

    shapes: Shapes
    calls: Counter[int] = field(default_factory=Counter)
    compiled: dict[int, Compiled] = field(default_factory=dict)
    failed: set[int] = field(default_factory=set)
    kept_bytes: int = 0
    on: bool = False
    lacked: bool = False
    eager: bool = False

    def wanted(self) -> list[int]:
        """Buckets that pay and were not tried, the hottest first."""
        if self.eager:
            return []
        return [
            bucket
            for bucket, calls in self.calls.most_common()
            if calls >= LEAST_CALLS and bucket not in self.compiled and bucket not in self.failed
        ]


@dataclass(slots=True)
class _Begun:
    """A bucket on its way: first its compiler has it, then it is warmed up."""

    kind: _Kind
    bucket: int
    began: float
    call: Compiled | None = None
    warmed: int = 0
    free_bytes: int | None = None


class Compiling:
    """A bucket is the next power of two from a call's rows on. All calls come from the engine's thread.

    A kind is compiled once every bucket of it that pays is. `begins` tells a new drawing's mode, which it keeps: its
    calls are padded up to the smallest compiled bucket that holds them, or cut into pieces of compiled ones. A bucket
    that fails is never tried again; where it was the kind's first, the kind stays eager.
    `on_compiled` hears of the seconds, `on_failed` of each bucket that cannot be compiled, `on_call` of each call's
    mode, `on_padding` of rows computed for nobody.
    """

    def __init__(
        self,
        compiler: Compiler,
        *,
        on_compiled: Callable[[float], None] = lambda seconds: None,
        on_failed: Callable[[], None] = lambda: None,
        on_call: Callable[[bool], None] = lambda compiled: None,
        on_padding: Callable[[int], None] = lambda rows: None,
    ) -> None:
        self._compiler = compiler
        self._on_compiled = on_compiled
        self._on_failed = on_failed
        self._on_call = on_call
        self._on_padding = on_padding
        self._kinds: dict[Hashable, _Kind] = {}
        self._begun: _Begun | None = None
        self._buckets = 0
        self._room_bytes: int | None = None
        self._kept_bytes = 0
        self._largest_bytes = 0
        self._told_full = False

    def begins(self, kind: Hashable) -> bool:
        """Whether a drawing of this kind that is opened now is drawn by compiled calls."""
        known = self._kinds.get(kind)
        if known is None or not known.compiled:
            return False
        known.on = known.on or not (known.wanted() and self._has_room())
        return known.on

    def predict(
        self,
        model: Model,
        kind: Hashable,
        compiled: bool,
        latents: torch.Tensor,
        timesteps: torch.Tensor,
        tensors: Tensors,
    ) -> torch.Tensor:
        """`model.predict` of these rows, by the calls that were compiled for the kind if `compiled`, and counted.

        A compiled call that fails leaves its kind eager from then on, and is made again as it is. Raises OutOfMemory,
        but where padding was a part of what did not fit, for the second time.
        """
        known = self._kinds.get(kind)
        if known is None:
            known = self._kinds[kind] = _Kind(Shapes.of(latents, timesteps, tensors, rows=1))
        known.calls[_bucket(len(latents))] += 1
        if compiled and known.compiled:
            pieces = _pieces(len(latents), known.compiled)
            try:
                with mapped_errors():
                    output = self._in_pieces(model, known, pieces, latents, timesteps, tensors)
            except DeviceLost:
                raise
            except Exception as error:
                if isinstance(error, OutOfMemory):
                    again, known.lacked = known.lacked, True
                    if not again or all(count == bucket for count, bucket in pieces):
                        raise
                self._failed("a compiled call failed; calls of its size are eager from now on", error)
                known.eager = True
                self._buckets -= len(known.compiled)
                self._kept_bytes -= known.kept_bytes
                known.compiled.clear()
            else:
                known.lacked = False
                self._on_call(True)
                return output
        self._on_call(False)
        return model.predict(latents, timesteps, tensors)

    def _in_pieces(
        self,
        model: Model,
        known: _Kind,
        pieces: Sequence[tuple[int, int]],
        latents: torch.Tensor,
        timesteps: torch.Tensor,
        tensors: Tensors,
    ) -> torch.Tensor:
        outputs, start = [], 0
        for count, bucket in pieces:
            piece = slice(start, start + count)
            self._on_padding(bucket - count)
            padded = {name: _padded(tensor[piece], bucket) for name, tensor in tensors.items()}
            rows, times = _padded(latents[piece], bucket), _padded(timesteps[piece], bucket)
            outputs.append(known.compiled[bucket](model, rows, times, padded)[:count])
            start += count
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)

    def called_eagerly(self) -> None:
        """Count a call that is never compiled."""
        self._on_call(False)

    def attend(self, model: Model, free_bytes: Callable[[], int | None]) -> bool:
        """Have the hottest bucket that is left compiled, or go on with the one that is; True if that took as much time
        as a call. Raises DeviceLost.

        `free_bytes` tells how much memory is free, None where nobody knows.
        """
        begun = self._begun
        if begun is None:
            self._begin()
            return False
        try:
            if begun.call is None:
                begun.call = self._compiler.ended()  # what another process says of its device is no word of this one
                if begun.call is not None and begun.kind.eager:
                    self._begun = None
                    return False
                return begun.call is not None
            with mapped_errors():
                if begun.warmed == 0:
                    begun.free_bytes = free_bytes()
                begun.call(model, *begun.kind.shapes.with_rows(begun.bucket).zeros(model.device))
        except DeviceLost:
            raise
        except Exception as error:
            self._give_up(begun.kind, begun.bucket, error)
            return True
        begun.warmed += 1
        if begun.warmed == WARM_CALLS:
            self._adopt(begun, free_bytes())
        return True

    def _begin(self) -> None:
        hottest = sorted(
            ((known.calls[bucket], bucket, known) for known in self._kinds.values() for bucket in known.wanted()),
            key=lambda one: one[:2],
        )
        if not hottest or not self._has_room():
            self._compiler.rest()
            return
        _, bucket, known = hottest[-1]
        try:
            self._compiler.begin(known.shapes.with_rows(bucket))
        except Exception as error:
            self._give_up(known, bucket, error)
        else:
            self._begun = _Begun(known, bucket, time.perf_counter())

    def _adopt(self, begun: _Begun, free_bytes: int | None) -> None:
        assert begun.call is not None
        self._begun = None
        if begun.kind.eager:
            return
        seconds = time.perf_counter() - begun.began
        begun.kind.compiled[begun.bucket] = begun.call
        self._buckets += 1
        if begun.free_bytes is not None and free_bytes is not None:
            if self._room_bytes is None:
                self._room_bytes = int(begun.free_bytes * MEMORY_SHARE)
            kept = max(0, begun.free_bytes - free_bytes)
            self._kept_bytes += kept
            begun.kind.kept_bytes += kept
            self._largest_bytes = max(self._largest_bytes, kept)
        self._on_compiled(seconds)
        latents = begun.kind.shapes.latents.shape[1:]
        logger.info("calls of %d rows of latents %s are compiled, in %.1f s", begun.bucket, latents, seconds)

    def _give_up(self, known: _Kind, bucket: int, error: Exception) -> None:
        self._begun = None
        known.failed.add(bucket)
        self._failed(f"a call of {bucket} rows cannot be compiled and stays eager", error)

    def _has_room(self) -> bool:
        """For one more as large as the largest."""
        fits = self._room_bytes is None or self._kept_bytes + self._largest_bytes <= self._room_bytes
        room = fits and self._buckets < MOST_BUCKETS
        if not room and not self._told_full:
            self._told_full = True
            logger.info("%d calls are compiled; there is no room for more", self._buckets)
        return room

    def _failed(self, told: str, error: Exception) -> None:
        self._on_failed()
        reason = (str(error).strip().splitlines() or [""])[0][:200]
        logger.warning("%s: %s %s", told, type(error).__name__, reason)
        logger.debug("why", exc_info=error)


def _pieces(rows: int, compiled: Collection[int]) -> list[tuple[int, int]]:
    """How a call of `rows` is made of `compiled` buckets: of each piece the rows in it, and its bucket."""
    holding = min((bucket for bucket in compiled if bucket >= rows), default=None)
    largest = max((bucket for bucket in compiled if bucket <= rows), default=None)
    if holding is not None and (largest is None or rows <= IDLE_ROWS or holding - rows <= MOST_WASTE * holding):
        return [(rows, holding)]
    assert largest is not None, "something is compiled"
    cut = [(largest, largest)]
    if rows > largest:
        cut += _pieces(rows - largest, compiled)
    if holding is not None and sum(bucket for _, bucket in cut) >= holding:  # the rest is padded as much
        return [(rows, holding)]
    return cut


def _bucket(rows: int) -> int:
    return 1 << (rows - 1).bit_length()


def _padded(tensor: torch.Tensor, count: int) -> torch.Tensor:
    """With its first row repeated, up to `count` rows."""
    if len(tensor) == count:
        return tensor.contiguous()
    return torch.cat([tensor, tensor[:1].expand(count - len(tensor), *tensor.shape[1:])])
