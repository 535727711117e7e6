"""The `/sdapi/v1` shape, as front ends use it, against a real worker on a real port."""

from __future__ import annotations

import base64
import concurrent.futures
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import httpx
import pytest
from PIL import Image

from tests.conftest import eventually
from tests.fakes import FACTS, FailsToDecode, StepByStep
from tests.serving import WAIT_S, ServedWorker
from worker.jobs.facts import LoraFacts
from worker.jobs.params import LoraParams, Task

Serve = Callable[..., ServedWorker]
ROUTES = (
    *("samplers", "schedulers", "sd-models", "options", "loras", "upscalers", "embeddings", "scripts", "progress"),
)
DEFAULTS: dict[str, Any] = {
    "prompt": "a red circle",
    "negative_prompt": "",
    "styles": [],
    "seed": -1,
    "subseed": -1,
    "subseed_strength": 0,
    "seed_resize_from_h": -1,
    "seed_resize_from_w": -1,
    "sampler_name": None,
    "scheduler": "Automatic",
    "batch_size": 1,
    "n_iter": 1,
    "steps": 20,
    "cfg_scale": 7,
    "width": 64,
    "height": 64,
    "restore_faces": False,
    "tiling": False,
    "do_not_save_samples": False,
    "do_not_save_grid": False,
    "eta": None,
    "denoising_strength": 0.75,
    "s_min_uncond": 0,
    "s_churn": 0.0,
    "s_tmax": None,
    "s_tmin": 0,
    "s_noise": 1,
    "override_settings": {},
    "override_settings_restore_afterwards": True,
    "refiner_checkpoint": None,
    "refiner_switch_at": 0.8,
    "disable_extra_networks": False,
    "comments": {},
    "enable_hr": False,
    "hr_scale": 2,
    "hr_upscaler": "Latent",
    "script_name": None,
    "script_args": [],
    "send_images": True,
    "save_images": False,
    "alwayson_scripts": {},
}
"""What a front end sends that leaves nothing out."""


@pytest.fixture(scope="module")
def worker(leaving: list[ServedWorker]) -> Iterator[ServedWorker]:
    worker = ServedWorker(sdapi=True)
    yield worker
    worker.leave()
    leaving.append(worker)


def draw(worker: ServedWorker, **fields: Any) -> httpx.Response:
    return worker.client.post("/sdapi/v1/txt2img", json={"prompt": "a red circle"} | fields)


def newest(worker: ServedWorker) -> dict[str, Any]:
    params: dict[str, Any] = worker.client.get("/v1/jobs?limit=1").json()["jobs"][0]["params"]
    return params


def picture(encoded: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(encoded, validate=True)))


def test_it_is_not_there_unless_asked_for(instant: ServedWorker) -> None:
    for path in ROUTES:
        assert instant.client.get(f"/sdapi/v1/{path}").status_code == 404
    assert draw(instant).status_code == 404


def test_pictures_with_their_parameters_and_seeds(worker: ServedWorker) -> None:
    response = draw(
        worker,
        negative_prompt="blue",
        seed=7,
        steps=6,
        cfg_scale=3,
        width=128,
        height=64,
        batch_size=2,
        n_iter=2,
        sampler_name="DDIM",
    )
    assert response.status_code == 200, response.text
    answer = response.json()
    assert [picture(one).size for one in answer["images"]] == [(128, 64)] * 4
    info = json.loads(answer["info"])
    assert info["all_seeds"] == [7, 8, 9, 10]
    for shown in (info, answer["parameters"]):
        assert (shown["prompt"], shown["negative_prompt"], shown["seed"]) == ("a red circle", "blue", 7)
        assert (shown["steps"], shown["cfg_scale"], shown["sampler_name"]) == (6, 3.0, "DDIM")
    params = newest(worker)
    assert (params["seed"], params["steps"], params["guidance_scale"], params["num_images"]) == (7, 6, 3.0, 4)
    assert (params["width"], params["height"], params["sampler"]) == (128, 64, "ddim")
    assert params["negative_prompt"] == "blue"


def test_a_front_end_that_leaves_nothing_out(worker: ServedWorker) -> None:
    response = draw(worker, **DEFAULTS)
    assert response.status_code == 200, response.text
    assert 0 <= json.loads(response.json()["info"])["seed"] < 2**32


@pytest.mark.parametrize(("sampler", "eta"), [("Euler", 0), ("Euler", 1.0), ("DPM++ 2M", 1), ("DDIM", 0.0)])
def test_an_eta_that_changes_nothing_is_let_pass(worker: ServedWorker, sampler: str, eta: float) -> None:
    response = draw(worker, sampler_name=sampler, eta=eta)
    assert response.status_code == 200, response.text


def test_a_sampler_that_adds_noise_has_an_eta_of_its_own(serve: Serve) -> None:
    worker = serve(sdapi=True, facts=replace(FACTS, samplers=("euler", "euler_a")))
    assert draw(worker, sampler_name="Euler a", eta=1.0).status_code == 200
    (fault,) = draw(worker, sampler_name="Euler a", eta=0).json()["errors"]
    assert fault == {"field": "eta", "message": "must be 1 with Euler a"}


CLIENTS: dict[str, dict[str, Any]] = {
    "webuiapi": DEFAULTS
    | {"eta": 1.0, "firstphase_width": 0, "firstphase_height": 0, "hr_second_pass_steps": 0, "hr_resize_x": 0}
    | {"hr_resize_y": 0, "seed_resize_from_h": 0, "seed_resize_from_w": 0, "s_tmax": 0, "sampler_name": "Euler"}
    | {"sampler_index": "Euler"},
    "SillyTavern": {
        "prompt": "a red circle",
        "negative_prompt": "",
        "sampler_name": "Euler",
        "scheduler": "automatic",
        "steps": 20,
        "cfg_scale": 7,
        "width": 64,
        "height": 64,
        "restore_faces": False,
        "enable_hr": False,
        "hr_upscaler": "Latent",
        "hr_scale": 2,
        "hr_additional_modules": [],
        "denoising_strength": 0.7,
        "hr_second_pass_steps": 0,
        "override_settings": {"CLIP_stop_at_last_layers": 1},
        "override_settings_restore_afterwards": True,
        "clip_skip": 1,
        "save_images": True,
        "send_images": True,
        "do_not_save_grid": False,
        "do_not_save_samples": False,
    },
}
"""What they send for a text to which the user adds nothing."""


@pytest.mark.parametrize("client", CLIENTS)
def test_a_client_that_is_left_as_it_comes_can_draw(worker: ServedWorker, client: str) -> None:
    response = draw(worker, **CLIENTS[client])
    assert response.status_code == 200, response.text


def test_what_is_left_out_is_the_models(worker: ServedWorker) -> None:
    assert draw(worker).status_code == 200
    params = newest(worker)
    assert (params["width"], params["height"], params["steps"], params["guidance_scale"]) == (64, 64, 4, 5.0)


def test_no_pictures_where_none_are_wanted(worker: ServedWorker) -> None:
    answer = draw(worker, send_images=False).json()
    assert answer["images"] == []
    assert json.loads(answer["info"])["all_seeds"]


@pytest.mark.parametrize(
    ("name", "scheduler", "sampler"),
    [
        ("Euler", None, "euler"),
        ("euler", "automatic", "euler"),
        ("DPM++ 2M", "Automatic", "dpmpp_2m"),
        ("DPM++ 2M", "Karras", "dpmpp_2m_karras"),
        ("DPM++ 2M Karras", None, "dpmpp_2m_karras"),
        ("DPM++ 2M Karras", "Karras", "dpmpp_2m_karras"),
        ("dpmpp_2m", "", "dpmpp_2m"),
    ],
)
def test_samplers_by_their_names(serve: Serve, name: str, scheduler: str | None, sampler: str) -> None:
    worker = karras(serve)
    for field in ("sampler_name", "sampler_index"):
        response = draw(worker, scheduler=scheduler, **{field: name})
        assert response.status_code == 200, response.text
        assert newest(worker)["sampler"] == sampler


def karras(serve: Serve) -> ServedWorker:

    return serve(sdapi=True, facts=replace(FACTS, samplers=("euler", "dpmpp_2m", "dpmpp_2m_karras")))


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"prompt": ""}, "prompt"),
        ({"seed": -2}, "seed"),
        ({"seed": 2**63}, "seed"),
        ({"width": 65}, "width"),
        ({"steps": 151}, "steps"),
        ({"cfg_scale": 31}, "cfg_scale"),
        ({"batch_size": 3, "n_iter": 3}, "batch_size"),
        ({"batch_size": True}, "batch_size"),
        ({"sampler_name": "Euler b"}, "sampler_name"),
        ({"sampler_name": "UniPC"}, "sampler_name"),
        ({"scheduler": "Exponential"}, "scheduler"),
        ({"subseed_strength": 0.5}, "subseed_strength"),
        ({"styles": ["anime"]}, "styles"),
        ({"restore_faces": True}, "restore_faces"),
        ({"restore_faces": 0}, "restore_faces"),
        ({"tiling": True}, "tiling"),
        ({"eta": 0.5}, "eta"),
        ({"enable_hr": True}, "enable_hr"),
        ({"script_name": "X/Y/Z plot"}, "script_name"),
        ({"alwayson_scripts": {"controlnet": {}}}, "alwayson_scripts"),
        ({"save_images": 1}, "save_images"),
        ({"clip_skip": 2}, "clip_skip"),
        ({"eta": 1, "sampler_name": "DDIM"}, "eta"),
        ({"prompt": "a circle <lora:ink:0.8:0.6>"}, "prompt"),
        ({"prompt": "a circle <lora:ink:0.8:lbw=1,0>"}, "prompt"),
        ({"prompt": "a circle <lora:ink:nan>"}, "prompt"),
        ({"prompt": "a circle <lora:ink:strong>"}, "prompt"),
        ({"override_settings": {"CLIP_stop_at_last_layers": 2}}, "override_settings"),
        ({"override_settings": {"sd_model_checkpoint": "another"}}, "override_settings"),
        ({"init_images": ["x"]}, "init_images"),
        ({"colour": "red"}, "colour"),
        ({"two words": "red"}, "?"),
        ({"colour" * 100: "red"}, "?"),
    ],
    ids=str,
)
def test_what_cannot_be_honoured_is_refused_by_its_name(
    worker: ServedWorker, fields: dict[str, Any], named: str
) -> None:
    response = draw(worker, **fields)
    assert (response.status_code, response.json()["code"]) == (422, "invalid_request")
    assert [error["field"] for error in response.json()["errors"]] == [named]


def test_all_faults_are_told_at_once(worker: ServedWorker) -> None:
    refused = draw(worker, steps=0, tiling=True, colour="red").json()["errors"]
    assert [error["field"] for error in refused] == ["steps", "tiling", "colour"]


def test_the_loaded_model_may_be_asked_for(worker: ServedWorker) -> None:
    (model,) = worker.client.get("/sdapi/v1/sd-models").json()
    assert worker.client.get("/sdapi/v1/options").json()["sd_model_checkpoint"] == model["title"] == "fake"
    assert draw(worker, override_settings={"sd_model_checkpoint": model["title"]}).status_code == 200


def test_lists_are_what_is_there(worker: ServedWorker) -> None:
    names = [one["name"] for one in worker.client.get("/sdapi/v1/samplers").json()]
    assert names == ["DDIM", "Euler", "DPM++ 2M"]
    for name in names:
        assert draw(worker, sampler_name=name).status_code == 200
    assert [one["label"] for one in worker.client.get("/sdapi/v1/schedulers").json()] == ["Automatic"]
    for path in ("loras", "upscalers"):  # of a worker that has none
        assert worker.client.get(f"/sdapi/v1/{path}").json() == []
    assert worker.client.get("/sdapi/v1/embeddings").json() == {"loaded": {}, "skipped": {}}
    assert worker.client.get("/sdapi/v1/scripts").json() == {"txt2img": [], "img2img": []}


def test_settings_cannot_be_changed(worker: ServedWorker) -> None:
    assert worker.client.post("/sdapi/v1/options", json={"sd_model_checkpoint": "x"}).status_code == 405


def test_progress_follows_the_current_job_and_interrupt_ends_it(serve: Serve) -> None:
    runner = StepByStep(allowed=10)
    worker = serve(runner, sdapi=True)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        asked = pool.submit(draw, worker, steps=150)
        eventually(lambda: progress(worker)["state"]["sampling_step"] == 10)
        seen = progress(worker)
        assert seen["progress"] == pytest.approx(10 / 150, abs=1e-3)
        assert (seen["state"]["sampling_steps"], seen["state"]["job_count"]) == (150, 1)
        eventually(lambda: progress(worker)["current_image"])
        assert picture(progress(worker)["current_image"]).size == (64, 64)
        assert progress(worker, skip_current_image="true")["current_image"] is None
        other = worker.post()["job_id"]
        assert worker.client.post("/sdapi/v1/interrupt").json() == {}
        assert progress(worker)["state"]["interrupted"] is True
        runner.allow_all()
        assert (asked.result().status_code, asked.result().json()["code"]) == (409, "job_cancelled")
    worker.stream(other)
    assert worker.job(other)["status"] == "completed"


def progress(worker: ServedWorker, **query: str) -> dict[str, Any]:
    answer: dict[str, Any] = worker.client.get("/sdapi/v1/progress", params=query).json()
    return answer


def test_without_a_job_there_is_no_progress_and_nothing_to_interrupt(worker: ServedWorker) -> None:
    assert worker.client.post("/sdapi/v1/interrupt").status_code == 200
    answer = progress(worker)
    assert (answer["progress"], answer["current_image"], answer["state"]["job_count"]) == (0.0, None, 0)
    assert worker.client.get("/sdapi/v1/progress?skip_current_image=maybe").status_code == 422


def test_a_client_that_leaves_takes_its_job_along(serve: Serve) -> None:
    runner = StepByStep()
    worker = serve(runner, sdapi=True)
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{worker.url}/sdapi/v1/txt2img", json={"prompt": "x"}, timeout=2.0)
    runner.wait_for_calls(1)
    eventually(lambda: progress(worker)["state"]["job_count"] == 0)
    runner.allow_all()
    eventually(lambda: worker.client.get("/v1/jobs").json()["jobs"][0]["status"] == "cancelled")


def test_a_job_that_fails_is_a_problem(serve: Serve) -> None:
    worker = serve(FailsToDecode(), sdapi=True)
    response = httpx.post(f"{worker.url}/sdapi/v1/txt2img", json={"prompt": "x"}, timeout=WAIT_S)
    assert (response.status_code, response.json()["code"]) == (500, "nan_output")


def test_the_token_is_asked_for(serve: Serve) -> None:
    worker = serve(sdapi=True, tokens=["secret"])
    for path in ROUTES:
        assert worker.client.get(f"/sdapi/v1/{path}").status_code == 401
    assert draw(worker).status_code == 401


# From pictures.


@pytest.fixture(scope="module")
def editor(leaving: list[ServedWorker]) -> Iterator[ServedWorker]:
    """A worker whose model offers every task."""
    worker = ServedWorker(facts=replace(FACTS, tasks=tuple(Task)), sdapi=True)
    yield worker
    worker.leave()
    leaving.append(worker)


def redraw(worker: ServedWorker, **fields: Any) -> httpx.Response:
    body = {"prompt": "a red circle", "init_images": [encode(Image.new("RGB", (128, 64)))]} | fields
    return worker.client.post("/sdapi/v1/img2img", json=body)


def encode(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def half_white(mode: str = "L") -> Image.Image:
    """128 by 64, white on the right."""
    mask = Image.new(mode, (128, 64), "black")
    mask.paste("white", (64, 0, 128, 64))
    return mask


def painted(worker: ServedWorker) -> list[int]:
    """The mask that the model was given, at the left, at both sides of the middle, and at the right."""
    mask = worker.runner.opened[-1].mask
    assert mask is not None
    decoded = Image.open(io.BytesIO(mask.data))
    assert decoded.mode == "L"
    return [int(decoded.getpixel((x, 32))) for x in (0, 63, 64, 127)]  # type: ignore[arg-type]


def test_a_picture_is_drawn_from_a_picture(editor: ServedWorker) -> None:
    pictured = {"resize_mode": 0, "image_cfg_scale": None, "include_init_images": False, "mask_blur": 4}
    response = redraw(editor, **DEFAULTS | pictured | {"denoising_strength": 0.5, "width": 128})
    assert response.status_code == 200, response.text
    params = editor.runner.opened[-1]
    assert (params.task, params.strength, params.width, params.height) == (Task.IMAGE_TO_IMAGE, 0.5, 128, 64)
    assert response.json()["parameters"]["denoising_strength"] == 0.5


def test_a_client_that_says_much_of_masks_without_one_can_draw_from_a_picture(editor: ServedWorker) -> None:
    idle = {"inpainting_fill": 0, "inpaint_full_res": True, "inpaint_full_res_padding": 0, "inpainting_mask_invert": 0}
    said = {"resize_mode": 0, "initial_noise_multiplier": 1, "image_cfg_scale": 1.5, "include_init_images": False}
    response = redraw(editor, **CLIENTS["webuiapi"] | idle | said | {"mask_blur": 4})
    assert response.status_code == 200, response.text


def test_a_mask_is_white_where_to_draw_again(editor: ServedWorker) -> None:
    for mask in (half_white(), half_white("RGB"), half_white("RGBA"), half_white("1")):
        assert redraw(editor, mask=encode(mask), inpainting_fill=1, inpaint_full_res=False).status_code == 200
        assert editor.runner.opened[-1].task is Task.INPAINTING
        assert painted(editor) == [0, 0, 255, 255]


def test_a_mask_that_is_transparent_somewhere_is_where_it_is_opaque(editor: ServedWorker) -> None:
    mask = Image.new("RGBA", (128, 64), (0, 0, 0, 0))
    mask.paste("black", (64, 0, 128, 64))
    assert redraw(editor, mask=encode(mask)).status_code == 200
    assert painted(editor) == [0, 0, 255, 255]


def test_a_mask_is_turned_round_and_blurred_where_asked(editor: ServedWorker) -> None:
    assert redraw(editor, mask=encode(half_white()), inpainting_mask_invert=1).status_code == 200
    assert painted(editor) == [255, 255, 0, 0]
    assert redraw(editor, mask=encode(half_white()), mask_blur=8).status_code == 200
    left, before, behind, right = painted(editor)
    assert left == 0 < before < behind < right == 255
    assert redraw(editor, mask=encode(half_white()), mask_blur=8, mask_blur_x=0).status_code == 200
    assert painted(editor) == [0, 0, 255, 255]


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"init_images": []}, "init_images"),
        ({"init_images": ["x", "y"]}, "init_images"),
        ({"init_images": ["?"]}, "init_images"),
        ({"init_images": ["AAAA"]}, "init_images"),
        ({"denoising_strength": 0}, "denoising_strength"),
        ({"denoising_strength": 1.5}, "denoising_strength"),
        ({"mask": "?"}, "mask"),
        ({"mask": "AAAA"}, "mask"),
        ({"mask_blur": 65}, "mask_blur"),
        ({"resize_mode": 1}, "resize_mode"),
        ({"mask": "M", "inpainting_fill": 0}, "inpainting_fill"),
        ({"mask": "M", "inpaint_full_res": True}, "inpaint_full_res"),
        ({"include_init_images": True}, "include_init_images"),
    ],
    ids=str,
)
def test_what_cannot_be_done_with_a_picture_is_refused_by_its_name(
    editor: ServedWorker, fields: dict[str, Any], named: str
) -> None:
    response = redraw(editor, **fields | ({"mask": encode(half_white())} if fields.get("mask") == "M" else {}))
    assert response.status_code == 422
    assert {error["field"].partition(".")[0] for error in response.json()["errors"]} == {named}


def test_a_model_that_takes_no_pictures_says_so(worker: ServedWorker) -> None:
    response = redraw(worker)
    assert response.status_code == 422
    assert "init_images" in [error["field"] for error in response.json()["errors"]]


def test_adapters_are_asked_for_in_the_prompt(serve: Serve) -> None:
    ink = LoraFacts("ink", ("inked",), "sd", True, None, 10)
    wide = LoraFacts("wide", (), "sdxl", False, "it is made for sdxl", 10)
    worker = serve(facts=replace(FACTS, loras=(ink, wide)), sdapi=True)
    (listed,) = worker.client.get("/sdapi/v1/loras").json()
    assert (listed["name"], listed["path"]) == ("ink", "")
    assert draw(worker, prompt="a circle <lora:ink:0.5><lora:ink>").status_code == 200
    (asked,) = worker.runner.opened
    assert (asked.prompt, asked.loras) == ("a circle ", (LoraParams("ink", 0.5), LoraParams("ink", 1.0)))
    assert draw(worker, prompt="a circle <lora:wide:1>").status_code == 422
    for text, scale in (("0.30000000000000004", 0.1 + 0.2), (".8", 0.8), ("1e-1", 0.1), ("+1", 1.0), (" -2 ", -2.0)):
        assert draw(worker, prompt=f"a circle <lora:ink:{text}>").status_code == 200
        asked = worker.runner.opened[-1]
        assert (asked.prompt, asked.loras) == ("a circle ", (LoraParams("ink", scale),))
