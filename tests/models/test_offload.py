"""Parts that lie on the CPU until they are called: what moves and when, and that the picture is the same."""

from __future__ import annotations

import gc
import logging
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from shared_worker.device import Device, find_device
from tests.models import families
from tests.models.controls.nets import control, write_controlnet
from tests.models.lora_files import ATTENTION, TEXT, make_factors, write_diffusers
from tests.models.parity import Loaded
from tests.models.safety import NEVER, write_safety_checker
from tests.models.test_sd import one_thread
from tests.models.tiny import half_mask, job, scene
from tests.models.upscalers import files
from tests.pretended import pretended_device
from worker.engine.denoiser import Denoiser
from worker.errors import ConfigurationError, ModelUnusable
from worker.jobs.facts import ModelFacts
from worker.jobs.params import LoraParams, Task
from worker.models.checkpoint import Checkpoint
from worker.models.offload import Offload, OnDevice, Placement, choose_placement, offload_on
from worker.models.registry import identify
from worker.models.safety_folder import SafetyFolder

__all__ = ["one_thread"]

GB = 10**9
PRETENDED = Device("cuda", "cpu:0", "a device that is the CPU under another name")
"""torch computes on it; what is moved there and back is told apart by the name."""


class Part(torch.nn.Module):
    """One that says where it is moved to; without weights of its own."""

    def __init__(self, name: str, moves: list[tuple[str, str]], room: list[int] | None = None) -> None:
        super().__init__()
        self.name, self.moves, self.room = name, moves, room
        self.decoder = torch.nn.Linear(2, 2)

    def to(self, place: str) -> Part:  # type: ignore[override]
        self.moves.append((self.name, place))
        if self.room is not None and place != "cpu" and not self.room.pop():
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.decoder(x)  # type: ignore[no-any-return]


class Watched(Offload):
    """On a device where a layer can only be called while its part is there, and where no two companies ever are."""

    def __init__(self) -> None:
        super().__init__()
        self.moves: list[tuple[str, str]] = []
        self.companies: dict[str, str] = {}
        self.there: set[str] = set()

    def place(self, name: str, part: Any, device: str, *, beside: str | None = None) -> Any:
        self.companies[name] = beside or name
        move = part.to

        def to(where: str) -> Any:
            self.moves.append((name, where))
            (self.there.discard if where == "cpu" else self.there.add)(name)
            assert len({self.companies[one] for one in self.there}) <= 1, self.moves
            return move(where)

        def called(module: Any, inputs: Any) -> None:
            assert name in self.there, f"{type(module).__name__} of {name} is called from afar"

        part.to = to
        super().place(name, part, device, beside=beside)
        for layer in part.modules():
            if not list(layer.children()):
                layer.register_forward_pre_hook(called)
        return part


# What moves


def test_a_part_comes_when_it_is_called_and_goes_when_another_is() -> None:
    moves: list[tuple[str, str]] = []
    offload, x = Offload(), torch.zeros(1, 2)
    text, unet, vae = (offload.place(name, Part(name, moves), "cuda:0") for name in ("text", "unet", "vae"))
    assert moves == [], "loading moves nothing"
    for _ in range(3):
        unet(x)
    assert moves == [("unet", "cuda:0")], "steps move nothing"
    text(x)
    unet(x)
    vae.decoder(x)
    vae.decoder(x)
    offload.bring("unet")
    offload.bring("unet")
    assert moves[1:] == [
        *[("unet", "cpu"), ("text", "cuda:0")],
        *[("text", "cpu"), ("unet", "cuda:0")],
        *[("unet", "cpu"), ("vae", "cuda:0")],
        *[("vae", "cpu"), ("unet", "cuda:0")],
    ]


def test_what_is_called_in_turn_stays_beside() -> None:
    moves: list[tuple[str, str]] = []
    offload, x = Offload(), torch.zeros(1, 2)
    unet, vae = (offload.place(name, Part(name, moves), "cuda:0") for name in ("unet", "vae"))
    net = offload.place("net", Part("net", moves), "cuda:0", beside="unet")
    for _ in range(3):
        net(x)
        unet(x)
    assert moves == [("net", "cuda:0"), ("unet", "cuda:0")]
    vae.decoder(x)
    assert moves[2:] == [("net", "cpu"), ("unet", "cpu"), ("vae", "cuda:0")]
    unet(x)
    assert moves[5:] == [("vae", "cpu"), ("unet", "cuda:0")], "a net that no job asks for stays away"


def test_a_part_for_which_there_is_no_room_goes_back_whole() -> None:
    moves: list[tuple[str, str]] = []
    offload, x = Offload(), torch.zeros(1, 2)
    unet = offload.place("unet", Part("unet", moves, room=[1, 0]), "cuda:0")
    with pytest.raises(torch.OutOfMemoryError):
        unet(x)
    unet(x)
    assert moves == [("unet", "cuda:0"), ("unet", "cpu"), ("unet", "cuda:0")]


def test_what_is_let_go_of_is_gone_at_once() -> None:
    moves: list[tuple[str, str]] = []
    offload, x = Offload(), torch.zeros(1, 2)
    vae = offload.place("vae", Part("vae", moves), "cuda:0")
    net = offload.place("net", Part("net", moves), "cuda:0", beside="unet")
    net(x)
    assert offload.weights_bytes(GB) == 6 * 4
    kept = weakref.ref(net)
    gc.disable()
    try:
        del net
        assert kept() is None, "without waiting for a collection of garbage"
    finally:
        gc.enable()
    assert offload.weights_bytes(GB) == 0
    vae.decoder(x)
    assert moves == [("net", "cuda:0"), ("vae", "cuda:0")]
    again = offload.place("net", Part("net", moves), "cuda:0", beside="unet")
    again(x)
    assert moves[2:] == [("vae", "cpu"), ("net", "cuda:0")]


class Tied(torch.nn.Module):
    """Two layers of one weight, and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
        self.other.weight = self.one.weight
        self.register_buffer("scale", torch.ones(2))
        self.requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.other(self.one(x)) * self.scale  # type: ignore[no-any-return, operator]


def told(part: torch.nn.Module) -> dict[str, tuple[str, torch.dtype, int]]:
    tensors = {**part.state_dict(), "the same": part.other.weight}  # type: ignore[union-attr]
    return {name: (tensor.device.type, tensor.dtype, tensor.data_ptr()) for name, tensor in tensors.items()}


@torch.inference_mode()
def test_weights_come_back_without_being_copied() -> None:
    with torch.inference_mode(False):
        tied, other, x = Tied(), torch.nn.Linear(2, 2), torch.ones(1, 2)
        read = tied.one.weight.data_ptr()
    expected = tied(x)
    with pretended_device() as device:
        offload = Offload()
        offload.place("tied", tied, device.torch_name)
        offload.place("other", other, device.torch_name)
        kept = told(tied)
        assert kept["one.weight"][2] != read, "not where a file may be mapped"
        for dtype in (torch.float32, torch.float16):
            drawn = tied(x.to(device.torch_name)).cpu()
            assert torch.equal(drawn, expected)
            assert {one.device.type for one in (*tied.parameters(), *tied.buffers())} == {"cuda"}
            tied.to(dtype)  # as a VAE is, and breaks off
            other(x.to(device.torch_name))
            assert told(tied) == kept
    del tied
    gc.collect()
    assert len(offload._kept) == 1, "of what is let go of nothing is"


def test_it_is_told_what_is_moved(caplog: pytest.LogCaptureFixture) -> None:
    offload = Offload()
    with caplog.at_level(logging.DEBUG, "worker.models.offload"):
        offload.place("unet", torch.nn.Linear(1000, 1000), "cpu:0")(torch.zeros(1, 1000))
    placed, moved = caplog.messages
    assert placed == "offload: unet, 0.0040 GB, lies on the CPU until it is called"
    assert moved.startswith("offload: unet to cpu:0, 0.0040 GB in ")


# What is chosen

FACTS = ModelFacts("x", "sdxl", "float16", 1024, 1024, 8, 30, 5.0, "euler", ("euler",), (Task.TEXT_TO_IMAGE,))
PARTS = {"text_encoder": GB, "unet": 5 * GB, "vae": GB}


def choose(asked: str, free: float | None, cpu: float | None = 64.0) -> Placement:
    return choose_placement(asked, PARTS, FACTS, free and int(free * GB), cpu and int(cpu * GB))


@pytest.mark.parametrize(
    ("asked", "free", "kind"),
    [
        ("none", 7.0, OnDevice),
        ("none", None, OnDevice),
        ("auto", 24.0, OnDevice),
        ("auto", 9.2, OnDevice),
        ("auto", 9.1, Offload),  # a picture takes 2.1 GB
        ("auto", 5.0, Offload),
        ("auto", None, OnDevice),
        ("model", 24.0, Offload),
        ("model", None, Offload),
    ],
)
def test_what_fits_is_left_on_the_device(asked: str, free: float | None, kind: type) -> None:
    assert type(choose(asked, free)) is kind


@pytest.mark.parametrize(
    ("asked", "free", "cpu", "told"),
    [
        ("none", 6.9, 64.0, "the model's weights take 7.0 GB in float16, and 6.9 GB are free"),
        ("auto", 4.9, 64.0, "the model's unet takes 5.0 GB in float16, and 4.9 GB are free on the device"),
        ("model", 4.9, 64.0, "the model's unet takes 5.0 GB in float16, and 4.9 GB are free on the device"),
        ("model", 24.0, 6.9, "the model's weights take 7.0 GB in float16, and 6.9 GB are free"),
        ("auto", 6.0, 6.9, "the model's weights take 7.0 GB in float16, and 6.9 GB are free"),
    ],
)
def test_what_never_fits_is_refused(asked: str, free: float, cpu: float, told: str) -> None:
    with pytest.raises(ModelUnusable) as refused:
        choose(asked, free, cpu)
    assert refused.value.detail == f"not enough memory: {told}"


def test_what_it_costs_is_told(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "worker.models.offload"):
        choose("auto", 24.0)
        assert caplog.messages == []
        choose("auto", 6.0)
    why, cost = caplog.messages
    assert why == "offload: weights of 7.0 GB and 2.1 GB for a picture do not fit into 6.0 GB"
    assert "A step costs what it costs without it" in cost


def test_the_cpu_has_nowhere_to_put_parts() -> None:
    with pytest.raises(ConfigurationError, match="this worker computes there already"):
        offload_on("cpu", "model")
    assert [offload_on("cpu", asked) for asked in ("none", "auto")] == ["none", "none"]
    assert [offload_on("cuda", asked) for asked in ("none", "model", "auto")] == ["none", "model", "auto"]


# What is drawn


@pytest.fixture(scope="module")
def adapted(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """An SDXL with a LoRA and a ControlNet."""
    root = tmp_path_factory.mktemp("offload")
    folder = families.write_sdxl(root / "tiny")
    stock = families.load_stock(folder)
    parts = {name: getattr(stock, name) for name in ("unet", "text_encoder", "text_encoder_2")}
    write_diffusers(root / "loras/style.safetensors", make_factors(parts, 1, ATTENTION + TEXT))
    write_controlnet(root / "nets/lines", folder)
    checkpoint = identify(str(folder), dtype="float32", samplers=("euler",))
    return checkpoint.with_loras(root / "loras", GB).with_controls(root / "nets")


def loaded(checkpoint: Checkpoint, placement: Placement, device: Device = PRETENDED) -> Loaded:
    checkpoint = replace(checkpoint, placement=placement)
    bring = lambda: placement.bring(checkpoint.family.denoiser)  # noqa: E731
    denoiser = Denoiser(lambda report: checkpoint.load(device, report), before_timing=bring)
    denoiser.load(lambda share: None)
    return Loaded(Path(), checkpoint, denoiser)


JOBS = (
    job(steps=3, negative_prompt="green"),
    job(steps=3, loras=(LoraParams("style", 0.7),), controls=(control("lines"),)),
    job(steps=3, task=Task.IMAGE_TO_IMAGE, image=scene(), strength=0.7),
    job(steps=3, task=Task.INPAINTING, image=scene(), mask=half_mask(), strength=0.7),
)


def test_the_picture_is_the_same(adapted: Checkpoint) -> None:
    watched = Watched()
    moved, there = loaded(adapted, watched), loaded(adapted, OnDevice())
    for asked in JOBS:
        [[drawn]], [[expected]] = moved.draw(asked), there.draw(asked)
        assert np.array_equal(drawn, expected), asked
    assert set(watched.companies) == {"text_encoder", "text_encoder_2", "unet", "vae", "ControlNet lines"}
    assert watched.companies["ControlNet lines"] == "unet"
    assert {name for name, where in watched.moves if where == "cpu:0"} == set(watched.companies)


def test_running_steps_pay_nothing(adapted: Checkpoint) -> None:
    watched = Watched()
    moved = loaded(adapted, watched)
    drawings = list(moved.denoiser.open(JOBS[1]))
    moved.denoiser.step(drawings)
    before = len(watched.moves)
    moved.denoiser.step(drawings)
    moved.denoiser.step(drawings)
    moved.denoiser.preview(drawings[0])
    assert watched.moves[before:] == []
    moved.denoiser.finish(drawings[0])
    assert watched.moves[before:] == [("ControlNet lines", "cpu"), ("unet", "cpu"), ("vae", "cpu:0")]


def test_no_transfer_is_timed(adapted: Checkpoint) -> None:
    watched = Watched()
    moved = loaded(adapted, watched)
    moved.denoiser.time_call(2)
    assert watched.moves[-2:] == [("text_encoder_2", "cpu"), ("unet", "cpu:0")]
    before = len(watched.moves)
    moved.denoiser.time_call(2)
    assert watched.moves[before:] == [], "nothing is encoded again"


def test_a_safety_checker_takes_turns_too(tmp_path: Path, adapted: Checkpoint) -> None:
    watched = Watched()
    model = loaded(adapted, watched)
    flags = SafetyFolder.at(write_safety_checker(tmp_path / "checker", NEVER)).load(PRETENDED, watched)
    assert "safety checker" not in watched.there
    assert not flags(np.zeros((32, 32, 3), np.uint8))
    assert watched.there == {"safety checker"}
    model.draw(job(steps=1))
    assert watched.there == {"vae"}


def test_an_upscaler_stays_beside_the_denoiser(tmp_path: Path, adapted: Checkpoint) -> None:
    files.write(tmp_path / "larger.safetensors", files.dense())
    watched = Watched()
    model = loaded(adapted.with_upscalers(tmp_path), watched)
    upscaler, tile = model.checkpoint.load_upscaler("larger", PRETENDED), torch.rand(1, 3, 8, 8)
    there = replace(model.checkpoint, placement=OnDevice()).load_upscaler("larger", PRETENDED)
    assert "upscaler larger" not in watched.there
    model.draw(job(steps=1))
    assert torch.equal(upscaler.enlarge(tile), there.enlarge(tile))
    assert watched.there == {"upscaler larger"}
    watched.bring("unet")
    assert watched.there == {"upscaler larger", "unet"}, "their calls take turns"


FAMILIES: dict[str, Callable[[Path], Path]] = {"sd3": families.write_sd3, "flux": families.write_flux}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_can_be_offloaded(family: str, tmp_path: Path) -> None:
    checkpoint = identify(str(FAMILIES[family](tmp_path / "tiny")), dtype="float32", samplers=("flow_euler",))
    asked = job(steps=2, sampler="flow_euler", guidance_scale=3.0)
    watched = Watched()
    [[drawn]] = loaded(checkpoint, watched).draw(asked)
    [[expected]] = loaded(checkpoint, OnDevice()).draw(asked)
    assert np.array_equal(drawn, expected)
    assert checkpoint.family.denoiser in watched.companies


def test_a_vae_that_overflows_is_precise_for_as_long_as_it_is_called(tmp_path: Path) -> None:
    folder = families.write_sdxl(tmp_path / "tiny", vae={"force_upcast": True})
    checkpoint = identify(str(folder), dtype="float16", samplers=("euler",))
    [[drawn]] = loaded(checkpoint, Watched()).draw(job(steps=2))
    [[expected]] = loaded(checkpoint, OnDevice()).draw(job(steps=2))
    assert np.array_equal(drawn, expected)


# On a device


@pytest.fixture
def card() -> Device:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return find_device("cuda")


@pytest.mark.cuda
def test_weights_lie_where_they_are_called(adapted: Checkpoint, card: Device) -> None:
    moved, there = loaded(adapted, Offload(), card), loaded(adapted, OnDevice(), card)
    for asked in JOBS:
        [[drawn]], [[expected]] = moved.draw(asked), there.draw(asked)
        assert np.array_equal(drawn, expected), asked
    model: Any = moved.denoiser._model
    assert {one.device.type for one in model._unet.parameters()} == {"cpu"}
    model.decode(torch.zeros((1, *model.latent_shape(32, 32)), device=model.device))
    assert {one.device.type for one in model._vae._vae.parameters()} == {"cuda"}
    assert moved.checkpoint.device_bytes == sum(one.nbytes for one in model._vae._vae.parameters())
