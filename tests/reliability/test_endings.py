"""Endings: one for each job, whatever races with its completion, and however the worker is stopped."""

from __future__ import annotations

import contextlib
import random
import threading
from collections import Counter
from pathlib import Path

import httpx
import pytest

from tests.fakes import Paced
from tests.process import WorkerProcess
from tests.real import running
from tests.reliability.conftest import Report
from tests.serving import ENDINGS, ServedWorker, SseEvent, events_of, smaller


@pytest.mark.guard(900)
def test_a_cancel_that_races_with_the_last_step(report: Report) -> None:
    races, more = report.pick(1000, 60), 1000
    rng = random.Random(5)
    worker = ServedWorker(Paced(0.001), limits=smaller(queue_capacity=64))
    ended: Counter[str] = Counter()
    never = threading.Event()
    try:
        for number in range(races + more):
            if number >= races and len(ended) == 2:
                break  # else on and on, since on a busy machine one side may win for long
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
    report.add("Cancel", "against the last step: one ending each", f"{ended.total()} races, each cancelled twice", told)
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


@pytest.mark.guard(3600)
def test_killed_at_any_moment(report: Report, tmp_path: Path) -> None:
    kills, each = report.pick(100, 6), 4  # fewer jobs than are kept
    rng = random.Random(3)
    never = threading.Event()
    accepted: list[str] = []
    seen: dict[str, dict[int, SseEvent]] = {}
    endings: Counter[str] = Counter()

    def read(job_id: str) -> None:
        """As much as there is, from where it broke off; what was told once is told the same for ever."""
        told = seen.setdefault(job_id, {})
        with contextlib.suppress(httpx.TransportError), worker.following(job_id, max(told, default=0)) as events:
            for event in events:
                assert event.id == max(told, default=0) + 1
                told[event.id] = event

    with WorkerProcess(tmp_path, step_s=0.004) as worker:
        for number in range(kills):
            jobs = [worker.post(steps=rng.randint(1, 12), seed=len(accepted))["job_id"] for _ in range(each)]
            accepted += jobs
            readers = [threading.Thread(target=read, args=(job_id,)) for job_id in jobs]
            for reader in readers:
                reader.start()
            never.wait(rng.random() * 0.15)
            worker.kill()
            for reader in readers:
                reader.join()
            worker.start(step_s=0.0005 if number == kills - 1 else None)
        for job_id in accepted:
            if not any(event.name in ENDINGS for event in seen[job_id].values()):
                read(job_id)
            told = worker.stream(job_id)
            assert {event.id: event for event in told} == seen[job_id]
            assert [event.id for event in told] == list(range(1, len(told) + 1))
            assert [event.name in ENDINGS for event in told] == [False] * (len(told) - 1) + [True]
            endings[told[-1].name] += 1
            if told[-1].name == "completed":
                assert worker.picture(job_id)
            else:
                assert worker.job(job_id)["error"]["code"] == "poisoned"
        listed = worker.client.get("/v1/jobs", params={"limit": 1000}).json()["jobs"]
        assert [job["job_id"] for job in reversed(listed)] == accepted
    kept = {file.name.split(".")[0] for file in (tmp_path / "images").iterdir()}
    assert kept == {job["job_id"] for job in listed if job["status"] == "completed"}
    told = ", ".join(f"{count} {name}" for name, count in sorted(endings.items()))
    report.add(
        "Durability",
        "`kill -9` at any moment: no job lost, no event lost, repeated or changed, one ending each",
        f"{kills} kills, {len(accepted)} jobs, each with a reader",
        f"{told} (for having run during two kills)" if "failed" in endings else told,
    )


@pytest.mark.guard(600)
def test_cancelled_neighbours_leave_no_trace(report: Report) -> None:
    """With exact numerics, so that nothing but a neighbour's doing could change a byte."""
    rounds = report.pick(25, 2)
    rng = random.Random(11)
    asked = [{"prompt": f"a {colour} circle", "steps": 8, "seed": 5} for colour in ("red", "green", "blue")]

    def pictures(url: str, cancelled: int) -> list[bytes]:
        with httpx.Client(base_url=url, trust_env=False, timeout=120) as client:
            jobs, cancels = [], []
            for body in asked:
                jobs.append(client.post("/v1/jobs", json=body).json())
                for _ in range(cancelled):
                    doomed = client.post("/v1/jobs", json={"prompt": "a yellow star", "steps": 60}).json()
                    cancel = threading.Timer(rng.random() * 0.5, client.delete, [f"/v1/jobs/{doomed['job_id']}"])
                    cancel.start()
                    cancels.append(cancel)
            drawn = []
            for job in jobs:
                with client.stream("GET", job["sse_url"]) as response:
                    assert [event.name for event in events_of(response)][-1] == "completed"
                drawn.append(client.get(f"/v1/jobs/{job['job_id']}/images/0").raise_for_status().content)
            for cancel in cancels:  # a quick worker is done before the last of them
                cancel.join()
            return drawn

    with running("--numerics", "exact", "--max-rows", "8") as fresh:
        alone = pictures(fresh.url, 0)
    with running("--numerics", "exact", "--max-rows", "8") as worker:
        for _ in range(rounds):
            assert pictures(worker.url, 2) == alone
        assert pictures(worker.url, 0) == alone
    report.add(
        "Cancel",
        "neighbours and followers are as a fresh process draws them",
        f"built-in model, exact numerics, {6 * rounds} cancels beside {3 * rounds} jobs, and 3 jobs after them",
        "the same bytes",
    )
