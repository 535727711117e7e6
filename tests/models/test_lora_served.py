"""LoRA through the real worker: what it offers, what it refuses, and jobs with other adapters and with none at once."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from tests.models import families
from tests.models.files import write_zeros
from tests.models.lora_files import ATTENTION, TEXT, adapted, make_factors, write_diffusers, write_kohya
from tests.models.parity import ALONE_DB, IN_COMPANY_DB
from tests.models.tiny import by_stock, job, psnr_db
from tests.real import Worker, start, stop
from tests.serving import events_of
from worker.engine.runner import Pixels
from worker.jobs.params import LoraParams

SIDE_PX, STEPS = 64, 20
JOB_S = 120.0
PROMPTS = ("a red circle on the left", "a large yellow star", "the blue ring and a green square")
SETS = ((LoraParams("ink", 0.8),), (), (LoraParams("styles/paper", 0.7),))
CALL = re.compile(r'^sdw_step_rows_bucket\{le="(\d+)\.0"\} (\d+)', re.MULTILINE)


@dataclass(frozen=True)
class Served:
    """A worker, and where its model and adapters lie. Three jobs were posted before the model was there: they began at
    once; `together` are their pictures, `rows` how many calls had at most so many rows."""

    worker: Worker
    model: Path
    loras: Path
    together: list[Pixels]
    rows: dict[int, int]

    def expected(self, number: int) -> Pixels:
        """The stock pipeline's picture with that job's adapters alone."""
        asked = job(
            width=SIDE_PX,
            height=SIDE_PX,
            steps=STEPS,
            seed=number,
            prompt=PROMPTS[number],
            loras=SETS[number],
            sampler="euler",
        )
        return by_stock(adapted(families.load_stock(self.model), self.loras, asked), asked)


def body(number: int) -> dict[str, Any]:
    """What is posted for that job."""
    return {
        "prompt": PROMPTS[number],
        "width": SIDE_PX,
        "height": SIDE_PX,
        "steps": STEPS,
        "guidance_scale": 5.0,
        "seed": number,
        "sampler": "euler",
        "loras": [{"name": one.name, "scale": one.scale} for one in SETS[number]],
    }


def picture(client: httpx.Client, accepted: httpx.Response) -> Pixels:
    """Of a job that was accepted, when it is done."""
    assert accepted.status_code == 202, accepted.text
    with client.stream("GET", accepted.json()["sse_url"]) as stream:
        done = list(events_of(stream))[-1]
    assert done.name == "completed", done.data
    return np.asarray(Image.open(io.BytesIO(client.get(done.data["images"][0]["url"]).content)))


@pytest.fixture(scope="module")
def served(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    loras = tmp_path_factory.mktemp("loras")
    stock = families.load_stock(tiny)
    both = {"unet": stock.unet, "text_encoder": stock.text_encoder}
    ink = {"modelspec.trigger_phrase": "inked, by hand", "ss_base_model_version": "sd_v1-5"}
    write_kohya(loras / "ink.safetensors", make_factors(both, 1, ATTENTION + TEXT), te="lora_te", metadata=ink)
    paper = {"ss_tag_frequency": json.dumps({"5_paper": {"paper": 7, "cut": 3}})}
    write_diffusers(loras / "styles/paper.safetensors", make_factors({"unet": stock.unet}, 2, ATTENTION), paper)
    key = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k"
    wide = {f"{key}.lora_down.weight": (4, 2048), f"{key}.lora_up.weight": (64, 4)}
    write_zeros(loras / "wide.safetensors", wide)
    worker = start("--model", str(tiny), "--dtype", "float32", "--lora-dir", str(loras), "--max-rows", "8")
    try:
        with httpx.Client(base_url=worker.url, timeout=JOB_S) as client:
            accepted = [client.post("/v1/jobs", json=body(number)) for number in range(3)]
            together = [picture(client, one) for one in accepted]
            rows = {int(most): int(count) for most, count in CALL.findall(client.get("/metrics").text)}
        yield Served(worker, tiny, loras, together, rows)
    finally:
        stop(worker)


def test_jobs_with_two_adapters_and_one_with_none_run_at_once_and_each_is_its_stock_picture(served: Served) -> None:
    assert served.rows[6] > served.rows[4] > 0, "calls had all three of them, each with guidance"
    pictures = [served.expected(number) for number in range(3)]
    for drawn, expected in zip(served.together, pictures, strict=True):
        assert expected.std() > 20, "a grey picture would prove nothing"
        assert psnr_db(drawn, expected) >= IN_COMPANY_DB
    for number in (0, 2):
        plain = job(width=SIDE_PX, height=SIDE_PX, steps=STEPS, seed=number, prompt=PROMPTS[number], sampler="euler")
        without = by_stock(families.load_stock(served.model), plain)
        assert psnr_db(without, pictures[number]) < IN_COMPANY_DB, "the adapter shows"


def test_alone_each_is_its_stock_picture_too(served: Served) -> None:
    with httpx.Client(base_url=served.worker.url, timeout=JOB_S) as client:
        for number in range(3):
            drawn = picture(client, client.post("/v1/jobs", json=body(number)))
            assert psnr_db(drawn, served.expected(number)) >= ALONE_DB


def test_what_is_offered(served: Served) -> None:
    told = served.worker.client.get("/v1/info").json()["loras"]
    sizes = {name: (served.loras / f"{name}.safetensors").stat().st_size for name in ("ink", "styles/paper", "wide")}
    fits: dict[str, Any] = {"fits": True, "reason": None}
    assert told == [
        {"name": "ink", "trigger_words": ["inked", "by hand"], "base_model": "sd", "size_bytes": sizes["ink"]} | fits,
        {
            "name": "styles/paper",
            "trigger_words": ["paper", "cut"],
            "base_model": None,
            "size_bytes": sizes["styles/paper"],
        }
        | fits,
        {
            "name": "wide",
            "trigger_words": [],
            "base_model": "sdxl",
            "fits": False,
            "reason": "it was made for sdxl, and the model is sd",
            "size_bytes": sizes["wide"],
        },
    ]


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("wide", "does not fit the model: it was made for sdxl, and the model is sd"),
        ("none", "is not among the loras of this worker"),
    ],
)
def test_what_is_refused(served: Served, name: str, told: str) -> None:
    answer = served.worker.client.post("/v1/jobs", json=body(1) | {"loras": [{"name": name}]})
    assert answer.status_code == 422
    [fault] = answer.json()["errors"]
    assert fault["field"] == "loras.0.name"
    assert told in fault["message"]


def test_its_own_metadata_tells_of_the_adapter(served: Served) -> None:
    with httpx.Client(base_url=served.worker.url, timeout=JOB_S) as client:
        accepted = client.post("/v1/jobs", json=body(0) | {"steps": 1})
        picture(client, accepted)
        shown = client.get(f"/v1/jobs/{accepted.json()['job_id']}").json()
        image = Image.open(io.BytesIO(client.get(shown["images"][0]["url"]).content))
    assert shown["params"]["loras"] == [{"name": "ink", "scale": 0.8}]
    assert "<lora:ink:0.8>" in image.info["parameters"]
