"""Weights kept in 8 bits, by the real worker: what it says of them, and that it draws with them."""

from __future__ import annotations

from tests.real import running
from tests.serving import events_of
from worker.engine.sampling import SAMPLERS
from worker.models.registry import identify

FP8 = "float8_e4m3fn"


def test_the_worker_says_what_its_weights_are_kept_in() -> None:
    with running("--weights-dtype", FP8, "--dtype", "bfloat16", "--max-rows", "2") as worker:
        model = worker.client.get("/v1/info").json()["model"]
        assert (model["dtype"], model["weights_dtype"]) == ("bfloat16", FP8)
        lines = worker.client.get("/metrics").text.splitlines()
        [weights] = [line for line in lines if line.startswith('sdw_memory_bytes{kind="weights"}')]
        built_in = identify("builtin", dtype="bfloat16", samplers=tuple(SAMPLERS), weights_dtype=FP8)
        assert float(weights.split()[1]) == built_in.weights_bytes
        asked = {"prompt": "a red circle", "steps": 2, "seed": 1}
        stream = worker.client.post("/v1/jobs", json=asked).json()["sse_url"]
        with worker.client.stream("GET", stream) as response:
            assert list(events_of(response))[-1].name == "completed"
