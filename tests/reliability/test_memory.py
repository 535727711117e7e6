"""Memory stays flat whatever jobs ask for, and `/metrics` says where it is."""

from __future__ import annotations

import base64
import io
import itertools
import re
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from tests.real import running
from tests.reliability.conftest import Report, resident_bytes
from tests.serving import events_of
from worker.models.registry import BUILTIN, read_json

MOST_BYTES = 40_000_000
"""A leak of one picture of a job, or of its latents, adds more in the 400 jobs that are measured with --long."""
SIZES = (64, 96, 128)


def write_lora(file: Path, seed: int, rank: int = 4) -> None:
    """For one layer of the built-in model."""
    config = read_json(BUILTIN, "unet/config.json")
    width, channels = config["cross_attention_dim"], config["block_out_channels"][-1]
    generator = torch.Generator().manual_seed(seed)
    place = "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k"
    save_file(
        {
            f"{place}.lora_A.weight": torch.randn(rank, width, generator=generator) * 0.02,
            f"{place}.lora_B.weight": torch.randn(channels, rank, generator=generator) * 0.02,
        },
        file,
    )


def picture(side: int) -> str:
    pixels = np.random.default_rng(side).integers(0, 255, (side, side, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def jobs() -> Any:
    """For ever: every size with every task, with the one adapter, the other, both and none in turn."""
    adapters = itertools.cycle(
        [[], [{"name": "one"}], [{"name": "two", "scale": 0.5}], [{"name": "one"}, {"name": "two"}]]
    )
    for number in itertools.count():
        side = SIZES[number % len(SIZES)]
        task = ("text-to-image", "image-to-image", "inpainting", "upscale")[number // len(SIZES) % 4]
        body = {"task": task, "prompt": f"star {number}", "steps": 4, "loras": next(adapters), "seed": number}
        if task == "text-to-image":
            body |= {"width": side, "height": side}
        else:
            body["image"] = picture(side)
        if task == "inpainting":
            body["mask"] = picture(side)
        if task == "image-to-image":
            body |= {"strength": 0.5}
        yield body


def memory_of(text: str) -> dict[str, float]:
    return {kind: float(value) for kind, value in re.findall(r'sdw_memory_bytes\{kind="(\w+)"\} (\S+)', text)}


@pytest.mark.guard(1800)
def test_memory_stays_flat(report: Report, tmp_path: Path) -> None:
    warm_up, measured = report.pick(100, 24), report.pick(400, 36)
    for seed, name in enumerate(("one", "two")):
        write_lora(tmp_path / f"{name}.safetensors", seed)
    wanted = jobs()
    flags = ("--lora-dir", str(tmp_path), "--max-rows", "4", "--retain-jobs", "4")
    with running(*flags) as worker, httpx.Client(base_url=worker.url, trust_env=False, timeout=60) as client:
        before = memory_of(client.get("/metrics").text)

        def draw(number: int) -> int:
            for body in itertools.islice(wanted, number):
                posted = client.post("/v1/jobs", json=body)
                assert posted.status_code == 202, posted.text
                with client.stream("GET", posted.json()["sse_url"]) as response:
                    assert list(events_of(response))[-1].name == "completed"
            return resident_bytes(worker.process.pid)

        warm = draw(warm_up)
        grown = draw(measured) - warm
        after = memory_of(client.get("/metrics").text)
    report.add(
        "Soak",
        "Memory stays flat over jobs that change size, adapter and task",
        f"the built-in model; {warm_up} jobs to warm up, {measured} measured, one after the other",
        f"{grown / 1e6:+.1f} MB, at most {MOST_BYTES / 1e6:.0f} allowed",
    )
    assert grown < MOST_BYTES
    assert after["weights"] == before["weights"] > 1_000_000
    assert after["prompt_cache"] > before["prompt_cache"]
    assert after["working_set"] == pytest.approx(after["used"] - after["weights"] - after["prompt_cache"])
    assert after["total"] > after["peak"] >= after["used"] * 0.99
