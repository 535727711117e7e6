"""What Prometheus sees, on a registry of its own, so that several workers can live in one process."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from worker.jobs.events import Cancelled, Completed, Event, Failed, Progress, Queued, Started
from worker.jobs.job import Job, Status

STEP_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
WAIT_BUCKETS_S = (0.01, 0.05, 0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900)
ROWS_BUCKETS = (1, 2, 4, 6, 8, 12, 16, 24, 32, 48, 64)


class Metrics:
    """Also the engine's meter: what is not about jobs may be called from any thread."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self._prompt_bytes = self._peak_bytes = 0
        self.jobs = Counter("sdw_jobs", "Jobs by how they ended", ["status"], registry=registry)
        for ending in (Status.COMPLETED, Status.FAILED, Status.CANCELLED):
            self.jobs.labels(ending.value)  # no rate counts the first failure where nothing was there before it
        self.accepted = Counter("sdw_jobs_accepted", "Jobs accepted", registry=registry)
        self.waiting = Gauge("sdw_queue_waiting", "Jobs that wait", registry=registry)
        self.running = Gauge("sdw_jobs_running", "Jobs that run", registry=registry)
        self.streams = Gauge("sdw_streams_open", "Event streams being read", registry=registry)
        self.queue_wait = Histogram(
            "sdw_queue_wait_seconds", "From acceptance to start", buckets=WAIT_BUCKETS_S, registry=registry
        )
        self.first_step = Histogram(
            "sdw_first_step_seconds", "From acceptance to the first step", buckets=WAIT_BUCKETS_S, registry=registry
        )
        self.duration = Histogram(
            "sdw_job_seconds", "From acceptance to completion", buckets=WAIT_BUCKETS_S, registry=registry
        )
        self.step = Histogram(
            "sdw_step_seconds",
            "One model call, by the next power of two from its rows on",
            ["rows"],
            buckets=STEP_BUCKETS_S,
            registry=registry,
        )
        self.rows = Histogram("sdw_step_rows", "Rows in one model call", buckets=ROWS_BUCKETS, registry=registry)
        self.row_limit = Gauge("sdw_row_limit", "Rows that one model call may have", registry=registry)
        self.padding = Counter(
            "sdw_padding_rows",
            "Rows computed for nobody, as exact numerics and compiled calls need them",
            registry=registry,
        )
        self.calls = Counter(
            "sdw_model_calls", "Calls of a worker that compiles, by whether they were", ["mode"], registry=registry
        )
        self.compiled = Counter("sdw_compiled_calls", "Calls, by shape and rows, compiled so far", registry=registry)
        self.not_compiled = Counter(
            "sdw_compile_failures", "Calls that cannot be compiled and stay eager", registry=registry
        )
        self.compile_time = Counter("sdw_compile_seconds", "What compiling took", registry=registry)
        self.text = Histogram(
            "sdw_encode_text_seconds", "Encoding one job's prompts", buckets=STEP_BUCKETS_S, registry=registry
        )
        self.prompts = Counter(
            "sdw_prompt_cache", "Prompts whose encoding was kept (hit) or made (miss)", ["result"], registry=registry
        )
        self.adapters = Gauge("sdw_loras_in_memory", "LoRA adapters in memory", registry=registry)
        self.adapter_bytes = Gauge("sdw_lora_bytes", "Memory of their weights", registry=registry)
        self.decode = Histogram(
            "sdw_decode_image_seconds", "Decoding one image", buckets=STEP_BUCKETS_S, registry=registry
        )
        self.encode = Histogram(
            "sdw_encode_image_seconds", "Encoding one image or preview", buckets=STEP_BUCKETS_S, registry=registry
        )
        self.memory = Gauge(
            "sdw_memory_bytes",
            "Memory of the device (for the CPU: total is the machine's, all else this process's): used now, the most "
            "that was; of what is used the model's weights, prompts' encodings that are kept, and all the rest",
            ["kind"],
            registry=registry,
        )

    def stepped(self, seconds: float, rows: int) -> None:
        """One model call."""
        self.step.labels(str(1 << (rows - 1).bit_length())).observe(seconds)
        self.rows.observe(rows)

    def encoded_text(self, seconds: float) -> None:
        """One job's prompts were encoded."""
        self.text.observe(seconds)

    def prompt_looked_up(self, hit: bool) -> None:
        """One prompt's encoding was asked for."""
        self.prompts.labels("hit" if hit else "miss").inc()

    def decoded(self, seconds: float) -> None:
        """One image was decoded."""
        self.decode.observe(seconds)

    def padded(self, rows: int) -> None:
        """So many rows of a model call were padding."""
        self.padding.inc(rows)

    def called(self, compiled: bool) -> None:
        """One model call of a worker that compiles."""
        self.calls.labels("compiled" if compiled else "eager").inc()

    def call_compiled(self, seconds: float) -> None:
        """One more kind of call is compiled, which took so long."""
        self.compiled.inc()
        self.compile_time.inc(seconds)

    def call_not_compiled(self) -> None:
        """One cannot be compiled."""
        self.not_compiled.inc()

    def adapters_held(self, count: int, size_bytes: int) -> None:
        """So many LoRA adapters are in memory now."""
        self.adapters.set(count)
        self.adapter_bytes.set(size_bytes)

    def encoded_image(self, seconds: float) -> None:
        """One image or preview was encoded."""
        self.encode.observe(seconds)

    def recorded(self, job: Job, event: Event) -> None:
        """One event of a job's life."""
        waited_s = time.monotonic() - job.accepted_at
        match event:
            case Queued():
                if job.log.last_id == 1:
                    self.accepted.inc()
            case Started():
                self.queue_wait.observe(waited_s)
            case Progress(step=1):
                self.first_step.observe(waited_s)
            case Completed() | Failed() | Cancelled():
                self.jobs.labels(job.status.value).inc()
                if isinstance(event, Completed):
                    self.duration.observe(waited_s)

    def prompts_kept(self, size_bytes: int) -> None:
        """So many bytes of prompts' encodings are kept now."""
        self._prompt_bytes = size_bytes

    def watch(
        self,
        row_limit: Callable[[], int],
        memory: Callable[[], tuple[int | None, int | None]],
        peak_bytes: Callable[[], int | None] = lambda: None,
        weights_bytes: Callable[[], int] = lambda: 0,
    ) -> None:
        """Ask these at every scrape: rows that a call may have; total and used bytes, and the most that was, None where
        they are not known; and what the weights take."""
        self.row_limit.set_function(row_limit)

        def read(index: int) -> float:
            known = memory()[index]
            return math.nan if known is None else known

        def read_peak() -> float:
            """The most that was ever told: who measures a call lets the device count anew."""
            if (told := peak_bytes()) is None:
                return math.nan
            self._peak_bytes = max(self._peak_bytes, told)
            return self._peak_bytes

        self.memory.labels("total").set_function(lambda: read(0))
        self.memory.labels("used").set_function(lambda: read(1))
        self.memory.labels("peak").set_function(read_peak)
        self.memory.labels("weights").set_function(weights_bytes)
        self.memory.labels("prompt_cache").set_function(lambda: self._prompt_bytes)
        # NaN stays what it is as the first of the two.
        self.memory.labels("working_set").set_function(lambda: max(read(1) - weights_bytes() - self._prompt_bytes, 0.0))

    def exposition(self, waiting: int, running: int) -> bytes:
        """The text that Prometheus scrapes."""
        self.waiting.set(waiting)
        self.running.set(running)
        return generate_latest(self.registry)
