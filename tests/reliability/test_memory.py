"""Jobs that change size, adapter and task from one to the next, for the real worker: what it holds stays flat."""

from __future__ import annotations

import base64
import io
import random
import statistics
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from tests.models.controls.nets import write_controlnet
from tests.models.upscalers.files import compact, dense, write
from tests.real import running
from tests.reliability.conftest import Report, resident_bytes
from tests.serving import events_of
from worker.models.registry import BUILTIN

AT_ONCE = 4
SIDES = (64, 96, 128, 192, 256)
PROMPTS, ADAPTERS = 200, 6
MOST_GROWTH_BYTES = 8_000_000
"""Of what 500 jobs hold more than those before them; each of them makes tensors of several times that."""
MOST_GROWTH_SHORT_BYTES = 30_000_000
"""Of a few jobs behind a hundred, where a size may still be the first of its kind."""
LAYER = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"


def write_folders(folder: Path, width: int) -> tuple[str, ...]:
    """LoRAs of which few fit into memory at once, a ControlNet, upscalers of which one too many; the flags for them."""
    loras, controls, upscalers = (folder / name for name in ("loras", "controls", "upscalers"))
    for one in (loras, controls, upscalers):
        one.mkdir()
    for number in range(ADAPTERS):
        factors = {f"{LAYER}.lora_A.weight": torch.randn(8, width), f"{LAYER}.lora_B.weight": torch.randn(width, 8)}
        save_file(factors, loras / f"lora{number}.safetensors")
    write_controlnet(controls / "edges", BUILTIN, conditioning_embedding_out_channels=(8, 8, 8, 8))
    for number, weights in enumerate((dense(), compact(), compact(scale=2))):
        write(upscalers / f"upscaler{number}.safetensors", weights)
    cache_bytes = 2 * 2 * 8 * width * 4
    return (
        *("--lora-dir", str(loras), "--lora-cache-bytes", str(cache_bytes)),
        *("--control-dir", str(controls), "--upscaler-dir", str(upscalers)),
    )


def encoded(rng: random.Random, width: int, height: int) -> str:
    buffer = io.BytesIO()
    Image.effect_noise((width, height), rng.randrange(20, 90)).convert("RGB").save(buffer, "PNG", compress_level=1)
    return base64.b64encode(buffer.getvalue()).decode()


def any_job(rng: random.Random, task: str) -> dict[str, Any]:
    """A small job of this task, otherwise as chance has it."""
    width, height = rng.choice(SIDES), rng.choice(SIDES)
    if task == "enlarge":
        upscale = {"upscaler": f"upscaler{rng.randrange(3)}", "factor": 2}
        return {"task": "upscale", "prompt": "noise", "image": encoded(rng, width, height), "upscale": upscale}
    body: dict[str, Any] = {
        "task": task,
        "prompt": f"a {rng.choice(['red', 'blue'])} circle, number {rng.randrange(PROMPTS)}",
        "steps": 4,
        "guidance_scale": rng.choice([1.0, 2.5]),
        "loras": [{"name": f"lora{k}"} for k in rng.sample(range(ADAPTERS), rng.choice([0, 1, 2]))],
    }
    if task == "upscale":
        return body | {"image": encoded(rng, width // 2, height // 2)}
    if rng.random() < 0.3:
        body["controls"] = [{"name": "edges", "image": encoded(rng, width, height)}]
    if task == "text-to-image":
        return body | {"width": width, "height": height}
    body["image"] = encoded(rng, width, height)
    return body | ({"mask": encoded(rng, width, height)} if task == "inpainting" else {})


@pytest.mark.guard(3600)
def test_memory_stays_flat_over_jobs_that_change(report: Report, tmp_path: Path) -> None:
    # The first ones fill what is kept in bounded number: prompts, adapters, upscalers, ended jobs.
    warm_up, counted = report.pick(300, 200), report.pick(500, 24)
    tasks = ("text-to-image", "image-to-image", "inpainting", "upscale", "enlarge")
    rng = random.Random(11)
    did: Counter[str] = Counter()
    held: list[int] = []
    flags = (*write_folders(tmp_path, width=128), "--retain-jobs", "20", "--max-rows", "4")
    with (
        running(*flags) as worker,
        httpx.Client(base_url=worker.url, trust_env=False, timeout=120) as client,
    ):
        for number in range(0, warm_up + counted, AT_ONCE):
            chosen = [tasks[(number + k) % len(tasks)] for k in range(AT_ONCE)]
            posted = [client.post("/v1/jobs", json=any_job(rng, task)) for task in chosen]
            assert [one.status_code for one in posted] == [202] * AT_ONCE, [one.text for one in posted]
            for one in posted:
                with client.stream("GET", one.json()["sse_url"]) as stream:
                    last = list(events_of(stream))[-1]
                assert last.name == "completed", last.data
            if number >= warm_up:
                did.update(chosen)
                held.append(resident_bytes(worker.process.pid))
    quarter = len(held) // 4
    quarters = [statistics.median(held[k * quarter : (k + 1) * quarter]) for k in range(4)]
    grown = quarters[3] - quarters[0]
    told = ", ".join(f"{count} {task}" for task, count in sorted(did.items()))
    report.add(
        "Memory",
        "stays flat over jobs that change size, adapter and task",
        f"built-in model, {counted} jobs after {warm_up}, 4 at once, {len(SIDES) ** 2} sizes, {ADAPTERS} LoRAs with "
        f"room for two, a ControlNet, 3 upscalers: {told}",
        f"{grown / 1e6:+.1f} MB (in quarters {', '.join(f'{one / 1e6:.0f}' for one in quarters)} MB)",
    )
    assert set(did) == set(tasks)
    assert grown <= (MOST_GROWTH_BYTES if report.long else MOST_GROWTH_SHORT_BYTES)
