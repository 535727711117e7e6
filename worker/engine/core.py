"""What the engine does between one step and the next: admit, step, retire. All of it happens on the engine's thread.

Knows queues, drawings and events; knows no tensor (a `Runner` has those), no client and no model family.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from operator import attrgetter
from typing import TYPE_CHECKING, Generic, TypeVar

from worker.engine.batching import Batching
from worker.engine.encoding_pool import EncodingPool, Pieces
from worker.engine.fitting import Fitting
from worker.engine.meter import Meter
from worker.engine.outbox import Outbox
from worker.engine.pacemaker import Pacemaker
from worker.engine.rows import LEAST_ROWS, RowLimit
from worker.engine.run import JobRun
from worker.engine.runner import D, DeviceLost, Pixels, Runner
from worker.errors import OutOfMemory
from worker.jobs import estimates
from worker.jobs.engine import Load, Pace
from worker.jobs.events import Cancelled, CancelReason, Ending, Progress, Started
from worker.jobs.params import PreviewParams
from worker.jobs.queue import JobQueue, Work

if TYPE_CHECKING:
    from worker.engine.judging import Judging

logger = logging.getLogger(__name__)

T = TypeVar("T")

PREVIEWS_WAITING = 16
"""Of a job, for an encoder; where they come faster than they are encoded, some are left out."""
ADMIT_AT_ONCE = 2
"""Jobs taken up between two steps, so that a burst of newcomers does not hold up those that run."""


class EngineCore(Generic[D]):
    """The jobs under way, and one `turn` after the other that brings them forward.

    `cancel` and what is read of it may come from any thread; `runner` is given before the first turn.
    """

    def __init__(
        self,
        queue: JobQueue,
        outbox: Outbox,
        encoders: EncodingPool,
        meter: Meter,
        rows: RowLimit,
        *,
        rows_under_way: int,
        welcome_share: float,
        judging: Judging | None,
    ) -> None:
        self.runner: Runner[D]
        self.draining = False
        """Nothing is taken up any more, and nothing measured."""
        self.pace: Pace | None = None
        self.alive_at = time.monotonic()
        self.times_usual = 1.0
        """How many times as long as a usual step what goes on at the moment may take."""
        self.reads_files = False
        """What goes on at the moment may read weights, from a disk that may be slow."""
        self._queue = queue
        self._outbox = outbox
        self._encoders = encoders
        self._meter = meter
        self._rows = rows
        self._rows_under_way = rows_under_way
        self._judging = judging
        self._batching = Batching(welcome_share)
        self._fitting = Fitting(padded=rows.padded)
        self._pacemaker = Pacemaker()
        self._runs: dict[str, JobRun[D]] = {}
        self._opening: deque[JobRun[D]] = deque()
        """Those whose drawings are not all made; the next one to go on first."""
        self._cancelled: dict[str, CancelReason] = {}
        self._turn = 0
        self._decodings = 0
        self._decoded_pixels = rows.native_pixels or 0
        """Of the largest decoding that memory was seen to hold; the model's own size it must."""

    def cancel(self, job_id: str, reason: CancelReason) -> None:
        """Drop the job before its next step, if it runs."""
        self._cancelled.setdefault(job_id, reason)

    def loads(self) -> tuple[Load, ...]:
        """What the jobs under way still ask of the device."""
        return tuple(run.load for run in list(self._runs.values()) if not run.ended)

    def turn(self) -> bool:
        """Admit, step, retire, prepare; False if there was nothing to do."""
        self.alive_at = time.monotonic()
        self._drop_ended()
        self._drop_cancelled()
        self._admit()
        self._outbox.flush()
        batch = self._batching.choose(self._drawings(), self._rows.of, self.pace, time.monotonic())
        if batch:
            self._step(batch)
            self._tell_progress()
        retired = self._retire()
        self._outbox.flush()
        prepared = not self.draining and self.runner.prepare()
        return bool(batch) or retired or prepared or bool(self._opening) or self._measure_rows()

    def _measure_rows(self) -> bool:
        """One call nearer to knowing how many rows pay, while there is nothing to draw; False if that is known."""
        rows = self._rows.wanted
        if rows is None or self.draining:
            return False
        try:
            self._rows.timed(rows, *self._within_memory(lambda: self.runner.time_call(rows)))
        except DeviceLost:
            raise
        except Exception as error:
            if not isinstance(error, OutOfMemory):
                logger.warning("%d rows in one call cannot be timed", rows, exc_info=error)
            self._rows.too_many()
        return True

    def _drawings(self) -> list[D]:
        """All that are under way, each told how much its job has left."""
        for run in self._runs.values():
            left = run.remaining_image_steps
            for drawing in run.drawings:
                drawing.job_left = left
        return [drawing for run in self._runs.values() for drawing in run.drawings]

    def _admit(self) -> None:
        """Take up waiting jobs while rows are free, and go on with one whose drawings are not all made."""
        begun = self._opening.popleft() if self._opening else None
        for _ in range(ADMIT_AT_ONCE - (begun is not None)):
            if self.draining or not len(self._queue):
                break
            if sum(run.share for run in self._runs.values()) >= max(self._rows.usual, self._rows_under_way):
                break
            work = self._queue.take(self._may_start)
            if work is None:
                break
            self._open_on(self._started(work))
        if begun is not None:
            self._open_on(begun)

    def _may_start(self, work: Work) -> bool:
        return not self._runs or not (work.alone or any(run.work.alone for run in self._runs.values()))

    def _started(self, work: Work) -> JobRun[D]:
        run: JobRun[D] = JobRun(work, self._turn, self._decodings)
        self._runs[work.job_id] = run
        self._outbox.put(run, Started(work.attempt))
        self._outbox.flush()
        return run

    def _open_on(self, run: JobRun[D]) -> None:
        """Make drawings of it, for as long as a step takes where others wait; if there are more to make, it waits for
        its next turn."""
        pace, params = self.pace, run.work.params
        self.times_usual = self._rows.times_usual(LEAST_ROWS, params.width * params.height)
        self.reads_files = params.reads_files
        try:
            opened = self._opened_on(run, pace.step_s(pace.call_rows) if pace else 0.0)
        except DeviceLost:
            raise
        except BaseException as error:  # a panic in a tokenizer's Rust is no Exception
            self._fail(run, error)
            return
        finally:
            self.reads_files = False
        self.alive_at = time.monotonic()
        if not opened:
            self._opening.append(run)
            return
        for drawing in run.drawings:
            drawing.job_id, drawing.turn, drawing.since = run.work.job_id, self._turn, run.work.accepted_at
        self._meter.encoded_text(run.opening_s)

    def _opened_on(self, run: JobRun[D], for_s: float) -> bool:
        with contextlib.suppress(OutOfMemory):
            return run.open_on(self.runner.open, for_s)
        # Once: what is let go of is there again when it is made anew.
        if (run.reopened or not self.runner.let_go()) and not self._gives_way(self._after(run)):
            raise OutOfMemory
        run.open_anew()
        return self._opened_on(run, for_s)

    def _step(self, batch: list[D]) -> None:
        """Step together; on an error in halves, until the guilty one stands alone and its job fails alone. Where memory
        lacks, first what is kept for later jobs goes, and where there was enough before, a job that came since."""
        self.times_usual = self._rows.times_usual(sum(drawing.rows for drawing in batch), batch[0].pixels)
        started = time.monotonic()
        try:
            self.runner.step(batch)
        except DeviceLost:
            raise
        except Exception as error:
            out_of_memory = isinstance(error, OutOfMemory)
            if len(batch) == 1 and not out_of_memory:
                self._fail(self._run_of(batch[0]), error)
                return
        else:
            self._stepped(batch, time.monotonic() - started)
            return
        least = len(batch) == 1 or (out_of_memory and self._rows.padded)
        # Only here, where the error is gone, are the tensors of the failed call freed.
        if out_of_memory and (self.runner.let_go() or (least and self._gives_way(self._since_fitting(batch), batch))):
            self._step(batch)
            return
        if least:
            for run in {id(run): run for run in map(self._run_of, batch)}.values():
                self._fail(run, OutOfMemory())
            return
        half = len(batch) // 2
        if out_of_memory:
            fitting = (sum(drawing.rows for drawing in batch) + 1) // 2
            self._rows.overflowed(batch[0].key, fitting)
            logger.warning("out of memory at %d images of one size; %d rows of it from now on", len(batch), fitting)
        self._step(batch[:half])
        # The first half may have ended a job that has images in the second.
        if rest := [drawing for drawing in batch[half:] if drawing.job_id in self._runs]:
            self._step(rest)

    def _since_fitting(self, batch: list[D]) -> list[JobRun[D]]:
        """The jobs taken up since a call like this one fitted into memory; none where there was none."""
        key, rows = batch[0].key, min(drawing.rows for drawing in batch)
        like = (one for one in self._drawings() if one.begun and one.key == key and one.rows >= rows)
        last = max((one.turn for one in like), default=self._turn + 1)
        return [run for run in self._runs.values() if run.turn >= last]

    def _after(self, run: JobRun[D]) -> Iterable[JobRun[D]]:
        """The jobs taken up since."""
        return itertools.islice(itertools.dropwhile(lambda one: one is not run, self._runs.values()), 1, None)

    def _gives_way(self, newcomers: Iterable[JobRun[D]], batch: Sequence[D] = ()) -> bool:
        """Fail the last of these that has weights in memory beside the model's, so that there is room again for what
        had room without them; False if there is none, or it is one of those that need the room."""
        holding = [run for run in newcomers if run.work.params.reads_files and run.load.steps]
        if not holding or holding[-1] in map(self._run_of, batch):
            return False
        self._fail(holding[-1], OutOfMemory())
        self.runner.let_go()
        return True

    def _stepped(self, batch: list[D], seconds: float) -> None:
        self._turn += 1
        for drawing in batch:
            drawing.turn, drawing.begun = self._turn, True
        for job_id, index in {(drawing.job_id, drawing.index) for drawing in batch if drawing.tile}:
            for tile in self._runs[job_id].drawings:
                if tile.index == index:
                    tile.turn, tile.begun = self._turn, True
        self.alive_at = time.monotonic()
        if batch[0].own_pace:
            for drawing in batch:
                drawing.step_s = seconds
            return
        rows = sum(drawing.rows for drawing in batch)
        self._pacemaker.stepped(rows, seconds)
        self.pace = self._pacemaker.pace(self._rows.of(batch[0].key, batch[0].pixels))
        self._meter.stepped(seconds, rows)
        self._rows.made(rows, batch[0].pixels, seconds)

    def _tell_progress(self) -> None:
        """Each step that all of a job's images have done, once; a preview where its first image has come to one."""
        pace = self.pace or Pace(call_rows=1, base_s=0.0, row_s=0.0, decode_s=0.0)  # all steps so far had their own
        previews = []
        runs = sorted((run for run in self._runs.values() if run.drawings), key=lambda run: run.remaining_image_steps)
        ends = estimates.ends_s([run.load for run in runs], pace)
        for run, end_s in zip(runs, ends, strict=True):
            steps, asked = run.drawings[0].steps, run.work.params.preview
            while run.reported_step < run.step:
                run.reported_step += 1
                self._outbox.put(run, Progress(run.reported_step, steps, round(end_s, 3)))
            step = min(drawing.step for drawing in run.shown)
            room = run.previews.waiting < PREVIEWS_WAITING
            if asked and room and run.previewed_step < step < steps and step % asked.every == 0:
                run.previewed_step = step
                previews.append((run, asked))
        self._outbox.flush()
        for run, asked in previews:
            self._preview(run, asked)

    def _preview(self, run: JobRun[D], asked: PreviewParams) -> None:
        try:
            pieces: Pieces = [(drawing.tile, self.runner.preview(drawing)) for drawing in run.shown]
            if self._judging is not None:
                pieces = self._judging.preview(pieces)
        except DeviceLost:
            raise
        except Exception as error:
            self._fail(run, error)
            return
        self._encoders.preview(run, asked, run.previewed_step, run.drawings[0].steps, pieces)

    def _retire(self) -> bool:
        """Decode one image that is done, so that the others wait for one decoding at most; False if none is. Of several
        jobs it is that whose last decoding, or else its beginning, is longest ago."""
        for run in sorted(self._runs.values(), key=attrgetter("decoding")):
            for drawing in run.drawings:
                if drawing.done and run.may_decode(drawing):
                    self._decodings += 1
                    run.decoding = self._decodings
                    self._decode(run, drawing)
                    return True
        return False

    def _decode(self, run: JobRun[D], drawing: D) -> None:
        if run.timings.denoise_s is None and run.remaining_image_steps == 0:
            run.denoised()
        self.times_usual = self._rows.times_usual(LEAST_ROWS, drawing.pixels)
        started = time.monotonic()
        try:
            pixels = self._finished(run, drawing)
            seconds = time.monotonic() - started
            pieces: Pieces | None = run.decoded(drawing, pixels, seconds)
            if pieces is not None and self._judging is not None:
                pieces = self._judging.picture(pieces, drawing.index, run.warn)
        except DeviceLost:
            raise
        except Exception as error:
            self._fail(run, error)
            return
        if not drawing.own_pace:
            self._pacemaker.decoded(seconds)
            self._meter.decoded(seconds)
        self.alive_at = time.monotonic()
        if pieces is None:
            return
        if drawing.tile is None and not drawing.own_pace:
            self._fitting.drawn(run.work.params)
        self._encoders.picture(run, drawing.index, drawing.seed, pieces)

    def _finished(self, run: JobRun[D], drawing: D) -> Pixels:
        fitted = drawing.pixels <= self._decoded_pixels
        pixels = self._within_memory(lambda: self.runner.finish(drawing), run if fitted else None)
        if not drawing.own_pace:
            self._decoded_pixels = max(self._decoded_pixels, drawing.pixels)
        return pixels

    def _within_memory(self, act: Callable[[], T], run: JobRun[D] | None = None) -> T:
        """What `act` gives. Where memory lacks, what is kept for later jobs goes first, and then jobs that came after
        `run`, if there was enough for that one."""
        while True:
            with contextlib.suppress(OutOfMemory):
                return act()
            # Only here, where the error is gone, are its tensors freed.
            if not self.runner.let_go() and not (run and self._gives_way(self._after(run))):
                raise OutOfMemory

    def _drop_ended(self) -> None:
        """Forget the jobs that the encoding pool has ended, well or badly, since the last turn."""
        for run in list(self._runs.values()):
            if run.ended:
                self._drop(run)

    def _drop_cancelled(self) -> None:
        for job_id in list(self._cancelled):
            reason = self._cancelled.pop(job_id)
            run = self._runs.get(job_id)
            if run is not None and run.undecoded:
                self._drop(run)
                self._outbox.put(run, Cancelled(reason, run.final_timings()))

    def _fail(self, run: JobRun[D], error: BaseException) -> None:
        if isinstance(error, OutOfMemory):
            error = self._fitting.refusal(run.work.params)
            if run.work.params.reads_files:
                self._rows.freed()
        self._drop(run)
        self._outbox.put(run, run.failure(error))

    def _drop(self, run: JobRun[D]) -> None:
        del self._runs[run.work.job_id]
        with contextlib.suppress(ValueError):
            self._opening.remove(run)
        run.let_go()

    def end(self, waiting: Sequence[Work], last_word: Callable[[JobRun[D]], Ending]) -> None:
        """Every job that is drawn, or was `waiting`, ends with its `last_word`. The pool ends those that it encodes."""
        self._runs |= {work.job_id: JobRun(work) for work in waiting}
        for run in self._runs.values():
            if run.undecoded:
                self._outbox.put(run, last_word(run))
        self._outbox.flush()

    def _run_of(self, drawing: D) -> JobRun[D]:
        return self._runs[drawing.job_id]
