"""Many open streams: what one costs in memory, that health answers meanwhile, and that every reader gets everything."""

from __future__ import annotations

import socket
import time
from contextlib import ExitStack

import pytest

from tests.process import WorkerProcess
from tests.reliability.conftest import Report, p99, resident_bytes
from tests.serving import events_of

MOST_STREAM_BYTES = 100_000
MOST_HEALTH_S = 0.050


def open_stream(worker: WorkerProcess, job_id: str) -> tuple[socket.socket, bytes]:
    """A connection that has asked for a job's stream, and what has come of the answer."""
    connection = socket.create_connection(("127.0.0.1", worker.port), timeout=15)
    connection.sendall(f"GET /v1/jobs/{job_id}/stream HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    begun = connection.recv(65536)
    assert begun.startswith(b"HTTP/1.1 200")
    return connection, begun


@pytest.mark.guard(600)
def test_many_open_streams(report: Report) -> None:
    count = report.pick(500, 60)
    with WorkerProcess(None, step_s=0.1) as worker, ExitStack() as stack:
        jobs = [worker.post(steps=150)["job_id"] for _ in range(8)]
        worker.wait_for(jobs[0], "progress")
        for job_id in jobs:  # what the first streams load belongs to no stream
            open_stream(worker, job_id)[0].close()
        before = resident_bytes(worker.process.pid)
        streams = [open_stream(worker, jobs[number % 8]) for number in range(count)]
        for stream, _ in streams:
            stack.enter_context(stream)
        each = (resident_bytes(worker.process.pid) - before) / count
        waits: list[float] = []
        for _ in range(200):
            began = time.monotonic()
            assert worker.client.get("/health").status_code == 200
            waits.append(time.monotonic() - began)
        received = []
        for stream, begun in streams:
            data = begun
            while b"event: completed" not in data and (piece := stream.recv(1 << 20)):
                data += piece
            received.append(data.count(b"event: progress"))
        complete = received.count(150)
    report.add(
        "Streams", "memory of an open stream", f"{count} streams of 8 running jobs", f"{each / 1000:.0f} kB each"
    )
    report.add(
        "Streams",
        "health beside many of them",
        f"200 times, one after the other, {count} streams open",
        f"p99 {1e3 * p99(waits):.1f} ms",
    )
    report.add("Streams", "every reader gets every step", f"{count} readers", f"{complete} of {count}")
    assert complete == count
    if report.long:
        assert each <= MOST_STREAM_BYTES
        assert p99(waits) <= MOST_HEALTH_S


@pytest.mark.guard(600)
def test_from_every_id(report: Report) -> None:
    """By header and by query, while the job runs and after its end; previews are events like others."""
    steps = report.pick(150, 12)
    replays = 0
    with WorkerProcess(None, step_s=0.005) as worker:
        job_id = worker.post(steps=steps, preview={"every": 1})["job_id"]
        running = 0
        while worker.job(job_id)["status"] != "completed":
            with worker.following(job_id, running) as events:
                event = next(events)
            assert event.id == running + 1
            running = event.id
        whole = worker.stream(job_id)
        assert [event.id for event in whole] == list(range(1, len(whole) + 1))
        for after in range(len(whole)):
            assert worker.stream(job_id, after) == whole[after:]
            asked = f"/v1/jobs/{job_id}/stream?last_event_id={after}"
            with worker.client.stream("GET", asked) as response:
                assert list(events_of(response)) == whole[after:]
            replays += 2
        seen = {"Last-Event-ID": str(len(whole))}
        assert worker.client.get(f"/v1/jobs/{job_id}/stream", headers=seen).status_code == 204
    report.add(
        "Streams",
        "from every id, without gap or repeat",
        f"{len(whole)} events with previews, by header and by query: {replays} replays, {running} resumptions before",
        "all the same",
    )
