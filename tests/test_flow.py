"""The whole way on the built-in model: from POST to the pixels, through the real worker in its own process."""

from __future__ import annotations

import http.server
import io
import itertools
import json
import signal
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from tests.conftest import eventually
from tests.real import Worker, start, stop

JOB_S = 120.0


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    """With two textual-inversion embeddings and two LoRAs, of which one each is of the built-in model's width."""
    folder = tmp_path_factory.mktemp("embeddings")
    vectors = np.random.default_rng(3).normal(size=(2, 128)).astype(np.float32)
    save_file({"emb_params": vectors}, folder / "zorgle.safetensors")
    save_file({"emb_params": vectors[:, :64].copy()}, folder / "narrow.safetensors")
    loras = tmp_path_factory.mktemp("loras")
    layer = "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k"
    factors = np.random.default_rng(4).normal(size=(2, 4, 128)).astype(np.float32)
    told = {"modelspec.trigger_phrase": "wobbly lines"}
    for name, width in (("wobbly", 128), ("wide", 64)):
        down, up = factors[0, :, :width].copy(), factors[1].T.copy()
        save_file({f"{layer}.lora_A.weight": down, f"{layer}.lora_B.weight": up}, loras / f"{name}.safetensors", told)
    worker = start("--embedding-dir", str(folder), "--lora-dir", str(loras))
    try:
        worker.wait_until_ready()
        yield worker
    finally:
        stop(worker)


def events(response: httpx.Response) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """(id, event, data) of a stream."""
    fields: dict[str, str] = {}
    for line in response.iter_lines():
        if line and not line.startswith(":"):
            name, _, value = line.partition(": ")
            fields[name] = value
        elif fields:
            yield int(fields["id"]), fields["event"], json.loads(fields["data"])
            fields = {}


def draw(worker: Worker, **body: Any) -> tuple[list[tuple[int, str, dict[str, Any]]], Image.Image]:
    """Post a job, follow it to its end, fetch its first image."""
    with httpx.Client(base_url=worker.url, timeout=JOB_S) as client:
        accepted = client.post("/v1/jobs", json=body)
        assert accepted.status_code == 202, accepted.text
        with client.stream("GET", accepted.json()["sse_url"]) as stream:
            seen = list(events(stream))
        assert seen[-1][1] == "completed", seen[-1]
        image = client.get(seen[-1][2]["images"][0]["url"])
        assert image.status_code == 200
        return seen, Image.open(io.BytesIO(image.content))


def near(picture: Image.Image, where: tuple[int, int], colour: tuple[int, int, int]) -> bool:
    """Whether the pixels around `where` are, on the whole, of `colour`."""
    x, y = where
    patch = np.asarray(picture.crop((x - 4, y - 4, x + 4, y + 4)), dtype=float).reshape(-1, 3).mean(axis=0)
    return bool(np.abs(patch - np.asarray(colour)).max() < 50)


def test_ready_says_loading_before_it_says_ready(worker: Worker) -> None:
    first, last = worker.ready_answers[0], worker.ready_answers[-1]
    assert first[0] == 503
    assert first[1]["reason"] == "loading"
    assert 0 <= first[1]["progress"] <= 1
    assert last == (200, {"ready": True})


def test_a_green_heart_on_white_is_green_and_white(worker: Worker) -> None:
    seen, picture = draw(
        worker, prompt="a large green heart on a white background", seed=7, preview={"every": 5, "size": 64}
    )
    assert [number for number, _, _ in seen] == list(range(1, len(seen) + 1))
    assert [data["step"] for _, name, data in seen if name == "progress"] == list(range(1, 21))
    assert [data["step"] for _, name, data in seen if name == "preview"] == [5, 10, 15]
    assert picture.size == (128, 128)
    assert near(picture, (64, 60), (40, 160, 65))
    for corner in ((6, 6), (121, 6), (6, 121), (121, 121)):
        assert near(picture, corner, (248, 248, 248))
    assert picture.info["parameters"].startswith("a large green heart on a white background\nSteps: 20, Sampler: ")


def test_the_same_seed_draws_the_same_picture_in_company(worker: Worker) -> None:
    body = {"prompt": "a red circle on a blue background", "seed": 11, "steps": 12}
    _, alone = draw(worker, **body)
    together: list[Image.Image] = []
    others = [
        {"prompt": "a yellow star", "seed": 1, "steps": 9, "sampler": "euler", "guidance_scale": 1.0},
        {"prompt": "a black ring on the left", "seed": 2, "steps": 15, "sampler": "ddim"},
        body,
    ]
    threads = [threading.Thread(target=lambda one=one: together.append(draw(worker, **one)[1])) for one in others[:2]]
    for thread in threads:
        thread.start()
    _, in_company = draw(worker, **body)
    for thread in threads:
        thread.join(JOB_S)
    assert len(together) == 2
    error = np.asarray(alone, dtype=float) - np.asarray(in_company, dtype=float)
    psnr_db = 10 * np.log10(255**2 / max(1e-9, float((error**2).mean())))
    assert psnr_db >= 35


def test_several_images_have_seeds_that_count_up(worker: Worker) -> None:
    seen, _ = draw(worker, prompt="a pink diamond", seed=5, num_images=3, steps=4, output={"format": "webp"})
    images = seen[-1][2]["images"]
    assert [(image["index"], image["seed"], image["format"]) for image in images] == [
        (0, 5, "webp"),
        (1, 6, "webp"),
        (2, 7, "webp"),
    ]


def test_any_text_at_all_is_drawn(worker: Worker) -> None:
    for prompt in ("🦓 zébra \r\n\t id: 7", "word " * 400, "\u2028"):
        seen, _ = draw(worker, prompt=prompt, steps=1)
        assert seen[-1][1] == "completed"


def test_a_lora_changes_the_pictures_of_the_jobs_that_name_it(worker: Worker) -> None:
    info = worker.client.get("/v1/info").json()
    size = {"size_bytes": info["loras"][1]["size_bytes"]}
    told = {"trigger_words": ["wobbly lines"], "base_model": None}
    reason = "it reads text 64 wide, and the model's is 128"
    assert info["loras"][0]["reason"] == reason
    assert info["loras"][1] == {"name": "wobbly", "fits": True, "reason": None} | told | size
    body = {"prompt": "a red circle", "seed": 5, "steps": 4}
    adapted = body | {"loras": [{"name": "wobbly", "scale": 0.5}]}
    _, plain = draw(worker, **body)
    _, changed = draw(worker, **adapted)
    _, again = draw(worker, **body)
    assert np.array_equal(np.asarray(plain), np.asarray(again))
    assert not np.array_equal(np.asarray(plain), np.asarray(changed))
    assert changed.info["parameters"].startswith("a red circle <lora:wobbly:0.5>\n")
    for name, message in (("none", "is not among the loras of this worker"), ("wide", reason)):
        refused = worker.client.post("/v1/jobs", json=body | {"loras": [{"name": name}]})
        assert refused.status_code == 422
        assert message in refused.json()["errors"][0]["message"]
    metrics = worker.client.get("/metrics").text
    assert "sdw_loras_in_memory 1.0" in metrics


def test_prompts_have_weights_any_length_and_embeddings(worker: Worker) -> None:
    info = worker.client.get("/v1/info").json()
    assert info["embeddings"] == [
        {"name": "narrow", "vectors": 2, "fits": False},
        {"name": "zorgle", "vectors": 2, "fits": True},
    ]
    usual = {"seed": 3, "steps": 3, "negative_prompt": "blue BREAK green"}
    prompts = ("a red circle", "a (red:1.5) circle", "a red circle" + ", on a white background" * 20, "a Zorgle circle")
    pictures = []
    for prompt in prompts:
        seen, picture = draw(worker, prompt=prompt, **usual)
        assert seen[-1][2]["warnings"] == []
        pictures.append(picture.tobytes())
    assert len(set(pictures)) == len(prompts)
    seen, _ = draw(worker, prompt="a narrow (circle:99)", negative_prompt="narrow", steps=1)
    told = "the embedding narrow does not fit the model; its name was read as text"
    assert seen[-1][2]["warnings"] == [
        "prompt: a weight beyond 10 was taken as 10",
        f"prompt: {told}",
        f"negative_prompt: {told}",
    ]
    job = worker.client.get(f"/v1/jobs/{seen[-1][2]['job_id']}").json()
    assert job["warnings"] == seen[-1][2]["warnings"]


class Orchestrator:
    """A real HTTP server that keeps the heartbeats it was sent."""

    def __init__(self) -> None:
        self.heard: list[dict[str, Any]] = []
        heard = self.heard

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                heard.append(json.loads(self.rfile.read(int(self.headers["Content-Length"])))["worker"])
                answer = b'{"status": "ok", "message": ""}'
                self.send_response(200)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def test_sigterm_gives_an_open_stream_its_ending_and_the_orchestrator_hears_of_all() -> None:
    orchestrator = Orchestrator()

    def heard() -> list[str]:
        # A heartbeat may come twice: what was not answered in time is sent again.
        return [status for status, _ in itertools.groupby(one["status"] for one in orchestrator.heard)]

    def wait_for(status: str) -> None:
        """Before anything more happens: only the newest state is told."""
        eventually(lambda: heard()[-1:] == [status], within_s=JOB_S)

    worker = start("--drain-s", "0", "--callback-url", orchestrator.url, "--advertise-url", "http://gpu-7:8600")
    try:
        worker.wait_until_ready()
        wait_for("ready")
        with httpx.Client(base_url=worker.url, timeout=JOB_S) as client:
            body = {"prompt": "a red star", "steps": 150, "width": 256, "height": 256}
            url = client.post("/v1/jobs", json=body).json()["sse_url"]
            names = []
            with client.stream("GET", url) as stream:
                for _, name, data in events(stream):
                    names.append(name)
                    if name == "progress" and data["step"] == 2:
                        wait_for("busy")
                        worker.process.send_signal(signal.SIGTERM)
                    last = data
        assert names[-1] == "cancelled"
        assert last["reason"] == "shutdown"
        assert worker.process.wait(30) == 0
    finally:
        stop(worker)
        orchestrator.close()
    assert heard() == ["starting", "ready", "busy", "stopping", "stopped"]
    assert {(one["url"], one["model_id"]) for one in orchestrator.heard} == {("http://gpu-7:8600", "builtin")}
    assert len({one["instance_id"] for one in orchestrator.heard}) == 1
