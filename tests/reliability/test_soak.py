"""Mixed work for the real worker, with a state directory, for an hour and more: memory, threads and files stay flat."""

from __future__ import annotations

import random
import statistics
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.real import running
from tests.reliability.conftest import Report, resident_bytes
from tests.serving import events_of

CLIENTS = 4
EVERY_S = 5.0
WARM_UP_ACTS = 40
"""At least, however long they take on a busy machine."""
MOST_BYTES_AN_HOUR = 1_000_000
RETAINED_JOBS = 40
SIZES = (64, 64, 96, 128)
SAMPLERS = ("euler", "ddim", "dpmpp_2m", "heun", "ddpm")
MORE_THREADS = 2
"""Pools start their threads when they first need them."""


@dataclass(frozen=True)
class Sample:
    """What the process held at one moment; `at` in seconds, `state` is what lies in its directory."""

    at: float
    resident: int
    threads: int
    files: int
    state: int


def sample(pid: int, folder: Path) -> Sample:
    process = Path(f"/proc/{pid}")
    return Sample(
        time.monotonic(),
        resident_bytes(pid),
        len(list((process / "task").iterdir())),
        len(list((process / "fd").iterdir())),
        sum(size(file) for file in folder.rglob("*")),
    )


def size(file: Path) -> int:
    try:
        return file.stat().st_size
    except FileNotFoundError:  # forgotten in this moment
        return 0


class Client(threading.Thread):
    """Does all that clients do, one thing after the other, until it is told to stop; any 5xx ends it as failed."""

    def __init__(self, url: str, number: int) -> None:
        super().__init__()
        self.stopping = threading.Event()
        self.did: Counter[str] = Counter()
        self.error: BaseException | None = None
        self._url = url
        self._random = random.Random(number)

    def run(self) -> None:
        try:
            with httpx.Client(base_url=self._url, trust_env=False, timeout=60) as self._client:
                while not self.stopping.is_set():
                    act = self._random.choice([self._read, self._read, self._resume, self._cancel, self._leave])
                    act()
                    self._ask()
                    self.did[act.__name__.strip("_")] += 1
        except BaseException as error:
            self.error = error

    def _post(self, **fields: object) -> dict[str, str]:
        rng = self._random
        body = {
            "prompt": f"a {rng.choice(['red', 'green', 'blue'])} star, number {rng.randrange(5000)}",
            "steps": rng.randint(2, 10),
            "width": rng.choice(SIZES),
            "height": rng.choice(SIZES),
            "sampler": rng.choice(SAMPLERS),
            "guidance_scale": rng.choice([1.0, 2.5]),
            "num_images": rng.choice([1, 1, 2]),
        }
        if rng.random() < 0.5:
            body["preview"] = {"every": rng.randint(1, 3)}
        response = self._client.post("/v1/jobs", json=body | fields)
        assert response.status_code == 202, response.text
        job: dict[str, str] = response.json()
        return job

    def _read(self) -> None:
        job = self._post()
        with self._client.stream("GET", job["sse_url"]) as response:
            assert [event.name for event in events_of(response)][-1] == "completed"
        assert self._client.get(f"/v1/jobs/{job['job_id']}/images/0").status_code == 200

    def _resume(self) -> None:
        job, last = self._post(), 0
        while True:
            with self._client.stream("GET", job["sse_url"], headers={"Last-Event-ID": str(last)}) as response:
                for event in events_of(response):
                    last = event.id
                    if event.name == "completed":
                        return
                    if self._random.random() < 0.3:
                        break

    def _cancel(self) -> None:
        job = self._post(steps=50)
        self.stopping.wait(self._random.random() * 0.3)
        assert self._client.delete(f"/v1/jobs/{job['job_id']}").status_code in (200, 202)

    def _leave(self) -> None:
        job = self._post(steps=50, on_disconnect="cancel")
        with self._client.stream("GET", job["sse_url"]) as response:
            next(events_of(response))

    def _ask(self) -> None:
        asked = self._random.choice(
            ["/v1/jobs", "/v1/info", "/metrics", "/health", "/v1/jobs/none", "/v1/jobs?limit=x"]
        )
        assert self._client.get(asked).status_code < 500
        assert self._client.post("/v1/jobs", json={"prompt": 7}).status_code == 422


def growth(samples: list[Sample]) -> float:
    """Bytes an hour, by least squares."""
    slope, _ = statistics.linear_regression([one.at for one in samples], [one.resident for one in samples])
    return 3600 * slope


def course(samples: list[Sample]) -> list[float]:
    """The mean of what was held in each quarter of the time."""
    size = max(1, len(samples) // 4)
    return [statistics.mean(one.resident for one in samples[start * size :][:size]) for start in range(4)]


@pytest.mark.guard(7200)
def test_nothing_grows(report: Report, tmp_path: Path) -> None:
    warm_up_s, measured_s = report.pick(1800, 10), report.pick(3600, 10)
    samples: list[Sample] = []
    with running("--state-dir", str(tmp_path), "--retain-jobs", str(RETAINED_JOBS), "--max-rows", "8") as worker:
        clients = [Client(worker.url, number) for number in range(CLIENTS)]
        for client in clients:
            client.start()
        began = time.monotonic()
        while all(one.is_alive() for one in clients):
            warm = time.monotonic() > began + warm_up_s and sum(one.did.total() for one in clients) >= WARM_UP_ACTS
            if warm or samples:
                samples.append(sample(worker.process.pid, tmp_path))
                if samples[-1].at - samples[0].at >= measured_s:
                    break
            clients[0].stopping.wait(EVERY_S if report.long else 1.0)
        for client in clients:
            client.stopping.set()
        for client in clients:
            client.join(60)
    for client in clients:
        if client.error is not None:
            raise client.error
    did = sum((client.did for client in clients), Counter[str]())
    hours = (samples[-1].at - samples[0].at) / 3600
    grown = growth(samples)
    first, last = samples[0], samples[-1]
    told = ", ".join(f"{count} {name}" for name, count in sorted(did.items()))
    quarters = ", ".join(f"{resident / 1e6:.0f}" for resident in course(samples))
    report.add(
        "Soak",
        "nothing grows",
        f"built-in model, state directory, {CLIENTS} clients, {hours:.2f} h after {warm_up_s / 60:.0f} min: {told}",
        f"memory {grown / 1e6:+.2f} MB an hour (in quarters {quarters} MB), threads {first.threads} to "
        f"{last.threads}, files {first.files} to {last.files}, state {first.state / 1e6:.1f} to "
        f"{last.state / 1e6:.1f} MB",
    )
    assert set(did) == {"read", "resume", "cancel", "leave"}
    assert max(one.threads for one in samples) - min(one.threads for one in samples) <= MORE_THREADS
    assert last.files <= first.files + CLIENTS, "connections come and go, nothing else"
    if report.long:
        assert grown <= MOST_BYTES_AN_HOUR
        assert last.state <= 1.2 * max(one.state for one in samples[: len(samples) // 2])
