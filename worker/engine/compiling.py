"""Compiled model calls: which kinds of drawings have them, which row buckets are compiled next, and what they may cost.

A kind is a latent shape with the shapes of its conditioning. Knows counts, bytes and a `Compiler`; no family, no job.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

import torch

from worker.engine.device_errors import mapped_errors
from worker.engine.runner import DeviceLost
from worker.errors import OutOfMemory

logger = logging.getLogger(__name__)

Predict: TypeAlias = Callable[[torch.Tensor, torch.Tensor, Mapping[str, torch.Tensor]], torch.Tensor]

MOST_BUCKETS = 16
"""Each takes a minute to compile, and as a CUDA graph its own memory."""
MEMORY_SHARE = 0.25
"""Of the memory that was free before the first one, compiled calls may keep this much."""
LEAST_CALLS = 8
"""A bucket that was called more rarely is not worth compiling."""


class Compiler(Protocol):
    """Makes the calls of one bucket fast."""

    def compiled(self, predict: Predict) -> Predict:
        """What computes the same up to rounding, for the shapes of its first call, which may take minutes; other
        shapes are refused. What it returns stays as it is when it is called again. Raises what a compiler raises."""


@dataclass(slots=True)
class _Kind:
    """What was seen of a kind: `example` is one row of its inputs, `calls` counts by bucket."""

    example: tuple[torch.Tensor, torch.Tensor, Mapping[str, torch.Tensor]]
    calls: Counter[int] = field(default_factory=Counter)
    compiled: dict[int, Predict] = field(default_factory=dict)
    failed: set[int] = field(default_factory=set)
    on: bool = False

    def wanted(self) -> list[int]:
        """Buckets that pay and were not tried, the hottest first."""
        return [
            bucket
            for bucket, calls in self.calls.most_common()
            if calls >= LEAST_CALLS and bucket not in self.compiled and bucket not in self.failed
        ]


class Compiling:
    """A bucket is the next power of two from a call's rows on. All calls come from the engine's thread.

    A kind is compiled once every bucket of it that pays is. `began` tells a new drawing's mode, which it keeps: its
    calls are padded up to the smallest compiled bucket that holds them, or cut into pieces of the largest. A bucket
    that fails is never tried again; where it was the kind's first, the kind stays eager.
    `on_compiled` hears of the seconds, `on_failed`
    of each bucket that cannot be compiled, `on_call` of each call's mode, `on_padding` of rows computed for nobody.
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
        self._buckets = 0
        self._room_bytes: int | None = None
        self._kept_bytes = 0
        self._largest_bytes = 0
        self._told_full = False

    def began(self, kind: Hashable) -> bool:
        """Whether a drawing of this kind that is opened now is drawn by compiled calls."""
        known = self._kinds.get(kind)
        if known is None or not known.compiled:
            return False
        known.on = known.on or not (known.wanted() and self._has_room())
        return known.on

    def predict(
        self,
        predict: Predict,
        kind: Hashable,
        compiled: bool,
        rows: torch.Tensor,
        timesteps: torch.Tensor,
        tensors: Mapping[str, torch.Tensor],
    ) -> torch.Tensor:
        """`predict` of these rows, by the calls that were compiled for the kind if `compiled`, and counted.

        A compiled call that fails leaves its kind eager from then on, and is made again as it is. Raises OutOfMemory.
        """
        known = self._kinds.get(kind)
        if known is None:
            example = rows[:1].clone(), timesteps[:1].clone(), {name: one[:1].clone() for name, one in tensors.items()}
            known = self._kinds[kind] = _Kind(example)
        known.calls[_bucket(len(rows))] += 1
        if compiled and known.compiled:
            try:
                with mapped_errors():
                    output = self._pieces(known, rows, timesteps, tensors)
            except (OutOfMemory, DeviceLost):
                raise
            except Exception as error:
                self._failed("a compiled call failed; calls of its size are eager from now on", error)
                known.failed |= {*known.compiled, *known.calls}
                self._buckets -= len(known.compiled)
                known.compiled.clear()
            else:
                self._on_call(True)
                return output
        self._on_call(False)
        return predict(rows, timesteps, tensors)

    def _pieces(
        self, known: _Kind, rows: torch.Tensor, timesteps: torch.Tensor, tensors: Mapping[str, torch.Tensor]
    ) -> torch.Tensor:
        outputs, most = [], max(known.compiled)
        for start in range(0, len(rows), most):
            piece = slice(start, start + most)
            count = len(rows[piece])
            bucket = min(bucket for bucket in known.compiled if bucket >= count)
            self._on_padding(bucket - count)
            padded = {name: _padded(tensor[piece], bucket) for name, tensor in tensors.items()}
            call = known.compiled[bucket]
            outputs.append(call(_padded(rows[piece], bucket), _padded(timesteps[piece], bucket), padded)[:count])
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)

    def called_eagerly(self) -> None:
        """Count a call that is never compiled."""
        self._on_call(False)

    def compile_next(self, predict: Predict, free_bytes: Callable[[], int | None]) -> bool:
        """Compile the hottest bucket that is left; False if there is none. Raises DeviceLost.

        `free_bytes` tells how much memory is free, None where nobody knows.
        """
        hottest = sorted(
            ((known.calls[bucket], bucket, known) for known in self._kinds.values() for bucket in known.wanted()),
            key=lambda one: one[:2],
        )
        if not hottest or not self._has_room():
            return False
        _, bucket, known = hottest[-1]
        rows, timesteps, tensors = known.example
        began, free = time.perf_counter(), free_bytes()
        if self._room_bytes is None and free is not None:
            self._room_bytes = int(free * MEMORY_SHARE)
        try:
            with mapped_errors():
                call = self._compiler.compiled(predict)
                seen = {name: _padded(tensor, bucket) for name, tensor in tensors.items()}
                for _ in range(3):  # the first compiles; CUDA graphs warm up in it and are captured in the next ones
                    call(_padded(rows, bucket), _padded(timesteps, bucket), seen)
        except DeviceLost:
            raise
        except Exception as error:
            known.failed.add(bucket)
            self._failed(f"a call of {bucket} rows cannot be compiled and stays eager", error)
            return True
        seconds = time.perf_counter() - began
        known.compiled[bucket] = call
        self._buckets += 1
        if free is not None and (left := free_bytes()) is not None:
            kept = max(0, free - left)
            self._kept_bytes += kept
            self._largest_bytes = max(self._largest_bytes, kept)
        self._on_compiled(seconds)
        logger.info("calls of %d rows of latents %s are compiled, in %.1f s", bucket, tuple(rows.shape[1:]), seconds)
        return True

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


class TorchCompiler:
    """torch.compile in one of its modes, each bucket by itself, with its shapes fixed.

    Inductor keeps what it compiled in its cache folder; with `reduce-overhead` CUDA replays it as a graph.
    """

    def __init__(self, mode: str) -> None:
        self._mode = mode

    def compiled(self, predict: Predict) -> Predict:
        """Raises RuntimeError where there is nothing to compile with, at its first call."""
        # Each bucket is one more entry for the same code; beyond the limit torch falls back without a word.
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 4 * MOST_BUCKETS)
        fast = torch.compile(predict, mode=None if self._mode == "default" else self._mode, dynamic=False)
        calls = 0

        def call(rows: torch.Tensor, timesteps: torch.Tensor, conditioning: Mapping[str, torch.Tensor]) -> torch.Tensor:
            nonlocal calls
            calls += 1
            torch.compiler.cudagraph_mark_step_begin()
            if calls == 1:
                return fast(rows, timesteps, conditioning).clone()
            # Where a guard does not hold, compiling anew would hold up everyone for a minute.
            with torch.compiler.set_stance("fail_on_recompile"):
                return fast(rows, timesteps, conditioning).clone()  # a graph writes its output anew at each replay

        return call


def _bucket(rows: int) -> int:
    return 1 << (rows - 1).bit_length()


def _padded(tensor: torch.Tensor, count: int) -> torch.Tensor:
    """With its first row repeated, up to `count` rows."""
    if len(tensor) == count:
        return tensor.contiguous()
    return torch.cat([tensor, tensor[:1].expand(count - len(tensor), *tensor.shape[1:])])
