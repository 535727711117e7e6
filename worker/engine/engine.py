"""The engine: one thread that loads a model and then brings jobs forward for ever, and what the front asks of it.

What the thread does between two steps is `core.py`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Generic

from worker.engine.core import EngineCore
from worker.engine.encoding_pool import EncodingPool, Sign
from worker.engine.meter import Meter
from worker.engine.outbox import Outbox, Sink
from worker.engine.rows import RowLimit
from worker.engine.run import JobRun
from worker.engine.runner import D, Runner
from worker.engine.welcome import SHARE
from worker.errors import EngineFailed, StartError
from worker.jobs.engine import EngineState, Snapshot
from worker.jobs.events import Cancelled, CancelReason, Ending, Image
from worker.jobs.queue import JobQueue, Work

if TYPE_CHECKING:
    from worker.engine.judging import Judging

logger = logging.getLogger(__name__)

ROWS_UNDER_WAY = 32
"""Jobs are taken up to so many rows, even where one call has fewer: a short job need not wait for long ones to end."""
IDLE_WAIT_S = 0.5
STALL_S = 60.0
STALL_STEPS = 20
"""Without a sign of life for so many seconds, and for so many usual steps, the engine counts as stuck; for longer,
where what it does is larger than usual."""
FIRST_CALL_S = 600.0
"""Until a step is done nobody knows what is usual; a few cores can take minutes for one of a large model."""


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
        first_call_s: float = FIRST_CALL_S,
        keep_images: Callable[[str, Sequence[Image]], None] = lambda job_id, images: None,
        sign: Sign | None = None,
        judging: Judging | None = None,
        on_ready: Callable[[], None] = lambda: None,
        on_stop: Callable[[BaseException | None], None] = lambda reason: None,
    ) -> None:
        self._make_runner = make_runner
        self._queue = queue
        self._outbox = Outbox(sink)
        self._rows = rows
        self._encoders = EncodingPool(self._outbox, model_id, meter.encoded_image, keep_images, queue.wake, sign)
        self._core: EngineCore[D] = EngineCore(
            queue,
            self._outbox,
            self._encoders,
            meter,
            rows,
            rows_under_way=rows_under_way,
            welcome_share=welcome_share,
            judging=judging,
        )
        self._stall_s = stall_s
        self._first_call_s = first_call_s
        self._on_ready = on_ready
        self._on_stop = on_stop
        self._state = EngineState.LOADING
        self._load_progress = 0.0
        self._stood_still_at = self._stood_still_s = 0.0
        self._stopping = threading.Event()
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
        self._core.cancel(job_id, reason)
        return False

    def snapshot(self) -> Snapshot:
        """The engine now; cheap, from any thread."""
        draining = self._core.draining and self._state in (EngineState.LOADING, EngineState.READY)
        return Snapshot(
            state=EngineState.DRAINING if draining else self._state,
            healthy=self._healthy(),
            load_progress=self._load_progress,
            waiting=tuple(work.job_id for work in self._queue.waiting()),
            loads=self._core.loads(),
            pace=self._core.pace,
        )

    def stood_still(self, seconds: float) -> None:
        """The whole process has just not run for so long, which is no hang of this thread's."""
        before_s = self._standstill_s(self._core.alive_at)
        self._stood_still_at, self._stood_still_s = time.monotonic() - seconds, before_s + seconds

    def drain(self) -> list[str]:
        """Start nothing more; returns the ids of what was waiting and is now gone."""
        self._core.draining = True
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
                pace = self._core.pace
                patience_s = self._first_call_s
                if pace is not None and not self._core.reads_files:
                    usual_step_s = pace.step_s(self._rows.usual)
                    patience_s = max(self._stall_s, STALL_STEPS * usual_step_s * self._core.times_usual)
                alive_at = self._core.alive_at
                silent_s = time.monotonic() - alive_at - self._standstill_s(alive_at)
                return self._thread.is_alive() and silent_s < patience_s

    def _standstill_s(self, alive_at: float) -> float:
        return self._stood_still_s if alive_at < self._stood_still_at else 0.0

    # What happens on the engine's thread.

    def _main(self) -> None:
        reason: BaseException | None = None
        try:
            self._core.runner = self._make_runner()
            self._core.runner.load(self._report_load)
            self._load_progress = 1.0
            self._core.alive_at = time.monotonic()
            self._state = EngineState.READY
            if not self._core.draining:
                self._on_ready()
            while not self._stopping.is_set():
                if not self._core.turn():
                    self._queue.wait(IDLE_WAIT_S)
            self._state = EngineState.STOPPED
            self._end_everything()
        except BaseException as error:  # a panic in a library's Rust is no Exception
            reason = error
            self._state = EngineState.FAILED
            if not isinstance(error, StartError):
                logger.exception("the engine failed")
            self._end_everything()
        self._on_stop(reason)

    def _report_load(self, share: float) -> None:
        self._load_progress = share

    def _end_everything(self) -> None:
        """The thread is about to end: so does every job that is drawn or waits."""
        self._core.end(self._queue.clear(), self._last_word)

    def _last_word(self, run: JobRun[D]) -> Ending:
        """The ending of a job that an engine which has ended leaves undrawn."""
        if self._state is EngineState.STOPPED:
            return Cancelled(CancelReason.SHUTDOWN, run.final_timings())
        return run.failure(EngineFailed())
