"""Row 1: eight clients in closed loops, equal jobs; images a second of the worker over each reference server."""

from __future__ import annotations

from contextlib import ExitStack

from benches.speed.bench import Bench
from benches.speed.job import stream_of_jobs
from benches.speed.outcome import Group, NotMeasured, Outcome
from benches.speed.serving import servers
from benches.speed.serving.client import ReferenceClient, WorkerClient
from benches.speed.serving.load import closed_loop_s, latency_s, run
from benches.speed.spread import middle, once, ratios

CLIENTS = 8
MAX_ROWS = 16
REFERENCES = {"b0": servers.b0, "b1": servers.b1, "b2": servers.b2, "litserve": servers.litserve}
LABELS = {"worker": "worker", "b0": "B0", "b1": "B1, compiled", "b2": "B2, micro-batched", "litserve": "LitServe"}


def measure(bench: Bench) -> Outcome:
    """All arms are up all the time and take turns, so that each round sees one state of the machine."""
    missing: dict[str, str] = {}
    urls: dict[str, str] = {}
    with ExitStack() as stack:
        urls["worker"] = stack.enter_context(servers.worker(bench, "--max-rows", str(MAX_ROWS)))
        for name, start in REFERENCES.items():
            try:
                if bench.quick and name == "b1":
                    raise NotMeasured("a quick run does not compile")
                urls[name] = stack.enter_context(start(bench))
            except NotMeasured as reason:
                missing[name] = str(reason)
        return run(_measure(urls, missing, bench))


async def _measure(urls: dict[str, str], missing: dict[str, str], bench: Bench) -> Outcome:
    steps, rounds, each = bench.pick((20, 5, 2), (2, 1, 1))
    jobs = stream_of_jobs(steps)
    cold_s: dict[str, float] = {}
    images_per_s: dict[str, list[float]] = {name: [] for name in urls}
    async with Clients(urls) as clients:
        for name, client in clients.items():
            cold_s[name] = await latency_s(client, next(jobs))
            await closed_loop_s(client, jobs, clients=CLIENTS, each=1)
        for _ in range(rounds):
            for name, client in clients.items():
                took_s = await closed_loop_s(client, jobs, clients=CLIENTS, each=each)
                images_per_s[name].append(CLIENTS * each / took_s)
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


class Clients:
    """A client for every arm's URL, by its name; closed together."""

    def __init__(self, urls: dict[str, str]) -> None:
        self._clients = {
            name: WorkerClient(url) if name == "worker" else ReferenceClient(url) for name, url in urls.items()
        }

    async def __aenter__(self) -> dict[str, WorkerClient | ReferenceClient]:
        return self._clients

    async def __aexit__(self, *exception: object) -> None:
        for client in self._clients.values():
            await client.__aexit__()
