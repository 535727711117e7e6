"""Jobs as OpenTelemetry traces: one span a job, below it queue, encode, denoise and decode, sent over OTLP.

On where the usual environment variables name a collector (OpenTelemetry specification, "OTLP Exporter"); nothing of
OpenTelemetry's SDK is imported otherwise. No prompt goes into a span.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from worker import __version__
from worker.errors import ConfigurationError
from worker.jobs.events import Cancelled, Ending, Event, Failed, Queued
from worker.jobs.job import Job

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span

TRACES_ENDPOINT, ENDPOINT = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"
PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
PROTOCOL = "http/protobuf"
PHASES = ("queue", "encode", "denoise", "decode")


def wanted(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether a collector is named. Raises ConfigurationError for what cannot be done, before anything is lost."""
    endpoint = environment.get(TRACES_ENDPOINT) or environment.get(ENDPOINT)
    exporter = environment.get("OTEL_TRACES_EXPORTER", "").strip().lower() or "otlp"
    disabled = environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    if not endpoint or exporter == "none" or disabled:
        return False
    if exporter != "otlp":
        raise ConfigurationError("OTEL_TRACES_EXPORTER must be otlp or none")
    protocol = next((value for name in PROTOCOLS if (value := environment.get(name))), PROTOCOL)
    if protocol != PROTOCOL:
        raise ConfigurationError(f"{PROTOCOLS[1]} must be {PROTOCOL}: traces go by no other protocol")
    try:
        address = urlsplit(endpoint)
        whole = address.scheme in ("http", "https") and bool(address.hostname)
    except ValueError:
        whole = False
    if not whole:
        raise ConfigurationError(f"{ENDPOINT} is not the address of a collector, such as http://localhost:4318")
    return True


class Tracing:
    """One for a worker. `recorded` is called on the event loop; sending goes on in a thread beside."""

    def __init__(self, provider: TracerProvider) -> None:
        self.provider = provider
        self._tracer = provider.get_tracer("sd-worker", __version__)
        self._spans: dict[str, Span] = {}

    @classmethod
    def from_environment(cls, worker_id: str) -> Tracing:
        """Call it where `wanted`. Raises ConfigurationError where the packages for it are not installed, or refuse a
        setting."""
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import OTELResourceDetector, Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
        except ImportError:
            raise ConfigurationError(
                f"{ENDPOINT} is set, but traces need packages that are not there: pip install 'sd-worker[tracing]'"
            ) from None
        own = {"service.name": "sd-worker", "service.version": __version__, "service.instance.id": worker_id}
        try:
            # What the operator says in OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES goes before it.
            resource = Resource.create(own).merge(OTELResourceDetector().detect())
            provider = TracerProvider(resource=resource, shutdown_on_exit=False)
            provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        except ValueError as error:
            raise ConfigurationError(f"OpenTelemetry refuses one of its settings (OTEL_…): {error}") from None
        return cls(provider)

    def recorded(self, job: Job, event: Event) -> None:
        """One event of a job's life; the first comes within the request that posted it, whose span is the parent."""
        if isinstance(event, Queued) and job.log.last_id == 1:
            self._spans[job.id] = self._begin(job)
        elif isinstance(event, Ending):
            span = self._spans.pop(job.id) if job.id in self._spans else self._begin_again(job)
            self._end(job, event, span)

    def close(self, timeout_s: float) -> None:
        """Send what is left, for no longer than that: a collector that is gone holds up nobody."""
        sending = threading.Thread(target=self.provider.shutdown, name="last spans", daemon=True)
        with contextlib.suppress(RuntimeError):  # there is no memory for it
            sending.start()
            sending.join(timeout_s)

    def _begin(self, job: Job) -> Span:
        params = job.params
        asked = {
            "sd_worker.job.id": job.id,
            "sd_worker.job.task": params.task.value,
            "sd_worker.job.width": params.width,
            "sd_worker.job.height": params.height,
            "sd_worker.job.steps": params.steps_drawn,
            "sd_worker.job.images": params.num_images,
            "sd_worker.job.sampler": params.sampler,
        }
        return self._tracer.start_span("job", start_time=_ns(job.created_at.timestamp()), attributes=asked)

    def _begin_again(self, job: Job) -> Span:
        """A job of an earlier process, whose span went with that one: it stays in the trace that the post began."""
        from opentelemetry import context, trace

        if job.trace_id is None:
            return self._begin(job)
        # Which span of the trace it was posted by is not known any more; one that is not there shows that, and is the
        # same for a job in every process.
        posted_by = int(job.id[-16:], 16)
        known = trace.SpanContext(int(job.trace_id, 16), posted_by, True, trace.TraceFlags(trace.TraceFlags.SAMPLED))
        token = context.attach(trace.set_span_in_context(trace.NonRecordingSpan(known)))
        try:
            return self._begin(job)
        finally:
            context.detach(token)

    def _end(self, job: Job, ending: Ending, span: Span) -> None:
        from opentelemetry import trace

        below = trace.set_span_in_context(span)
        for name, begins_s, ends_s in phases(job):
            phase = self._tracer.start_span(name, context=below, start_time=_ns(begins_s))
            phase.end(_ns(ends_s))
        span.set_attribute("sd_worker.job.status", job.status.value)
        span.set_attribute("sd_worker.job.attempt", job.attempt)
        match ending:
            case Failed(code):
                span.set_attribute("error.type", code)
                span.set_status(trace.StatusCode.ERROR)
            case Cancelled(reason):
                span.set_attribute("sd_worker.job.cancelled", reason.value)
        assert job.finished_at is not None
        span.end(_ns(job.finished_at.timestamp()))


def phases(job: Job) -> Iterator[tuple[str, float, float]]:
    """Where an ended job's time went: phase, begin and end in seconds since 1970, one behind the other.

    The phase in which a job failed or was cancelled lasts until then. Decoding counts as if it all came at the end,
    also where some of a job's pictures were done before others.
    """
    assert job.finished_at is not None
    at, finished = job.created_at.timestamp(), job.finished_at.timestamp()
    timings = job.timings
    if timings.queue_s is None:  # ended by the service, without the engine's readings
        yield "queue", at, (job.started_at or job.finished_at).timestamp()
        return
    for name in PHASES:
        seconds: float | None = getattr(timings, f"{name}_s")
        ends = finished if seconds is None else min(at + seconds, finished)
        yield name, at, ends
        if seconds is None or job.started_at is None:
            return
        at = ends


def _ns(seconds: float) -> int:
    return round(seconds * 1e9)
