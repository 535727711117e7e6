"""Calls are compiled while nothing is drawn, a drawing keeps its mode, and no job fails by a compiler."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch

from shared_worker.device import find_device
from tests.engine.test_denoiser import Formula, run, small
from tests.fakes import make_params
from tests.models.tiny import psnr_db
from worker.engine import compiling as module
from worker.engine.compiling import LEAST_CALLS, Compiling, Predict, TorchCompiler
from worker.engine.denoiser import Denoiser
from worker.errors import OutOfMemory
from worker.models.registry import identify


@dataclass
class FakeCompiler:
    """Compiles by adding `bias` to what is predicted; `fails` for buckets of so many rows, `raises` in later calls."""

    bias: float = 1e-3
    fails: tuple[int, ...] = ()
    raises: Exception | None = None
    compiled_rows: list[int] = field(default_factory=list)
    calls: list[int] = field(default_factory=list)

    def compiled(self, predict: Predict) -> Predict:
        shape: list[int] = []

        def call(rows: torch.Tensor, timesteps: torch.Tensor, conditioning: Any) -> torch.Tensor:
            if not shape:
                if len(rows) in self.fails:
                    raise RuntimeError("no working compiler was found")
                shape.append(len(rows))
                self.compiled_rows.append(len(rows))
            elif self.raises is not None and len(self.calls) >= 3:
                raise self.raises
            assert shape == [len(rows)], "one compiled call has one shape"
            assert all(len(tensor) == len(rows) for tensor in (timesteps, *conditioning.values()))
            self.calls.append(len(rows))
            return predict(rows, timesteps, conditioning) + self.bias

        return call


@dataclass
class Rig:
    compiler: FakeCompiler
    seconds: list[float] = field(default_factory=list)
    failures: list[bool] = field(default_factory=list)
    modes: list[bool] = field(default_factory=list)
    padding: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.compiling = Compiling(
            self.compiler,
            on_compiled=self.seconds.append,
            on_failed=lambda: self.failures.append(True),
            on_call=self.modes.append,
            on_padding=self.padding.append,
        )
        self.denoiser = Denoiser(lambda report: Formula(), compiling=self.compiling)
        self.denoiser.load(lambda share: None)

    def draw(self, images: int = 1) -> torch.Tensor:
        """Draw one job in calls of all its images; its first latent."""
        drawings = self.denoiser.open(small(steps=LEAST_CALLS, num_images=images, seed=5))
        run(self.denoiser, *drawings)
        return drawings[0].latent

    def compile_all(self) -> None:
        while self.denoiser.prepare():
            pass


def test_the_hottest_bucket_is_compiled_first_and_then_drawings_of_its_kind_begin_compiled() -> None:
    rig = Rig(FakeCompiler())
    assert not rig.denoiser.prepare()
    eager = rig.draw()
    rig.draw(images=4)
    rig.draw(images=4)
    assert rig.denoiser.prepare()
    assert rig.compiler.compiled_rows == [8]
    assert not rig.denoiser.open(small())[0].compiled, "not while a bucket that pays is left"
    rig.compile_all()
    assert rig.compiler.compiled_rows == [8, 2]
    assert len(rig.seconds) == 2
    assert not any(rig.modes)
    compiled = rig.draw()
    assert all(rig.modes[-LEAST_CALLS:])
    assert not torch.equal(compiled, eager)
    assert torch.allclose(compiled, eager, atol=0.1)
    assert not rig.denoiser.open(small(width=64))[0].compiled, "another size is another kind"


def test_a_drawing_ends_in_the_mode_it_began_in_and_shares_no_call_with_the_other() -> None:
    rig = Rig(FakeCompiler())
    expected = rig.draw()
    (begun,) = rig.denoiser.open(small(steps=LEAST_CALLS, seed=5))
    rig.denoiser.step([begun])
    rig.compile_all()
    (later,) = rig.denoiser.open(small(steps=LEAST_CALLS, seed=5))
    assert (begun.compiled, later.compiled) == (False, True)
    assert begun.key != later.key
    calls = len(rig.compiler.calls)
    run(rig.denoiser, begun)
    assert len(rig.compiler.calls) == calls
    assert torch.equal(begun.latent, expected)


def test_compiled_calls_are_padded_up_and_larger_ones_cut_into_pieces() -> None:
    rig = Rig(FakeCompiler(bias=0.0))
    rig.draw(images=2)
    rig.compile_all()
    assert rig.compiler.compiled_rows == [4]
    rig.compiler.calls.clear()
    drawings = rig.denoiser.open(small(steps=1, num_images=3, seed=5))
    rig.denoiser.step(drawings)
    assert rig.compiler.calls == [4, 4]
    assert rig.padding == [0, 2]
    alone = Denoiser(lambda report: Formula())
    alone.load(lambda share: None)
    others = alone.open(small(steps=1, num_images=3, seed=5))
    alone.step(others)
    for one, other in zip(drawings, others, strict=True):
        assert torch.equal(one.latent, other.latent)


def test_a_bucket_that_cannot_be_compiled_is_told_once_and_stays_eager(caplog: pytest.LogCaptureFixture) -> None:
    rig = Rig(FakeCompiler(fails=(2,)))
    expected = rig.draw()
    rig.compile_all()
    assert torch.equal(rig.draw(), expected)
    rig.compile_all()
    assert rig.failures == [True]
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "no working compiler" in caplog.text
    assert not any(rig.modes)


def test_a_compiled_call_that_fails_is_made_again_as_it_is() -> None:
    rig = Rig(FakeCompiler(raises=RuntimeError("a guard did not hold")))
    expected = rig.draw()
    rig.compile_all()
    assert torch.equal(rig.draw(), expected)
    assert rig.failures == [True]
    assert not rig.denoiser.open(small())[0].compiled
    assert not rig.denoiser.prepare(), "it is not tried again"


def test_a_compiled_call_without_memory_is_told_as_any_other() -> None:
    rig = Rig(FakeCompiler(raises=torch.OutOfMemoryError("CUDA out of memory")))
    rig.draw()
    rig.compile_all()
    (drawing,) = rig.denoiser.open(small())
    with pytest.raises(OutOfMemory):
        rig.denoiser.step([drawing])
    assert drawing.step == 0


def test_no_more_than_so_many_are_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_BUCKETS", 2)
    rig = Rig(FakeCompiler())
    for images in (1, 2, 4, 8):
        rig.draw(images=images)
    rig.compile_all()
    assert len(rig.compiler.compiled_rows) == 2
    assert rig.denoiser.open(small())[0].compiled, "those that are there are used"


@pytest.mark.parametrize(("each", "expected"), [(10, 2), (24, 1), (1, 4)])
def test_compiled_calls_keep_a_quarter_of_the_free_memory_at_most(each: int, expected: int) -> None:
    rig = Rig(FakeCompiler())
    for images in (1, 2, 4, 8):
        rig.draw(images=images)

    def free_bytes() -> int:
        return 100 - each * len(rig.compiler.compiled_rows)

    while rig.compiling.compile_next(Formula().predict, free_bytes):
        pass
    assert len(rig.compiler.compiled_rows) == expected


def convolved() -> Callable[..., torch.Tensor]:
    torch.manual_seed(0)
    layer = torch.nn.Conv2d(4, 4, 3, padding=1)

    def predict(latents: torch.Tensor, timesteps: torch.Tensor, conditioning: Any) -> torch.Tensor:
        told = conditioning["hidden"].mean(dim=(1, 2)) + timesteps / 1000
        return torch.nn.functional.silu(layer(latents)) * told[:, None, None, None]

    return predict


@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
@pytest.mark.guard(120)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, when inductor is imported
def test_torch_compiles_a_call_of_one_shape(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    predict = convolved()

    def inputs(rows: int) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
        return torch.randn(rows, 4, 8, 8), torch.full((rows,), 500.0), {"hidden": torch.randn(rows, 3, 2)}

    with torch.inference_mode():
        call = TorchCompiler("default").compiled(predict)
        for _ in range(3):
            asked = inputs(2)
            difference = (call(*asked) - predict(*asked)).square().mean().sqrt()
            assert difference < 1e-2 * predict(*asked).std(), "40 dB"
        with pytest.raises(RuntimeError):  # and not a minute of compiling while others wait
            call(*inputs(4))
    assert any(tmp_path.iterdir()), "what was compiled is kept"


@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
@pytest.mark.guard(600)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_built_in_models_calls_compile(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, pytestconfig: pytest.Config
) -> None:
    if not pytestconfig.getoption("--long"):
        pytest.skip("takes a minute or two")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    checkpoint = replace(identify("builtin", dtype="float32", samplers=("euler",)), compiled=True)
    seen: list[bool] = []
    compiling = Compiling(TorchCompiler("default"), on_call=seen.append)
    denoiser = Denoiser(lambda report: checkpoint.load(find_device("cpu"), report), compiling=compiling)
    denoiser.load(lambda share: None)
    asked = make_params(prompt="a red circle", steps=9, width=128, height=128, sampler="euler")

    def draw() -> Any:
        (drawing,) = denoiser.open(asked)
        while not drawing.done:
            denoiser.step([drawing])
        return denoiser.finish(drawing)

    eager = draw()
    while denoiser.prepare():
        pass
    compiled = draw()
    assert seen == [False] * 9 + [True] * 9
    assert psnr_db(compiled, eager) >= 40
