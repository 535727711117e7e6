"""The engine: admit, step, retire, for ever, on one thread.

Jobs join and leave between two steps. Knows queues, drawings and events; knows no tensor (a `Runner` has
those), no client and no model family.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Generic

from worker.engine.batching import Batching
from worker.engine.encoding_pool import EncodingPool, Pieces, Sign
from worker.engine.fitting import Fitting
from worker.engine.meter import Meter
from worker.engine.outbox import Outbox, Sink
from worker.engine.pacemaker import Pacemaker
from worker.engine.rows import RowLimit
from worker.engine.run import JobRun
from worker.engine.runner import D, DeviceLost, Runner
from worker.engine.welcome import SHARE
from worker.errors import EngineFailed, OutOfMemory, StartError
from worker.jobs import estimates
from worker.jobs.engine import EngineState, Pace, Snapshot
from worker.jobs.events import Cancelled, CancelReason, Ending, Image, Progress, Started
from worker.jobs.params import PreviewParams
from worker.jobs.queue import JobQueue, Work

if TYPE_CHECKING:
    from worker.engine.judging import Judging

logger = logging.getLogger(__name__)

ADMIT_AT_ONCE = 2
"""Jobs taken up between two steps, so that a burst of newcomers does not hold up those that run."""
ROWS_UNDER_WAY = 32
"""Jobs are taken up to so many rows, even where one call has fewer: a short job need not wait for long ones to end."""
IDLE_WAIT_S = 0.5
STALL_S = 60.0
STALL_STEPS = 20
"""Without a sign of life for so many seconds, and for so many usual steps, the engine counts as stuck."""


class Engine(Generic[D]):
    """`sink` is called from the engine's threads with (job id, event) pairs, once a step for all jobs.

    `make_runner` is called on the engine's own thread, so that slow imports happen there. `keep_images` is called with
    a job's pictures, beside the engine, before its completion is told; `sign`, if there is one, with each of them
    encoded. `judging`, loaded by whoever loads the model, sees each picture first. `on_ready` is called once the model
    is loaded, `on_stop` when the thread ends, with the reason if it failed.
    """

    def __init__(
        self,
        make_runner: Callable[[], Runner[D]],
        queue: JobQueue,
        sink: Sink,
        meter: Meter,
        *,
        model_id: str,
        rows: RowLimit,
        rows_under_way: int = ROWS_UNDER_WAY,
        welcome_share: float = SHARE,
        stall_s: float = STALL_S,
        keep_images: Callable[[str, Sequence[Image]], None] = lambda job_id, images: None,
        sign: Sign | None = None,
        judging: Judging | None = None,
        on_ready: Callable[[], None] = lambda: None,
        on_stop: Callable[[Exception | None], None] = lambda reason: None,
    ) -> None:
        self._make_runner = make_runner
        self._queue = queue
        self._outbox = Outbox(sink)
        self._meter = meter
        self._rows = rows
        self._rows_under_way = rows_under_way
        self._batching = Batching(welcome_share)
        self._fitting = Fitting()
        self._stall_s = stall_s
        self._judging = judging
        self._on_ready = on_ready
        self._on_stop = on_stop
        self._state = EngineState.LOADING  # set by the engine's thread alone, `_draining` by the front's
        self._draining = False
        self._stopping = threading.Event()
        self._runs: dict[str, JobRun[D]] = {}
        self._cancelled: dict[str, CancelReason] = {}
        self._turn = 0
        self._load_progress = 0.0
        self._alive_at = time.monotonic()
        self._pacemaker = Pacemaker()
        self._pace: Pace | None = None
        self._encoders = EncodingPool(self._outbox, model_id, meter.encoded_image, keep_images, sign)
        self._thread = threading.Thread(target=self._main, name="engine", daemon=True)

    # What the front calls, from its own thread.

    def start(self) -> None:
        """Start the thread: load, then serve until `stop`."""
        self._thread.start()

    def submit(self, work: Work, *, whatever_waits: bool = False) -> None:
        """Let `work` wait for its turn. Raises `Full`."""
        self._queue.put(work, whatever_waits=whatever_waits)
        # Whoever takes it out of the queue ends it: this, or the thread that ends at this moment.
        if self._state in (EngineState.FAILED, EngineState.STOPPED) and self._queue.remove(work.job_id):
            run: JobRun[D] = JobRun(work)
            self._outbox.send(run, self._last_word(run))

    def cancel(self, job_id: str, reason: CancelReason) -> bool:
        """True: it was waiting and is gone. Otherwise it is flagged, and dropped before the next step if it runs."""
        if self._queue.remove(job_id):
            return True
        self._cancelled.setdefault(job_id, reason)
        return False

    def snapshot(self) -> Snapshot:
        """The engine now; cheap, from any thread."""
        runs = [run for run in list(self._runs.values()) if not run.ended]
        draining = self._draining and self._state in (EngineState.LOADING, EngineState.READY)
        return Snapshot(
            state=EngineState.DRAINING if draining else self._state,
            healthy=self._healthy(),
            load_progress=self._load_progress,
            waiting=tuple(work.job_id for work in self._queue.waiting()),
            loads=tuple(run.load for run in runs),
            pace=self._pace,
        )

    def drain(self) -> list[str]:
        """Start nothing more; returns the ids of what was waiting and is now gone."""
        self._draining = True
        return [work.job_id for work in self._queue.clear()]

    def stop(self, timeout_s: float) -> bool:
        """End the thread after the step it is in, and the jobs with it; False if that takes longer than `timeout_s`."""
        self._stopping.set()
        self._queue.wake()
        if self._thread.is_alive():
            self._thread.join(timeout_s)
        if self._thread.is_alive():
            return False
        self._encoders.close()
        return True

    def _healthy(self) -> bool:
        match self._state:
            case EngineState.FAILED:
                return False
            case EngineState.LOADING | EngineState.STOPPED:
                return True
            case _:
                usual_step_s = self._pace.step_s(self._rows.usual) if self._pace else 0.0
                patience_s = max(self._stall_s, STALL_STEPS * usual_step_s)
                return self._thread.is_alive() and time.monotonic() - self._alive_at < patience_s

    # What happens on the engine's thread.

    def _main(self) -> None:
        reason: Exception | None = None
        try:
            self._runner = self._make_runner()
            self._runner.load(self._report_load)
            self._load_progress = 1.0
            self._alive_at = time.monotonic()
            self._state = EngineState.READY
            if not self._draining:
                self._on_ready()
            while not self._stopping.is_set():
                self._turn_once()
            self._state = EngineState.STOPPED
            self._end_everything()
        except Exception as error:
            reason = error
            self._state = EngineState.FAILED
            if not isinstance(error, StartError):
                logger.exception("the engine failed")
            self._end_everything()
        self._on_stop(reason)

    def _report_load(self, share: float) -> None:
        self._load_progress = share

    def _turn_once(self) -> None:
        """Admit, step, retire."""
        self._alive_at = time.monotonic()
        self._drop_ended()
        self._drop_cancelled()
        self._admit()
        self._outbox.flush()
        batch = self._batching.choose(self._drawings(), self._rows.of, self._pace, time.monotonic())
        if batch:
            self._step(batch)
            self._tell_progress()
        retired = self._retire()
        self._outbox.flush()
        if not batch and not retired and not self._measure_rows():
            self._queue.wait(IDLE_WAIT_S)

    def _measure_rows(self) -> bool:
        """One call nearer to knowing how many rows pay, while there is nothing to draw; False if that is known."""
        rows = self._rows.wanted
        if rows is None or self._draining:
            return False
        try:
            self._rows.timed(rows, *self._runner.time_call(rows))
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
        """Take up waiting jobs while rows are free."""
        for _ in range(ADMIT_AT_ONCE):
            rows = sum(drawing.share for run in self._runs.values() for drawing in run.drawings)
            if self._draining or rows >= max(self._rows.usual, self._rows_under_way):
                return
            work = self._queue.take(self._may_start)
            if work is None:
                return
            self._open(work)

    def _may_start(self, work: Work) -> bool:
        return not self._runs or not (work.alone or any(run.work.alone for run in self._runs.values()))

    def _open(self, work: Work) -> None:
        run: JobRun[D] = JobRun(work)
        self._runs[work.job_id] = run
        self._outbox.put(run, Started(work.attempt))
        self._outbox.flush()
        try:
            run.opened(self._runner.open(work.params))
        except DeviceLost:
            raise
        except Exception as error:
            self._fail(run, error)
            return
        for drawing in run.drawings:
            drawing.turn, drawing.since = self._turn, work.accepted_at
        self._alive_at = time.monotonic()
        self._meter.encoded_text(run.timings.encode_s or 0.0)

    def _step(self, batch: list[D]) -> None:
        """Step together; on an error in halves, until the guilty one stands alone and its job fails alone."""
        started = time.monotonic()
        try:
            self._runner.step(batch)
        except DeviceLost:
            raise
        except Exception as error:
            if len(batch) == 1:
                self._fail(self._run_of(batch[0]), error)
                return
            out_of_memory = isinstance(error, OutOfMemory)
        else:
            self._stepped(batch, time.monotonic() - started)
            return
        # Only here, where the error is gone, are the tensors of the failed call freed.
        half = len(batch) // 2
        if out_of_memory:
            fitting = max(2, sum(drawing.rows for drawing in batch[:half]))
            self._rows.overflowed(batch[0].key, fitting)
            logger.warning("out of memory at %d images of one size; %d rows of it from now on", len(batch), fitting)
        self._step(batch[:half])
        # The first half may have ended a job that has images in the second.
        if rest := [drawing for drawing in batch[half:] if self._owner(drawing) is not None]:
            self._step(rest)

    def _stepped(self, batch: list[D], seconds: float) -> None:
        self._turn += 1
        for drawing in batch:
            drawing.turn = self._turn
        self._alive_at = time.monotonic()
        rows = sum(drawing.rows for drawing in batch)
        self._pacemaker.stepped(rows, seconds)
        self._pace = self._pacemaker.pace(self._rows.of(batch[0].key, batch[0].pixels))
        self._meter.stepped(seconds, rows)

    def _tell_progress(self) -> None:
        """Each step that all of a job's images have done, once; a preview where its first image has come to one."""
        if self._pace is None:
            return  # nobody has made a step yet
        previews = []
        runs = sorted((run for run in self._runs.values() if run.drawings), key=lambda run: run.remaining_image_steps)
        ends = estimates.ends_s([run.load for run in runs], self._pace)
        for run, end_s in zip(runs, ends, strict=True):
            steps, asked = run.drawings[0].steps, run.work.params.preview
            while run.reported_step < run.step:
                run.reported_step += 1
                self._outbox.put(run, Progress(run.reported_step, steps, round(end_s, 3)))
            step = min(drawing.step for drawing in run.shown)
            if asked and run.previewed_step < step < steps and step % asked.every == 0:
                run.previewed_step = step
                previews.append((run, asked))
        self._outbox.flush()
        for run, asked in previews:
            self._preview(run, asked)

    def _preview(self, run: JobRun[D], asked: PreviewParams) -> None:
        try:
            pieces: Pieces = [(drawing.tile, self._runner.preview(drawing)) for drawing in run.shown]
            if self._judging is not None:
                pieces = self._judging.preview(pieces)
        except DeviceLost:
            raise
        except Exception as error:
            self._fail(run, error)
            return
        self._encoders.preview(run, asked, run.previewed_step, run.drawings[0].steps, pieces)

    def _retire(self) -> bool:
        """Decode one image that is done, so that the others wait for one decoding at most; False if none is."""
        for run in list(self._runs.values()):
            for drawing in run.drawings:
                if drawing.done:
                    self._decode(run, drawing)
                    return True
        return False

    def _decode(self, run: JobRun[D], drawing: D) -> None:
        if run.timings.denoise_s is None and run.remaining_image_steps == 0:
            run.denoised()
        started = time.monotonic()
        try:
            pixels = self._runner.finish(drawing)
            seconds = time.monotonic() - started
            pieces: Pieces | None = run.decoded(drawing, pixels, seconds)
            if pieces is not None and self._judging is not None:
                pieces = self._judging.picture(pieces, drawing.index, run.warn)
        except DeviceLost:
            raise
        except Exception as error:
            self._fail(run, error)
            return
        self._pacemaker.decoded(seconds)
        self._meter.decoded(seconds)
        self._alive_at = time.monotonic()
        if pieces is None:
            return
        if drawing.tile is None:
            self._fitting.drawn(run.work.params)
        self._encoders.picture(run, drawing, pieces)

    def _drop_ended(self) -> None:
        """Forget the jobs that the encoding pool has ended, well or badly, since the last turn."""
        for job_id, run in list(self._runs.items()):
            if run.ended:
                del self._runs[job_id]

    def _drop_cancelled(self) -> None:
        for job_id in list(self._cancelled):
            reason = self._cancelled.pop(job_id)
            run = self._runs.get(job_id)
            if run is not None and run.undecoded:
                del self._runs[job_id]
                self._outbox.put(run, Cancelled(reason, run.final_timings()))

    def _fail(self, run: JobRun[D], error: Exception) -> None:
        if isinstance(error, OutOfMemory):
            error = self._fitting.refusal(run.work.params)
        del self._runs[run.work.job_id]
        self._outbox.put(run, run.failure(error))

    def _end_everything(self) -> None:
        """The thread is about to end: so does every job that is drawn or waits. The pool ends those it encodes."""
        self._runs |= {work.job_id: JobRun(work) for work in self._queue.clear()}
        for run in self._runs.values():
            if run.undecoded:
                self._outbox.put(run, self._last_word(run))
        self._outbox.flush()

    def _last_word(self, run: JobRun[D]) -> Ending:
        """The ending of a job that an engine which has ended leaves undrawn."""
        if self._state is EngineState.STOPPED:
            return Cancelled(CancelReason.SHUTDOWN, run.final_timings())
        return run.failure(EngineFailed())

    def _owner(self, drawing: D) -> JobRun[D] | None:
        return next((run for run in self._runs.values() if drawing in run.drawings), None)

    def _run_of(self, drawing: D) -> JobRun[D]:
        run = self._owner(drawing)
        assert run is not None, "a drawing steps only while its job runs"
        return run
