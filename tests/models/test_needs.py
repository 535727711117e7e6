"""What counts in the memory check at the start, and among the weights in memory: what is resident, and no more."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import pytest
import torch

from shared_worker.device import find_device
from tests.models.controls.nets import write_controlnet
from tests.models.controls.test_parity import load
from tests.models.safety import NEVER, write_safety_checker
from tests.models.upscalers import files
from worker import provide
from worker.errors import ModelUnusable
from worker.models.needs import SAFETY_CHECKER
from worker.models.offload import OnDevice
from worker.models.registry import identify
from worker.models.safety_folder import SafetyFolder
from worker.models.upsampling import UpsamplingConv2d
from worker.settings import Settings

CPU = find_device("cpu")


def bytes_of(module: torch.nn.Module) -> int:
    return sum(one.nbytes for one in (*module.parameters(), *module.buffers()))


def upsampling(model: Any) -> list[UpsamplingConv2d]:
    """The layers that are one with a doubling of pixels."""
    layers = [layer for part in (model._unet, model._vae._vae) for layer in part.modules()]
    return [layer for layer in layers if isinstance(layer, UpsamplingConv2d)]


class Watching(OnDevice):
    """Keeps what it was given."""

    def place(self, name: str, part: Any, device: str, *, beside: str | None = None) -> Any:
        self.placed = part
        return super().place(name, part, device, beside=beside)


@pytest.fixture(scope="module")
def checker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_safety_checker(tmp_path_factory.mktemp("safety") / "checker", NEVER)


def test_a_safety_checkers_weights_are_those_in_memory(checker: Path) -> None:
    found, watching = SafetyFolder.at(checker), Watching()
    found.load(CPU, watching)
    buffers = sum(one.nbytes for one in watching.placed.buffers())  # positions, which are in no file
    assert found.weights_bytes == bytes_of(watching.placed) - buffers


def test_a_safety_checker_counts_from_the_start(tiny: Path, checker: Path) -> None:
    asked = {"model": str(tiny), "dtype": "bfloat16"}
    alone = provide.everything(Settings(**asked), CPU).checkpoint
    beside = provide.everything(Settings(**asked, safety_checker=checker), CPU).checkpoint
    assert beside.weights_bytes == alone.weights_bytes + SafetyFolder.at(checker).weights_bytes
    assert beside.device_bytes == beside.weights_bytes


def test_with_a_safety_checker_that_does_not_fit_the_worker_does_not_start(tiny: Path) -> None:
    def start(free_bytes: int, offload: str = "none") -> None:
        identify(
            str(tiny),
            dtype="float32",
            samplers=("euler",),
            free_bytes=free_bytes,
            cpu_bytes=10**12,
            offload=offload,
            beside_bytes={SAFETY_CHECKER: 2 * 10**9},
        )

    start(2_100_000_000)
    with pytest.raises(ModelUnusable) as refused:
        start(2_000_000_000)
    assert refused.value.detail == (
        "not enough memory: the model's weights take 2.0 GB in float32, with the safety checker, and 2.0 GB are free"
    )
    start(2_000_000_000, "model")
    with pytest.raises(ModelUnusable) as refused:
        start(1_900_000_000, "model")
    assert refused.value.detail == (
        "not enough memory: the safety checker takes 2.0 GB, and 1.9 GB are free on the device"
    )


def test_a_controlnet_counts_for_as_long_as_it_is_in_memory(tiny: Path, tmp_path: Path) -> None:
    write_controlnet(tmp_path / "nets/lines", tiny)
    ours = load(tiny, tmp_path / "nets")
    before = ours.checkpoint.device_bytes
    model: Any = ours.denoiser._model
    added = sum(layer.beside_bytes for layer in upsampling(model))
    assert before == ours.checkpoint.weights_bytes + added, "none is there at the start"
    nets: Any = model._controls
    nets.hold("lines")
    assert ours.checkpoint.device_bytes == before + bytes_of(nets._loaded["lines"])
    nets._drop_idle(0)
    gc.collect()
    assert ours.checkpoint.device_bytes == before


def test_an_upscaler_counts_for_as_long_as_it_is_in_memory(tiny: Path, tmp_path: Path) -> None:
    weights = files.dense()
    files.write(tmp_path / "larger.safetensors", weights)
    checkpoint = identify(str(tiny), dtype="float32", samplers=("euler",)).with_upscalers(tmp_path)
    before = checkpoint.device_bytes
    upscaler = checkpoint.load_upscaler("larger", CPU)
    assert checkpoint.device_bytes == before + sum(one.nbytes for one in weights.values())
    del upscaler
    gc.collect()
    assert checkpoint.device_bytes == before


def test_what_layers_keep_beside_their_weights_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    if not torch.backends.mkl.is_available():
        pytest.skip("only kernels of x86 processors keep something beside weights")
    checkpoint = identify("builtin", dtype="float32", samplers=("dpmpp_2m",))
    before = checkpoint.device_bytes
    model: Any = checkpoint.load(CPU, lambda share: None)
    added = sum(16 * layer.weight.nbytes // 9 for layer in upsampling(model))
    assert checkpoint.device_bytes == before + added > before
