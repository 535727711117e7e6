"""Health, readiness, metrics and info, in every state of the engine."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import asdict

import pytest

from tests.conftest import eventually
from tests.fakes import FACTS, LIMITS, FailsToLoad, LoadsWhenTold, LosesDevice, StepByStep
from tests.serving import ENDINGS, ServedWorker, events_of
from worker.metrics import Metrics

Serve = Callable[..., ServedWorker]


def test_ready_goes_from_loading_over_ready_to_draining(serve: Serve) -> None:
    worker = serve(LoadsWhenTold(), wait_ready=False, linger_s=5.0)
    assert worker.runner.loading.wait(10)
    response = worker.client.get("/ready")
    assert (response.status_code, response.json()) == (503, {"ready": False, "reason": "loading", "progress": 0.25})
    assert worker.client.get("/health").status_code == 200
    worker.runner.finish_loading()
    eventually(lambda: worker.client.get("/ready").status_code == 200)
    assert worker.client.get("/ready").json() == {"ready": True}
    worker.begin_shutdown()
    response = worker.client.get("/ready")
    assert (response.status_code, response.json()) == (503, {"ready": False, "reason": "draining"})
    assert worker.client.get("/health").status_code == 200


def test_healthy(instant: ServedWorker) -> None:
    response = instant.client.get("/health")
    assert (response.status_code, response.json()) == (200, {"status": "healthy"})


@pytest.mark.filterwarnings("default")
def test_a_dead_engine_is_neither_healthy_nor_ready_and_takes_no_jobs(serve: Serve) -> None:
    worker = serve(LosesDevice(1))
    assert worker.finish()["status"] == "failed"
    eventually(lambda: worker.client.get("/health").status_code == 503)
    response = worker.client.get("/ready")
    assert (response.status_code, response.json()) == (503, {"ready": False, "reason": "failed"})
    refused = worker.try_post()
    assert (refused.status_code, refused.json()["code"]) == (503, "worker_failed")
    assert int(refused.headers["retry-after"]) > 0


def test_a_model_that_cannot_be_loaded_fails_the_waiting_jobs(serve: Serve) -> None:
    runner = FailsToLoad()
    worker = serve(runner, wait_ready=False)
    eventually(lambda: worker.client.get("/ready").json().get("reason") == "failed")
    assert worker.client.get("/health").status_code == 503
    assert worker.try_post().status_code == 503


def test_the_peak_is_the_most_that_was_ever_told() -> None:
    """Whoever measures what a call takes lets the device count anew."""
    told = iter((None, 100, 300, 50))
    metrics = Metrics()
    metrics.watch(lambda: 2, lambda: (None, None), lambda: next(told))
    peaks = [
        float(re.search(r'sdw_memory_bytes{kind="peak"} (\S+)', metrics.exposition(0, 0).decode())[1]) for _ in range(4)
    ]
    assert math.isnan(peaks[0])
    assert peaks[1:] == [100, 300, 300]


def test_what_is_not_known_is_no_number() -> None:
    metrics = Metrics()
    metrics.watch(lambda: 2, lambda: (1000, None))
    samples = samples_of(metrics.exposition(0, 0).decode())
    assert math.isnan(samples['sdw_memory_bytes{kind="used"}'])
    assert math.isnan(samples['sdw_memory_bytes{kind="working_set"}'])
    metrics.watch(lambda: 2, lambda: (1000, 10), weights_bytes=lambda: 20)
    assert samples_of(metrics.exposition(0, 0).decode())['sdw_memory_bytes{kind="working_set"}'] == 0


def test_every_ending_is_there_before_the_first() -> None:
    samples = samples_of(Metrics().exposition(0, 0).decode())
    assert [samples[f'sdw_jobs_total{{status="{ending}"}}'] for ending in ENDINGS] == [0, 0, 0]


def test_info(instant: ServedWorker) -> None:
    info = instant.client.get("/v1/info").json()
    assert set(info) == {
        "worker",
        "model",
        "tasks",
        "samplers",
        "loras",
        "controls",
        "embeddings",
        "upscalers",
        "limits",
    }
    assert set(info["worker"]) == {
        "id", "instance_id", "url", "model_id", "backend", "device", "status", "implementation", "version", "tasks",
        "queue", "memory",
    }  # fmt: skip
    assert set(info["worker"]["queue"]) == {"waiting", "running", "capacity", "eta_s"}
    assert set(info["worker"]["memory"]) == {"total_bytes", "used_bytes"}
    assert info["worker"]["implementation"] == "sd-worker"
    assert info["worker"]["status"] in ("starting", "ready", "busy", "stopping", "stopped")
    assert info["model"] == {
        "id": "fake",
        "family": "sd",
        "dtype": "float32",
        "width": 64,
        "height": 64,
        "multiple": 8,
        "steps": 4,
        "guidance_scale": 5.0,
        "sampler": "euler",
        "guidance": "rows",
        "weights_dtype": None,
        "numerics": "fast",
        "compile": None,
    }
    assert info["tasks"] == ["text-to-image"]
    assert info["samplers"] == list(FACTS.samplers)
    assert (info["loras"], info["controls"], info["embeddings"]) == ([], [], [])
    assert info["limits"] == asdict(LIMITS) | {"queue_capacity": 1000, "max_steps_by_sampler": {}}


def test_every_sampler_that_info_names_is_accepted(instant: ServedWorker) -> None:
    for sampler in instant.client.get("/v1/info").json()["samplers"]:
        assert instant.finish(sampler=sampler)["status"] == "completed"


def test_metrics(serve: Serve) -> None:
    worker = serve(StepByStep(), max_rows=2)
    with worker.client.stream("GET", worker.post()["sse_url"]) as response:
        worker.runner.wait_for_calls(1)
        worker.post()
        found = worker.client.get("/metrics")
        assert found.headers["content-type"].startswith("text/plain; version=")
        samples = samples_of(found.text)
        assert (samples["sdw_queue_waiting"], samples["sdw_jobs_running"]) == (1, 1)
        assert samples["sdw_jobs_accepted_total"] == 2
        worker.runner.allow_all()
        assert list(events_of(response))[-1].name == "completed"
    eventually(lambda: samples_of(worker.client.get("/metrics").text).get('sdw_jobs_total{status="completed"}') == 2)
    samples = samples_of(worker.client.get("/metrics").text)
    assert samples['sdw_step_seconds_count{rows="2"}'] == samples["sdw_step_rows_count"] == 8
    assert samples["sdw_encode_image_seconds_count"] == 2
    assert (samples["sdw_row_limit"], samples["sdw_padding_rows_total"]) == (2, 0)
    assert samples['sdw_memory_bytes{kind="total"}'] == 1000
    assert math.isnan(samples['sdw_memory_bytes{kind="used"}']), "what is not known is no number"
    assert samples["sdw_decode_image_seconds_count"] == 2
    assert samples["sdw_job_seconds_count"] == samples["sdw_first_step_seconds_count"] == 2
    assert all(name.startswith("sdw_") for name in samples)


def samples_of(text: str) -> dict[str, float]:
    lines = [line.rpartition(" ") for line in text.splitlines() if line and not line.startswith("#")]
    return {name: float(value) for name, _, value in lines}
