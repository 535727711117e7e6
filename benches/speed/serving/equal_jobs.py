"""Row 1: eight clients with equal jobs; images a second of the worker over B0, B2 and LitServe, and over B1 beside."""

from __future__ import annotations

from contextlib import ExitStack

from benches.speed.bench import Bench
from benches.speed.job import stream_of_jobs
from benches.speed.outcome import Group, NotMeasured, Outcome
from benches.speed.serving import servers
from benches.speed.serving.client import ReferenceClient, WorkerClient
from benches.speed.serving.load import closed_loop_s, latency_s, run
from benches.speed.serving.process import Server
from benches.speed.spread import middle, once, ratios

CLIENTS = 8
MAX_ROWS = 2 * CLIENTS
"""The worker's --max-rows: the eight that B2 and LitServe take at most have guidance, so two rows each."""
REFERENCES = {"b0": servers.b0, "b1": servers.b1, "b2": servers.b2, "litserve": servers.litserve}
LABELS = {"worker": "worker", "b0": "B0", "b1": "B1, compiled", "b2": "B2, micro-batched", "litserve": "LitServe"}
ONE_BY_ONE = ("b0", "b1")
"""Arms that draw one job after the other, so that their rate is the same however long the queue."""
LIMIT_S = 1200.0


def measure(bench: Bench) -> Outcome:
    """All arms are up all the time and take turns, so that each round sees one state of the machine."""
    missing: dict[str, str] = {}
    arms: dict[str, Server] = {}
    with ExitStack() as stack:
        for name, start in {"worker": _worker, **REFERENCES}.items():
            try:
                if bench.quick and name == "b1":
                    raise NotMeasured("a quick run does not compile")
                arms[name] = stack.enter_context(start(bench))
                stack.enter_context(arms[name].resting())
            except NotMeasured as reason:
                if name == "worker":
                    raise
                missing[name] = str(reason)
        return run(_measure(arms, missing, bench), LIMIT_S)


def _worker(bench: Bench) -> servers.Starting:
    return servers.worker(bench, "--max-rows", str(MAX_ROWS))


async def _measure(arms: dict[str, Server], missing: dict[str, str], bench: Bench) -> Outcome:
    steps, rounds, each = bench.pick((20, 5, 3), (2, 1, 1))
    jobs = stream_of_jobs(steps)
    cold_s: dict[str, float] = {}
    images_per_s: dict[str, list[float]] = {name: [] for name in arms}
    for turn in range(1 + rounds):
        for name, server in arms.items():
            # A client of its own for each turn: servers close connections that were idle for some seconds.
            with server.turn():
                async with (WorkerClient if name == "worker" else ReferenceClient)(server.url) as client:
                    if turn == 0:
                        cold_s[name] = await latency_s(client, next(jobs))
                        await closed_loop_s(client, jobs, clients=CLIENTS, each=1)
                    else:
                        hand = 1 if name in ONE_BY_ONE else each
                        took_s = await closed_loop_s(client, jobs, clients=CLIENTS, each=hand)
                        images_per_s[name].append(CLIENTS * hand / took_s)
    figures = {
        f"1.{name}": middle(ratios(images_per_s["worker"], images_per_s[name]))
        for name in images_per_s
        if name != "worker"
    }
    notes = [f"{LABELS[name]} is not among the arms: {reason}" for name, reason in missing.items()]
    if "1.b1" in figures:
        notes.append(f"over B1: {figures.pop('1.b1').value:.2f}x; its first picture waits for the compiler")
    return Outcome(
        1,
        figures,
        (
            Group(
                f"{CLIENTS} clients, jobs of {steps} steps with guidance",
                "images/s",
                {LABELS[name]: middle(samples) for name, samples in images_per_s.items()},
            ),
            Group(
                "first picture after the server was ready (cold)", "s", {LABELS[k]: once(v) for k, v in cold_s.items()}
            ),
        ),
        tuple(notes),
        {f"1.{name}": reason for name, reason in missing.items() if name != "b1"},
    )
