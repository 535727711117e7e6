"""Calls compiled in a process of its own: as good as the model's, with the caller's weights; and how it ends."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from shared_worker.device import Device, find_device
from tests.conftest import eventually
from tests.fakes import make_params
from tests.models.tiny import psnr_db
from tests.pretended import PRETENDED, pretended_device
from worker import compiler as module
from worker.compiler import CompilerProcess
from worker.engine.compiling import Compiled, Compiling
from worker.engine.denoiser import Denoiser
from worker.engine.shapes import Shapes
from worker.models.base import Model
from worker.models.checkpoint import Checkpoint
from worker.models.registry import identify

ROOT = Path(__file__).parent.parent
CPU = find_device("cpu")
pytestmark = [
    pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler"),
    pytest.mark.guard(900),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # torch's own, when inductor is imported
]


class Convolution:
    """A model of one layer. Calls of seven rows read a value, which no compiler looks through."""

    device = torch.device("cpu")

    def __init__(self, seed: int) -> None:
        torch.manual_seed(seed)
        self.layer = torch.nn.Conv2d(4, 4, 3, padding=1).requires_grad_(False)

    @torch.inference_mode()
    def predict(self, latents: torch.Tensor, timesteps: torch.Tensor, conditioning: Any) -> torch.Tensor:
        told = conditioning["hidden"].mean(dim=(1, 2)) + timesteps / 1000
        if len(latents) == 7:
            told = told * float(told.sum())
            print(told)
        output: torch.Tensor = torch.nn.functional.silu(self.layer(latents)) * told[:, None, None, None]
        return output


@dataclass(frozen=True)
class OneLayer:
    """As a checkpoint; each process that loads it makes up weights of its own."""

    weights_bytes: int = 0

    def alone(self) -> OneLayer:
        return self

    def load(self, device: Device, report: Any) -> Convolution:
        return Convolution(seed=os.getpid())


def inputs(rows: int) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
    return torch.randn(rows, 4, 8, 8), torch.full((rows,), 500.0), {"hidden": torch.randn(rows, 3, 2)}


def shapes(rows: int) -> Shapes:
    return Shapes.of(*inputs(1), rows=rows)


def ended(process: CompilerProcess, within_s: float = 400.0) -> Compiled:
    """What it compiled. It gives way to other processes, and takes long where those are busy."""
    calls: list[Compiled | None] = []

    def is_done() -> bool:
        calls.append(process.ended())
        return calls[-1] is not None

    eventually(is_done, within_s)
    return cast(Compiled, calls[-1])


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("inductor")
        patch.setenv("TORCHINDUCTOR_CACHE_DIR", str(folder))
        yield folder


def made(checkpoint: object = OneLayer(), mode: str = "default", device: Device = CPU) -> CompilerProcess:
    return CompilerProcess(cast(Checkpoint, checkpoint), device, mode)


def pid_of(process: CompilerProcess) -> int:
    assert process._process is not None
    return process._process.pid


@pytest.fixture
def process(cache: Path) -> Iterator[CompilerProcess]:
    process = made(mode="reduce-overhead")  # which is the default on the CPU
    yield process
    process.rest()


@pytest.fixture(scope="module")
def kept(cache: Path) -> Iterator[CompilerProcess]:
    process = made()
    yield process
    process.rest()


def test_a_compiled_call_computes_what_the_model_does_with_the_callers_weights(
    cache: Path, kept: CompilerProcess
) -> None:
    model = Convolution(seed=0)
    kept.begin(shapes(2))
    call = ended(kept)
    with torch.inference_mode():
        for _ in range(3):
            asked = inputs(2)
            expected = model.predict(*asked)
            output = call(model, *asked)
            assert (output - expected).square().mean().sqrt() < 1e-2 * expected.std(), "40 dB"
    assert any(cache.iterdir()), "what was compiled is kept"


def test_what_cannot_be_compiled_is_said_and_the_next_call_is(kept: CompilerProcess) -> None:
    kept.begin(shapes(7))
    with pytest.raises(RuntimeError, match="Unsupported"):
        ended(kept)
    kept.begin(shapes(3))
    with torch.inference_mode():
        assert ended(kept)(Convolution(seed=0), *inputs(3)).shape == (3, 4, 8, 8)


def test_a_process_that_dies_is_told_and_another_begins(process: CompilerProcess) -> None:
    process.begin(shapes(2))
    os.kill(pid_of(process), signal.SIGKILL)
    with pytest.raises(RuntimeError, match="has ended"):
        ended(process)
    process.begin(shapes(2))
    assert ended(process) is not None


def test_one_that_takes_too_long_is_ended(process: CompilerProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LONGEST_S", 0.2)
    process.begin(shapes(2))
    with pytest.raises(RuntimeError, match="longer"):
        ended(process)
    assert process._process is None


def test_without_room_for_the_model_a_second_time_nothing_is_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    process = made(OneLayer(weights_bytes=1000))
    monkeypatch.setattr(module, "free_bytes", lambda device: 1249)
    with pytest.raises(RuntimeError, match="a second time takes 1250 bytes, and 1249 are free"):
        process.begin(shapes(2))
    assert process._process is None


@pytest.mark.parametrize(("device", "expected"), [(PRETENDED, ["given back", "asked"]), (CPU, ["asked"])])
def test_what_torch_holds_back_on_a_gpu_is_free(
    device: Device, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    happened: list[str] = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: happened.append("given back"))
    monkeypatch.setattr(module, "free_bytes", lambda device: happened.append("asked") or 0)
    with pytest.raises(RuntimeError, match="and 0 are free"):
        made(OneLayer(weights_bytes=1000), device=device).begin(shapes(2))
    assert happened == expected


def test_ctrl_c_is_for_the_worker_alone(kept: CompilerProcess) -> None:
    kept.begin(shapes(4))
    assert os.getpgid(pid_of(kept)) != os.getpgid(0), "a terminal interrupts a group"
    ended(kept)


DIES = """
import signal
from tests.test_compiler import made, pid_of, shapes
process = made()
process.begin(shapes(2))
print(pid_of(process), flush=True)
signal.pause()
"""


def test_a_worker_that_is_killed_leaves_no_process_behind(tmp_path: Path) -> None:
    script = tmp_path / "dies.py"
    script.write_text(DIES)
    parent = subprocess.Popen(
        [sys.executable, str(script)], env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    os.kill(pid, 0)
    parent.kill()
    parent.wait()
    parent.stdout.close()

    def gone() -> bool:
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
        except OSError:
            return True

    eventually(gone, within_s=120)


@pytest.mark.parametrize("mode", module.OPTIONS)
def test_what_is_loaded_starts_no_processes_and_only_graphs_need_a_copy(
    mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    happened: list[object] = []
    output = torch.ones(1)

    def load(file: Any) -> Any:
        config = torch._inductor.config
        happened.extend((config.compile_threads, config.triton.cudagraphs))
        return lambda *inputs: output

    monkeypatch.setattr(torch.compiler, "load_compiled_function", load)
    monkeypatch.setattr(torch.compiler, "cudagraph_mark_step_begin", lambda: happened.append("marked"))
    same = module._loaded(b"", module.OPTIONS[mode])(cast(Any, None), *inputs(1)) is output
    graphs = mode == "reduce-overhead"
    assert (same, happened) == (not graphs, [1, graphs, *(["marked"] if graphs else [])])


def test_torch_that_keeps_its_compiler_off_is_told_to_use_it(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch._dynamo.config

    monkeypatch.setattr(torch._dynamo.config, "enable_aot_compile", False)  # as it is in torch 2.11
    compiled = module._compiled(cast(Model, Convolution(seed=0)), shapes(5), {"compile_threads": 1})
    model, asked = Convolution(seed=1), inputs(5)
    with torch.inference_mode():
        output = module._loaded(compiled, {})(cast(Model, model), *asked)
        assert torch.allclose(output, model.predict(*asked), atol=1e-3)


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Shapes of what is called in a compiler's place, where nothing is compiled."""
    seen: list[tuple[int, ...]] = []

    class Saved:
        def aot_compile(self, example: Any) -> Saved:
            return self

        def save_compiled_function(self, file: str) -> None:
            Path(file).write_bytes(b"saved")

        def __call__(self, model: Any, latents: torch.Tensor, *others: Any) -> None:
            seen.append(tuple(latents.shape))
            raise RuntimeError("unable to find an engine to execute this computation")  # as cuDNN says it

    monkeypatch.setattr(torch, "compile", lambda *given, **options: Saved())
    return seen


def test_on_the_cpu_what_is_compiled_is_not_called(called: list[tuple[int, ...]]) -> None:
    assert module._compiled(cast(Model, Convolution(seed=0)), shapes(2), {}) == b"saved"
    assert not called


def test_on_a_gpu_it_is_called_once_and_leaves_the_worker_half_of_what_is_free(
    called: list[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    limits: list[float] = []
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda fraction, device: limits.append(fraction))
    with pretended_device() as device:
        model = Convolution(seed=0)
        model.device = torch.device(device.torch_name)
        assert module._compiled(cast(Model, model), shapes(2), {}) == b"saved"
    assert called == [(2, 4, 8, 8)]
    assert limits == [(2 + 60 / 2) / 80, 1.0]


def test_it_is_compiled_on_the_workers_device(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[str] = []
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(os, "nice", lambda more: 0)
    monkeypatch.setattr(module, "_end_with_worker", lambda: None)
    for device in (CPU, replace(PRETENDED, torch_name="cuda:1")):
        ours, theirs = multiprocessing.Pipe()
        with theirs:
            monkeypatch.setattr(sys, "argv", ["compiler", str(os.dup(theirs.fileno()))])
        ours.send((OneLayer(), device, {}, torch.get_num_threads()))
        ours.close()
        with pytest.raises(EOFError):
            module.main()
    assert chosen == ["cuda:1"]


def to_compile(checkpoint: Checkpoint) -> Checkpoint:
    return replace(checkpoint, facts=replace(checkpoint.facts, compile="default"))


def test_a_checkpoint_can_be_sent() -> None:
    checkpoint = to_compile(identify("builtin", dtype=None, samplers=("euler",)))
    sent = pickle.loads(pickle.dumps(checkpoint.alone()))  # noqa: S301
    assert (sent.facts, sent.fingerprint, sent.packed) == (checkpoint.facts, checkpoint.fingerprint, False)


def test_the_built_in_models_calls_compile(cache: Path, pytestconfig: pytest.Config) -> None:
    if not pytestconfig.getoption("--long"):
        pytest.skip("takes a minute or two")
    checkpoint = to_compile(identify("builtin", dtype="float32", samplers=("euler",)))
    seen: list[bool] = []
    compiling = Compiling(process := CompilerProcess(checkpoint, CPU, "default"), on_call=seen.append)
    denoiser = Denoiser(lambda report: checkpoint.load(CPU, report), compiling=compiling)
    denoiser.load(lambda share: None)
    asked = make_params(prompt="a red circle", steps=9, width=128, height=128, sampler="euler")

    def draw() -> Any:
        (drawing,) = denoiser.open(asked)
        while not drawing.done:
            denoiser.step([drawing])
        return denoiser.finish(drawing)

    eager = draw()
    denoiser.prepare()
    eventually(lambda: not denoiser.prepare() and process._process is None, within_s=240)
    compiled = draw()
    assert seen == [False] * 9 + [True] * 9
    assert psnr_db(compiled, eager) >= 40
