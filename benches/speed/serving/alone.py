"""Row 4: one client; how long a picture takes through the worker, fetching included, against a bare pipeline call."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict

from benches.speed.bench import REPOSITORY, Bench
from benches.speed.job import Job, stream_of_jobs
from benches.speed.outcome import Group, Outcome
from benches.speed.serving import servers
from benches.speed.serving.client import WorkerClient
from benches.speed.serving.load import latency_s, run
from benches.speed.serving.process import environment, stop
from benches.speed.spread import once, quartiles, ratios


def measure(bench: Bench) -> Outcome:
    """Picture by picture in turns."""
    with servers.worker(bench, "--max-rows", "16") as server, bare_pipeline(bench) as call_s:
        return run(_measure(server.url, call_s, bench))


async def _measure(url: str, call_s: Callable[[Job], float], bench: Bench) -> Outcome:
    steps, pairs = bench.pick((20, 20), (2, 2))
    jobs = stream_of_jobs(steps)
    async with WorkerClient(url) as worker:
        bare_cold_s = call_s(next(jobs))  # first, since it waits until the pipeline is loaded, on the same cores
        worker_cold_s = await latency_s(worker, next(jobs))
        worker_s, bare_s = [], []
        for _ in range(pairs):
            job = next(jobs)
            worker_s.append(await latency_s(worker, job))
            bare_s.append(call_s(job))
    groups = (
        Group("one picture (warm)", "s", {"worker": quartiles(worker_s), "bare pipeline call": quartiles(bare_s)}),
        Group("first picture (cold)", "s", {"worker": once(worker_cold_s), "bare pipeline call": once(bare_cold_s)}),
    )
    return Outcome(4, {"4.latency": quartiles(ratios(worker_s, bare_s))}, groups)


@contextmanager
def bare_pipeline(bench: Bench) -> Iterator[Callable[[Job], float]]:
    """A process that does nothing but call the pipeline; the function draws one job and returns its seconds."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benches.speed.arms.bare_call", str(bench.model)],
        cwd=REPOSITORY,
        env=environment(bench),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    ask, answer = process.stdin, process.stdout

    def call_s(job: Job) -> float:
        ask.write(json.dumps(asdict(job)).encode() + b"\n")
        ask.flush()
        return float(answer.readline())

    try:
        yield call_s
    finally:
        stop(process)
        ask.close()
        answer.close()
