"""Post, read, cut, resume, cancel, kill, drain and restart in every order that is found: the promises of a stream hold.

The server is real and in a process of its own; only its runner is a fake.
"""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule

from tests.process import WorkerProcess
from tests.reliability.conftest import Report
from tests.serving import ENDINGS, SseEvent

QUICK_S = 0.001


@dataclass
class Known:
    """What a client knows of its job: every event that it was ever given, by number, and its picture."""

    job_id: str
    params: dict[str, Any]
    events: dict[int, SseEvent] = field(default_factory=dict)
    picture: bytes | None = None

    @property
    def last_id(self) -> int:
        return max(self.events, default=0)

    @property
    def ending(self) -> SseEvent | None:
        return next((event for event in self.events.values() if event.name in ENDINGS), None)

    def saw(self, event: SseEvent, after: int) -> None:
        """Check one event against all that was seen: no gap, no repeat, nothing that changes, nothing behind an end."""
        assert event.id == after + 1, f"{event.id} after {after}"
        assert event.data["job_id"] == self.job_id
        assert self.events.setdefault(event.id, event) == event, "an event is what it was"
        ending = self.ending
        assert ending is None or event.id <= ending.id, "nothing follows on an ending"


class Clients(RuleBasedStateMachine):
    """Some clients with their jobs, and an operator who is not kind to the worker."""

    jobs = Bundle("jobs")
    runs = 0
    acts: ClassVar[Counter[str]] = Counter()

    def __init__(self) -> None:
        super().__init__()
        type(self).runs += 1
        self.folder = Path(tempfile.mkdtemp(prefix="sd-worker-state-"))
        self.worker = WorkerProcess(self.folder, step_s=0.004)
        self.known: dict[str, Known] = {}
        self.keys: dict[str, Known] = {}

    @rule(target=jobs, steps=st.integers(1, 12), priority=st.sampled_from(["low", "normal", "high"]))
    def post(self, steps: int, priority: str) -> Known:
        self.acts["post"] += 1
        return self._accepted(self.worker.post(steps=steps, priority=priority, seed=7))

    @rule(target=jobs, key=st.sampled_from(["a", "b"]))
    def post_again(self, key: str) -> Any:
        self.acts["post again"] += 1
        answer = self.worker.try_post(key=key, steps=5, seed=7).json()
        if key in self.keys:
            assert answer["job_id"] == self.keys[key].job_id, "one key, one job"
            return multiple()
        self.keys[key] = self._accepted(answer)
        return self.keys[key]

    @rule(job=jobs, count=st.integers(1, 20), back=st.integers(0, 3))
    def read_and_cut(self, job: Known, count: int, back: int) -> None:
        """Some events, from where it was cut the last time or from a few before."""
        self.acts["read and cut"] += 1
        after = max(0, job.last_id - back)
        if job.ending is not None and after >= job.ending.id:
            headers = {"Last-Event-ID": str(after)}
            assert self.worker.client.get(f"/v1/jobs/{job.job_id}/stream", headers=headers).status_code == 204
            return
        with self.worker.following(job.job_id, after) as events:
            for _, event in zip(range(count), events, strict=False):
                job.saw(event, after)
                after = event.id

    @rule(job=consumes(jobs))
    def read_to_the_end(self, job: Known) -> None:
        self.acts["read to the end"] += 1
        self._follow(job)

    @rule(job=jobs)
    def cancel(self, job: Known) -> None:
        self.acts["cancel"] += 1
        answer = self.worker.client.delete(f"/v1/jobs/{job.job_id}")
        assert answer.status_code in (200, 202)
        if job.ending is not None:
            assert answer.status_code == 200

    @rule(job=jobs)
    def look(self, job: Known) -> None:
        self.acts["look"] += 1
        shown = self.worker.job(job.job_id)
        assert shown["params"] == job.params
        if job.ending is not None:
            assert shown["status"] == job.ending.name
        if shown["status"] == "completed":
            picture = self.worker.picture(job.job_id)
            assert job.picture in (None, picture), "a finished picture is the same for ever"
            job.picture = picture

    @rule()
    def kill(self) -> None:
        self.acts["kill"] += 1
        self.worker.kill()
        self.worker.start()

    @rule()
    def drain(self) -> None:
        self.acts["drain"] += 1
        self.worker.terminate()
        self.worker.start()

    @invariant()
    def it_is_alive(self) -> None:
        assert self.worker.client.get("/health").status_code == 200

    def teardown(self) -> None:
        """Every job that was ever accepted ends, once, and its stream can be read from its first event on."""
        try:
            self.worker.terminate()
            self.worker.start(step_s=QUICK_S)
            for job in self.known.values():
                self._follow(job)
                assert sorted(job.events) == list(range(1, job.last_id + 1))
                self.look(job)
        finally:
            self.worker.__exit__()
            shutil.rmtree(self.folder, ignore_errors=True)

    def _accepted(self, answer: dict[str, Any]) -> Known:
        job = Known(answer["job_id"], answer["params"])
        assert job.job_id not in self.known
        self.known[job.job_id] = job
        return job

    def _follow(self, job: Known) -> None:
        """From the first event to the last."""
        after = 0
        for event in self.worker.stream(job.job_id):
            job.saw(event, after)
            after = event.id
        assert job.ending is not None
        assert job.last_id == job.ending.id


@pytest.mark.guard(9000)
def test_every_order(report: Report, run_machine: Callable[[type[RuleBasedStateMachine]], None]) -> None:
    run_machine(Clients)
    acts = ", ".join(f"{count} {name}" for name, count in sorted(Clients.acts.items()))
    report.add(
        "Every order",
        "post, read, cut, resume, cancel, kill, drain, restart: no gap, no repeat, one ending, the same picture",
        f"{Clients.runs} orders found by Hypothesis, real server in a process of its own: {acts}",
        "nothing found",
    )
