"""The real worker on the built-in model, with its device full: health answers, and estimates come true."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Iterator

import pytest

from tests.real import Worker, client_of, running
from tests.reliability.conftest import Report, p99
from tests.serving import events_of

MOST_PROBE_S = 0.100
MOST_ERROR = 0.25
CLIENTS = 6
STEPS = 20
LAST_MOMENTS_S = 0.2


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    with running("--max-rows", "8") as worker:
        yield worker


@pytest.mark.guard(600)
def test_health_and_estimates_under_load(worker: Worker, report: Report) -> None:
    """Clients in a closed loop with more jobs than fit into a call; probes beside them all the while."""
    jobs_each = report.pick(12, 2)
    errors: list[float] = []
    completed = 0
    lock = threading.Lock()

    def live(client_number: int) -> None:
        nonlocal completed
        with client_of(worker.url) as client:
            for number in range(jobs_each):
                seed = 100 * client_number + number
                job = client.post("/v1/jobs", json={"prompt": "a red star", "steps": STEPS, "seed": seed}).json()
                with client.stream("GET", job["sse_url"]) as response:
                    told = [(time.monotonic(), event) for event in events_of(response)]
                ended = time.monotonic()
                if told[-1][1].name != "completed":
                    return
                # Not of the first job, before which nothing was measured, nor of the last moments, which anybody knows.
                with lock:
                    completed += 1
                    errors.extend(
                        abs(at + eta_s - ended) / (ended - at)
                        for at, event in told
                        if number and (eta_s := event.data.get("eta_s")) is not None and ended - at > LAST_MOMENTS_S
                    )

    clients = [threading.Thread(target=live, args=(number,)) for number in range(CLIENTS)]
    for client in clients:
        client.start()
    waits: dict[str, list[float]] = {"/health": [], "/ready": []}
    with client_of(worker.url) as probe:
        while any(client.is_alive() for client in clients):
            for path, samples in waits.items():
                began = time.monotonic()
                assert probe.get(path).status_code == 200
                samples.append(time.monotonic() - began)
            clients[0].join(0.02)
    for client in clients:
        client.join()
    assert completed == CLIENTS * jobs_each
    tried = f"built-in model, {CLIENTS} clients with jobs of {STEPS} steps, rows for four of them"
    for path, samples in waits.items():
        report.add(
            "Health",
            f"`{path}` answers while the device is busy",
            f"{len(samples)} times; {tried}",
            f"p99 {1e3 * p99(samples):.1f} ms",
        )
    error = statistics.median(errors)
    report.add(
        "Back-pressure",
        "estimates come true",
        f"{len(errors)} times `eta_s`; {tried}",
        f"median error {100 * error:.0f} % of what was left",
    )
    if report.long:
        assert all(p99(samples) <= MOST_PROBE_S for samples in waits.values())
        assert error <= MOST_ERROR
