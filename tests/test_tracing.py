"""Traces of jobs as a collector gets them: over HTTP, in protobuf, from whole workers."""

from __future__ import annotations

import http.server
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from tests import real
from tests.conftest import eventually
from tests.fakes import FailsAtStep, StepByStep, make_params
from tests.serving import ServedWorker
from worker.errors import ConfigurationError
from worker.jobs.events import Cancelled, CancelReason, Completed, Failed, Progress, Queued, Started, Timings
from worker.jobs.job import Job
from worker.tracing import Tracing, phases, wanted

ROOT = Path(__file__).parent.parent
TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE}-{CALLER}-01"


class Collector:
    """Takes in what is exported, as it came over the wire."""

    def __init__(self) -> None:
        self.requests: list[ExportTraceServiceRequest] = []
        self.sending: list[Tracing] = []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                assert self.path == "/v1/traces"
                assert self.headers["Content-Type"] == "application/x-protobuf"
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.requests.append(ExportTraceServiceRequest.FromString(body))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *arguments: Any) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def spans(self) -> list[Span]:
        """All that has ended."""
        for tracing in self.sending:
            tracing.provider.force_flush()
        return [
            span
            for request in self.requests
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    def named(self) -> dict[str, Span]:
        """By name, where each comes once."""
        spans = self.spans()
        named = {span.name: span for span in spans}
        assert len(named) == len(spans), [span.name for span in spans]
        return named

    def resource(self) -> dict[str, Any]:
        """What the spans say of the process."""
        return values(self.requests[0].resource_spans[0].resource.attributes)


def values(attributes: Any) -> dict[str, Any]:
    def value(one: KeyValue) -> Any:
        return getattr(one.value, one.value.WhichOneof("value"))

    return {one.key: value(one) for one in attributes}


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    """One that the environment names."""
    for name in os.environ:
        if name.startswith("OTEL_"):
            monkeypatch.delenv(name)
    collector = Collector()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
    yield collector
    collector.server.shutdown()
    collector.server.server_close()


@pytest.fixture
def traced(collector: Collector, serve: Callable[..., ServedWorker]) -> Iterator[Callable[..., ServedWorker]]:
    """Start traced workers."""

    def start(*arguments: object, **settings: object) -> ServedWorker:
        collector.sending.append(Tracing.from_environment("test"))
        return serve(*arguments, tracing=collector.sending[-1], **settings)

    yield start
    for one in collector.sending:
        one.close(10.0)


Start = Callable[..., ServedWorker]


def test_one_trace_from_the_caller_to_the_decoder(traced: Start, collector: Collector) -> None:
    worker = traced(StepByStep(100))
    answer = worker.try_post(headers={"traceparent": TRACEPARENT}, seed=1)
    job_id = answer.json()["job_id"]
    worker.stream(job_id)
    job = worker.job(job_id)
    spans = collector.named()
    assert set(spans) == {"POST /v1/jobs", "job", "queue", "encode", "denoise", "decode"}
    assert {span.trace_id.hex() for span in spans.values()} == {TRACE}
    posted, whole = spans["POST /v1/jobs"], spans["job"]
    assert posted.parent_span_id.hex() == CALLER
    assert whole.parent_span_id == posted.span_id
    assert answer.headers["traceparent"] == f"00-{TRACE}-{posted.span_id.hex()}-01"
    told = values(whole.attributes)
    assert (told["sd_worker.job.id"], told["sd_worker.job.status"], told["sd_worker.job.steps"]) == (
        *(job_id, "completed", 4),
    )
    created = datetime.fromisoformat(job["created_at"]).timestamp()
    finished = datetime.fromisoformat(job["finished_at"]).timestamp()
    assert whole.start_time_unix_nano / 1e9 == pytest.approx(created, abs=0.002)
    assert whole.end_time_unix_nano / 1e9 == pytest.approx(finished, abs=0.002)
    at = whole.start_time_unix_nano
    for name in ("queue", "encode", "denoise", "decode"):
        span = spans[name]
        assert span.parent_span_id == whole.span_id
        assert span.start_time_unix_nano == at
        at = span.end_time_unix_nano
        assert (at - span.start_time_unix_nano) / 1e9 == pytest.approx(job["timings"][f"{name}_s"], abs=1e-5)
    assert at <= whole.end_time_unix_nano
    everything = b"".join(request.SerializeToString() for request in collector.requests)
    assert b"red circle" not in everything


def test_without_a_caller_the_trace_begins_here_and_is_told(traced: Start, collector: Collector) -> None:
    worker = traced()
    answer = worker.try_post()
    worker.stream(answer.json()["job_id"])
    spans = collector.named()
    _, trace_id, span_id, _ = answer.headers["traceparent"].split("-")
    assert (spans["POST /v1/jobs"].span_id.hex(), spans["POST /v1/jobs"].parent_span_id) == (span_id, b"")
    assert spans["job"].trace_id.hex() == trace_id == worker.known(answer.json()["job_id"]).trace_id


def test_a_caller_who_samples_nothing_gets_nothing(traced: Start, collector: Collector) -> None:
    worker = traced()
    answer = worker.try_post(headers={"traceparent": f"00-{TRACE}-{CALLER}-00"})
    worker.stream(answer.json()["job_id"])
    assert collector.spans() == []
    assert answer.headers["traceparent"].startswith(f"00-{TRACE}-")
    assert answer.headers["traceparent"].endswith("-00")


@pytest.mark.parametrize(
    ("route", "body"),
    [
        ("/v1/images/generations", {"prompt": "a red circle", "size": "64x64"}),
        ("/sdapi/v1/txt2img", {"prompt": "a red circle", "width": 64, "height": 64}),
    ],
)
def test_jobs_of_other_apis_are_below_their_requests(
    traced: Start, collector: Collector, route: str, body: dict[str, Any]
) -> None:
    worker = traced(sdapi=True)
    answer = worker.client.post(route, json=body, headers={"traceparent": TRACEPARENT})
    assert answer.status_code == 200, answer.text
    eventually(lambda: f"POST {route}" in collector.named())  # which ends when the answer is sent
    spans = collector.named()
    assert spans["job"].parent_span_id == spans[f"POST {route}"].span_id
    assert {span.trace_id.hex() for span in spans.values()} == {TRACE}


def test_who_only_looks_is_not_traced(traced: Start, collector: Collector) -> None:
    worker = traced()
    for path in ("/health", "/ready", "/metrics", "/v1/info", "/v1/jobs"):
        assert worker.client.get(path, headers={"traceparent": TRACEPARENT}).is_success
    assert collector.spans() == []


def test_a_failed_job_ends_in_the_phase_it_failed_in(traced: Start, collector: Collector) -> None:
    worker = traced(FailsAtStep(2))
    worker.finish()
    spans = collector.named()
    assert "decode" not in spans
    assert spans["job"].status.code == Status.STATUS_CODE_ERROR
    assert values(spans["job"].attributes)["error.type"] == "engine_failed"
    assert spans["denoise"].end_time_unix_nano == spans["job"].end_time_unix_nano


def test_a_job_that_is_cancelled_while_it_waits_only_waited(traced: Start, collector: Collector) -> None:
    worker = traced(StepByStep())
    worker.post()
    worker.runner.wait_for_calls(1)
    waiting = worker.post()["job_id"]
    worker.client.delete(f"/v1/jobs/{waiting}")
    with worker.client.stream("GET", f"/v1/jobs/{waiting}/stream") as response:
        response.read()
    spans = collector.spans()
    (job,) = (span for span in spans if span.name == "job")
    told = values(job.attributes)
    assert (told["sd_worker.job.id"], told["sd_worker.job.cancelled"]) == (waiting, "requested")
    assert [span.name for span in spans if span.parent_span_id == job.span_id] == ["queue"]


def test_a_job_of_an_earlier_process_stays_in_its_trace() -> None:
    exporter, provider = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracing = Tracing(provider)
    for trace_id in (TRACE, None):
        job = Job(make_params(), "job_0123456789abcdef01234567", trace_id=trace_id)
        for event in (Queued(0, None), Queued(0, None), Started(2), Completed((), Timings(0.0, 0.0, 0.0, 0.0, 0.0))):
            job.record(event)
            if job.log.last_id > 2:
                tracing.recorded(job, event)
    first, second = (span for span in exporter.get_finished_spans() if span.name == "job")
    assert first.context is not None
    assert f"{first.context.trace_id:032x}" == TRACE
    assert first.parent is not None
    assert second.parent is None
    assert first.attributes is not None
    assert first.attributes["sd_worker.job.attempt"] == 2


def ended(job: Job, *events: Any, after_s: float) -> list[tuple[str, float, float]]:
    for event in events:
        job.record(event, job.created_at + timedelta(seconds=after_s))
    begun = job.created_at.timestamp()
    return [(name, round(begins - begun, 6), round(ends - begun, 6)) for name, begins, ends in phases(job)]


def made() -> Job:
    return Job(make_params(), created_at=datetime(2026, 1, 1, tzinfo=UTC))


def test_phases_by_how_a_job_ended() -> None:
    queued, started, step = Queued(0, None), Started(1), Progress(1, 4, None)
    whole = Timings(1.0, 0.5, 2.0, 0.25, 4.0)
    assert ended(made(), queued, started, step, Completed((), whole), after_s=4.0) == [
        *(("queue", 0.0, 1.0), ("encode", 1.0, 1.5), ("denoise", 1.5, 3.5), ("decode", 3.5, 3.75)),
    ]
    in_text = Failed("engine_failed", "", True, Timings(queue_s=1.0, total_s=1.5))
    assert ended(made(), queued, started, in_text, after_s=1.5) == [("queue", 0.0, 1.0), ("encode", 1.0, 1.5)]
    waited = Cancelled(CancelReason.TIMEOUT, Timings(queue_s=3.0, total_s=3.0))
    assert ended(made(), queued, waited, after_s=3.0) == [("queue", 0.0, 3.0)]
    assert ended(made(), queued, Failed("poisoned", "", False), after_s=2.0) == [("queue", 0.0, 2.0)]
    late = Timings(1.0, 0.5, 2.0, 9.0, 4.0)
    assert ended(made(), queued, started, Completed((), late), after_s=4.0)[-1] == ("decode", 3.5, 4.0)


@pytest.mark.guard(200)
def test_the_real_worker_tells_its_last_job_before_it_goes(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=here")
    with real.running("--worker-id", "gpu-7") as worker:
        job = worker.client.post("/v1/jobs", json={"prompt": "a red circle", "steps": 2}).json()
        worker.client.get(job["sse_url"])
    spans, resource = collector.named(), collector.resource()
    assert {"job", "queue", "encode", "denoise", "decode"} <= set(spans)
    assert (resource["service.name"], resource["service.instance.id"]) == ("sd-worker", "gpu-7")
    assert resource["deployment.environment"] == "here"
    assert spans["denoise"].end_time_unix_nano > spans["denoise"].start_time_unix_nano


@pytest.mark.parametrize(
    ("environment", "on"),
    [
        ({}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4318"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "https://collector.example/v1/traces"}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4318", "OTEL_SDK_DISABLED": "true"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4318", "OTEL_TRACES_EXPORTER": "none"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "", "OTEL_TRACES_EXPORTER": "otlp"}, False),
    ],
)
def test_the_usual_variables_turn_it_on(environment: dict[str, str], on: bool) -> None:
    assert wanted(environment) is on


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("OTEL_TRACES_EXPORTER", "zipkin", "OTEL_TRACES_EXPORTER must be otlp or none"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", "OTEL_EXPORTER_OTLP_PROTOCOL must be http/protobuf"),
        ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/json", "must be http/protobuf"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "localhost:4318", "is not the address of a collector"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://[::1", "is not the address of a collector"),
    ],
)
def test_what_cannot_be_sent_is_refused_at_the_start(name: str, value: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        wanted({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4318", name: value})


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "100000", "max_export_batch_size must be"),
        ("OTEL_ATTRIBUTE_COUNT_LIMIT", "x", "OTEL_ATTRIBUTE_COUNT_LIMIT must be"),
    ],
)
def test_what_the_sdk_refuses_is_refused_at_the_start(
    collector: Collector, monkeypatch: pytest.MonkeyPatch, name: str, value: str, said: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match=f"^OpenTelemetry refuses one of its settings .*: {said}.*$"):
        Tracing.from_environment("test")


def test_missing_packages_are_one_line_at_the_start() -> None:
    launch = "import sys; sys.modules['opentelemetry.sdk.trace'] = None; from worker.main import cpu; sys.exit(cpu())"
    done = subprocess.run(
        [sys.executable, "-c", launch, "--port", "0"],
        env=os.environ | {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4318"},
        capture_output=True,
        text=True,
        check=False,
    )
    told = "OTEL_EXPORTER_OTLP_ENDPOINT is set, but traces need packages that are not there"
    assert (done.returncode, done.stderr) == (2, f"sd-worker-cpu: {told}: pip install 'sd-worker[tracing]'\n")


def test_a_collector_that_is_gone_holds_up_nobody(monkeypatch: pytest.MonkeyPatch, serve: Start) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    tracing = Tracing.from_environment("test")
    worker = serve(tracing=tracing)
    assert worker.finish()["status"] == "completed"
    began = datetime.now(UTC)
    tracing.close(0.2)
    assert datetime.now(UTC) - began < timedelta(seconds=5)


def test_nothing_of_the_sdk_is_imported_when_it_is_off() -> None:
    program = (
        "import sys, worker.main, worker.serving; from tests.serving import ServedWorker; worker = ServedWorker();"
        "worker.finish(); worker.leave(); worker.wait_stopped(); print(*sys.modules)"
    )
    told = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if not name.startswith("OTEL_")},
        capture_output=True,
        text=True,
        check=True,
    )
    modules = told.stdout.split()
    assert "worker.tracing" in modules
    assert [name for name in modules if name.startswith(("opentelemetry.sdk", "opentelemetry.exporter"))] == []
