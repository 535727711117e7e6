"""Endings: one for each job, whatever races with its completion, and however the worker is stopped."""

from __future__ import annotations

import random
import threading
from collections import Counter
from pathlib import Path

import pytest

from tests.fakes import Paced
from tests.process import WorkerProcess
from tests.reliability.conftest import Report
from tests.serving import ServedWorker, smaller

ENDINGS = ("completed", "failed", "cancelled")


@pytest.mark.guard(900)
def test_a_cancel_that_races_with_the_last_step(report: Report) -> None:
    races = report.pick(1000, 60)
    rng = random.Random(5)
    worker = ServedWorker(Paced(0.001), limits=smaller(queue_capacity=64))
    ended: Counter[str] = Counter()
    never = threading.Event()
    try:
        for number in range(races):
            job_id = worker.post(steps=3, seed=number)["job_id"]
            never.wait(rng.random() * 0.008)
            statuses = [worker.client.delete(f"/v1/jobs/{job_id}").status_code for _ in range(2)]
            assert set(statuses) <= {200, 202}
            names = [event.name for event in worker.stream(job_id)]
            assert sum(name in ENDINGS for name in names) == 1
            assert names[-1] == worker.job(job_id)["status"]
            ended[names[-1]] += 1
    finally:
        worker.leave()
        worker.wait_stopped()
    told = ", ".join(f"{count} {name}" for name, count in sorted(ended.items()))
    report.add("Cancel", "against the last step: one ending each", f"{races} races, each cancelled twice", told)
    assert len(ended) == 2, "both happen"


@pytest.mark.guard(3600)
@pytest.mark.parametrize("kept", [False, True], ids=["in memory", "state directory"])
def test_stopped_at_any_moment(report: Report, tmp_path: Path, kept: bool) -> None:
    times = report.pick(100, 4)
    rng = random.Random(9)
    never = threading.Event()
    endings: Counter[str] = Counter()
    resumed = 0
    with WorkerProcess(tmp_path / "state" if kept else None, step_s=0.003, drain_s=0.05) as worker:
        for number in range(times):
            jobs = [worker.post(steps=rng.randint(1, 60))["job_id"] for _ in range(12)]
            seen: dict[str, list[tuple[int, str]]] = {job_id: [] for job_id in jobs}

            reading = threading.Barrier(len(jobs) + 1)

            def read(
                job_id: str, seen: dict[str, list[tuple[int, str]]] = seen, reading: threading.Barrier = reading
            ) -> None:
                with worker.following(job_id) as events:
                    reading.wait()
                    seen[job_id] += [(event.id, event.name) for event in events]

            readers = [threading.Thread(target=read, args=(job_id,)) for job_id in jobs]
            for reader in readers:
                reader.start()
            reading.wait()
            never.wait(rng.random() * 0.2)
            worker.terminate()
            for reader in readers:
                reader.join()
            worker.start()
            for job_id, events in seen.items():
                assert [event_id for event_id, _ in events] == list(range(1, len(events) + 1))
                if not events or events[-1][1] not in ENDINGS:
                    assert kept, f"a stream without its ending, at stop {number}"
                    after = len(events)
                    events += [(event.id, event.name) for event in worker.stream(job_id, after=after)]
                    assert [event_id for event_id, _ in events] == list(range(1, len(events) + 1))
                    resumed += 1
                endings[events[-1][1]] += 1
    assert sum(endings[name] for name in ENDINGS) == 12 * times
    told = ", ".join(f"{count} {name}" for name, count in sorted(endings.items()))
    where = "with a state directory" if kept else "in memory"
    figure = f"{told}; {resumed} streams went on after the restart" if kept else told
    report.add(
        "Drain",
        f"SIGTERM at any moment, {where}: no stream without its ending",
        f"{times} stops, 12 readers each",
        figure,
    )
