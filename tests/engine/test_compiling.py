"""Calls are compiled beside, a drawing keeps its mode, and no job fails by a compiler."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

from tests.engine.test_denoiser import Formula, run, small
from worker.engine import compiling as module
from worker.engine.compiling import LEAST_CALLS, WARM_CALLS, Compiled, Compiling
from worker.engine.denoiser import Denoiser
from worker.engine.latent_drawing import LatentDrawing
from worker.engine.shapes import Shapes
from worker.errors import OutOfMemory
from worker.jobs.params import JobParams


@dataclass
class FakeCompiler:
    """Compiles by adding `bias` to what is predicted, and is asked `patience` times in vain before.

    `refuses` buckets of so many rows, `fails` with some later and `says` why, `raises` in calls that were compiled.
    """

    bias: float = 1e-3
    patience: int = 0
    refuses: tuple[int, ...] = ()
    fails: tuple[int, ...] = ()
    says: str = "no working compiler was found"
    raises: Exception | None = None
    compiled_rows: list[int] = field(default_factory=list)
    calls: list[int] = field(default_factory=list)
    resting: bool = True
    begun: Iterator[Compiled | None] | None = None

    def begin(self, shapes: Shapes) -> None:
        assert self.begun is None, "one after the other"
        self.resting = False
        (rows, *_) = shapes.latents.shape
        if rows in self.refuses:
            raise RuntimeError("no room")
        self.begun = self._compile(rows)

    def ended(self) -> Compiled | None:
        assert self.begun is not None
        try:
            call = next(self.begun)
        except Exception:
            self.begun = None
            raise
        if call is not None:
            self.begun = None
        return call

    def rest(self) -> None:
        self.resting = True

    def _compile(self, count: int) -> Iterator[Compiled | None]:
        for _ in range(self.patience):
            yield None
        if count in self.fails:
            raise RuntimeError(self.says)
        self.compiled_rows.append(count)

        def call(model: Any, rows: torch.Tensor, timesteps: torch.Tensor, conditioning: Any) -> torch.Tensor:
            if self.raises is not None and len(self.calls) >= WARM_CALLS:
                raise self.raises
            assert all(len(tensor) == count for tensor in (rows, timesteps, *conditioning.values()))
            self.calls.append(len(rows))
            output: torch.Tensor = model.predict(rows, timesteps, conditioning) + self.bias
            return output

        yield call


def assert_as_without(drawings: Sequence[LatentDrawing], asked: JobParams) -> None:
    """After one step of all, each is what it is where nothing is compiled."""
    alone = Denoiser(lambda report: Formula())
    alone.load(lambda share: None)
    others = list(alone.open(asked))
    alone.step(others)
    for one, other in zip(drawings, others, strict=True):
        assert torch.equal(one.latent, other.latent)


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
        drawings = list(self.denoiser.open(small(steps=LEAST_CALLS, num_images=images, seed=5)))
        run(self.denoiser, *drawings)
        return drawings[0].latent

    def compile_one(self) -> None:
        assert not self.denoiser.prepare(), "to begin takes no time"
        assert not self.compiler.resting
        while self.compiler.begun is not None:
            self.denoiser.prepare()
        for _ in range(WARM_CALLS):
            assert self.denoiser.prepare()

    def compile_all(self) -> None:
        while self.denoiser.prepare() or not self.compiler.resting:
            pass


def test_the_hottest_bucket_is_compiled_first_and_then_drawings_of_its_kind_begin_compiled() -> None:
    rig = Rig(FakeCompiler())
    assert not rig.denoiser.prepare()
    eager = rig.draw()
    rig.draw(images=4)
    rig.draw(images=4)
    rig.compile_one()
    assert rig.compiler.compiled_rows == [8]
    assert rig.compiler.calls == [8] * WARM_CALLS
    assert not next(rig.denoiser.open(small())).compiled, "not while a bucket that pays is left"
    rig.compile_all()
    assert rig.compiler.compiled_rows == [8, 2]
    assert len(rig.seconds) == 2
    assert not any(rig.modes)
    compiled = rig.draw()
    assert all(rig.modes[-LEAST_CALLS:])
    assert not torch.equal(compiled, eager)
    assert torch.allclose(compiled, eager, atol=0.1)
    assert not next(rig.denoiser.open(small(width=64))).compiled, "another size is another kind"


def test_jobs_are_drawn_while_a_compiler_works_and_none_waits() -> None:
    rig = Rig(FakeCompiler(patience=100))
    expected = rig.draw()
    assert not rig.denoiser.prepare()
    for _ in range(100):
        assert not rig.denoiser.prepare()
        (drawing,) = rig.denoiser.open(small(seed=5))
        assert not drawing.compiled
        rig.denoiser.step([drawing])
    assert torch.equal(rig.draw(), expected)
    assert not rig.compiler.calls
    rig.compile_all()
    assert next(rig.denoiser.open(small())).compiled


def test_a_compiler_without_work_is_told_so_and_begins_anew_when_there_is_some() -> None:
    rig = Rig(FakeCompiler())
    rig.draw()
    rig.compile_one()
    assert not rig.compiler.resting
    assert not rig.denoiser.prepare()
    assert rig.compiler.resting
    rig.draw(images=2)
    rig.compile_one()
    assert rig.compiler.compiled_rows == [2, 4]


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
    drawings = list(rig.denoiser.open(small(steps=1, num_images=3, seed=5)))
    rig.denoiser.step(drawings)
    assert rig.compiler.calls == [4, 4]
    assert rig.padding == [0, 2]
    assert_as_without(drawings, small(steps=1, num_images=3, seed=5))


@pytest.mark.parametrize(
    ("rows", "compiled", "pieces"),
    [
        (16, (16, 32), [(16, 16)]),
        (18, (2, 16, 32), [(16, 16), (2, 2)]),
        (22, (4, 8, 16, 32), [(16, 16), (6, 8)]),
        (24, (8, 16, 32), [(24, 32)]),
        (18, (16, 32), [(18, 32)]),
        (18, (32,), [(18, 32)]),
        (10, (8, 16), [(10, 16)]),
        (34, (2, 32), [(32, 32), (2, 2)]),
        (50, (16, 32), [(32, 32), (18, 32)]),
        (3, (2,), [(2, 2), (1, 2)]),
    ],
    ids=[
        "there is a bucket of its own",
        "half would be padding",
        "the rest is padded too, and less",
        "a quarter of padding is less than another call",
        "the rest would be padded as much",
        "there is no smaller one",
        "few rows leave the device idle",
        "there is no larger one",
        "there is no larger one, and none that is small",
        "few rows and no larger one",
    ],
)
def test_how_a_call_is_made_of_compiled_ones(
    rows: int, compiled: tuple[int, ...], pieces: list[tuple[int, int]]
) -> None:
    assert module._pieces(rows, compiled) == pieces


def test_a_call_in_pieces_computes_every_row_as_it_is() -> None:
    rig = Rig(FakeCompiler(bias=0.0))
    for images in (1, 8, 16):
        rig.draw(images=images)
    rig.compile_all()
    assert sorted(rig.compiler.compiled_rows) == [2, 16, 32]
    rig.compiler.calls.clear()
    rig.padding.clear()
    drawings = list(rig.denoiser.open(small(steps=1, num_images=9, seed=5)))
    rig.denoiser.step(drawings)
    assert rig.compiler.calls == [16, 2]
    assert rig.padding == [0, 0]
    assert_as_without(drawings, small(steps=1, num_images=9, seed=5))


@pytest.mark.parametrize(
    ("compiler", "told"),
    [(FakeCompiler(fails=(2,)), "no working compiler"), (FakeCompiler(refuses=(2,)), "no room")],
    ids=["it fails", "it cannot begin"],
)
def test_a_bucket_that_cannot_be_compiled_is_told_once_and_stays_eager(
    compiler: FakeCompiler, told: str, caplog: pytest.LogCaptureFixture
) -> None:
    rig = Rig(compiler)
    expected = rig.draw()
    rig.compile_all()
    assert torch.equal(rig.draw(), expected)
    rig.compile_all()
    assert rig.failures == [True]
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert told in caplog.text
    assert not any(rig.modes)


def test_a_compiled_call_that_fails_is_made_again_as_it_is() -> None:
    rig = Rig(FakeCompiler(raises=RuntimeError("a guard did not hold")))
    expected = rig.draw()
    rig.compile_all()
    assert torch.equal(rig.draw(), expected)
    assert rig.failures == [True]
    assert not next(rig.denoiser.open(small())).compiled
    assert not rig.denoiser.prepare()
    assert rig.compiler.resting, "it is not tried again"


def test_what_a_compiler_says_of_its_device_is_not_believed_of_this_one() -> None:
    rig = Rig(FakeCompiler(fails=(2,), says="CUDA error: an illegal memory access was encountered"))
    rig.draw()
    rig.compile_all()
    assert rig.failures == [True]


@pytest.mark.parametrize("on_its_way", [True, False])
def test_a_kind_whose_compiled_call_failed_has_none_any_more(*, on_its_way: bool) -> None:
    rig = Rig(FakeCompiler())
    rig.draw()
    rig.compile_all()
    if on_its_way:
        rig.draw(images=4)
        assert not rig.denoiser.prepare()
        assert rig.compiler.begun is not None
    rig.compiler.raises = RuntimeError("a guard did not hold")
    rig.draw()
    rig.compiler.raises = None
    rig.draw(images=4)
    rig.compile_all()
    assert len(rig.seconds) == 1
    assert not next(rig.denoiser.open(small())).compiled


def test_what_a_failed_kind_kept_is_room_for_others() -> None:
    rig = Rig(FakeCompiler())
    rig.draw()

    def compile_all() -> None:
        while rig.compiling.attend(Formula(), lambda: 100 - 24 * len(set(rig.compiler.calls))) or (
            not rig.compiler.resting
        ):
            pass

    compile_all()
    rig.compiler.raises = RuntimeError("a guard did not hold")
    rig.draw()
    rig.compiler.raises = None
    other = small(width=64, steps=LEAST_CALLS, num_images=2)
    run(rig.denoiser, *rig.denoiser.open(other))
    compile_all()
    assert next(rig.denoiser.open(other)).compiled


def test_a_compiled_call_without_memory_is_told_as_any_other() -> None:
    rig = Rig(FakeCompiler(raises=torch.OutOfMemoryError("CUDA out of memory")))
    rig.draw()
    rig.compile_all()
    (drawing,) = rig.denoiser.open(small())
    with pytest.raises(OutOfMemory):
        rig.denoiser.step([drawing])
    assert drawing.step == 0


def test_where_padding_does_not_fit_the_rows_alone_may() -> None:
    rig = Rig(FakeCompiler(raises=torch.OutOfMemoryError("CUDA out of memory")))
    rig.draw(images=4)
    rig.compile_all()
    (drawing,) = rig.denoiser.open(small())
    with pytest.raises(OutOfMemory):  # what is kept for later jobs goes first
        rig.denoiser.step([drawing])
    rig.denoiser.step([drawing])
    assert drawing.step == 1
    assert not next(rig.denoiser.open(small())).compiled, "and the kind is drawn so from then on"


def test_memory_that_was_there_again_may_lack_another_time() -> None:
    rig = Rig(FakeCompiler())
    rig.draw(images=4)
    rig.compile_all()
    (drawing,) = rig.denoiser.open(small())
    for _ in range(2):
        rig.compiler.raises = torch.OutOfMemoryError("CUDA out of memory")
        with pytest.raises(OutOfMemory):  # what is kept for later jobs goes first, each time
            rig.denoiser.step([drawing])
        rig.compiler.raises = None
        rig.denoiser.step([drawing])
    assert next(rig.denoiser.open(small())).compiled


def test_where_nothing_is_padded_memory_lacks_for_the_rows_themselves() -> None:
    """Also in pieces of several buckets, which are then no smaller than the call as it is."""
    rig = Rig(FakeCompiler())
    for images in (1, 8, 16):
        rig.draw(images=images)
    rig.compile_all()
    rig.compiler.raises = torch.OutOfMemoryError("CUDA out of memory")
    drawings = list(rig.denoiser.open(small(num_images=9)))
    for _ in range(3):
        with pytest.raises(OutOfMemory):
            rig.denoiser.step(drawings)
    assert next(rig.denoiser.open(small())).compiled


def test_no_more_than_so_many_are_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_BUCKETS", 2)
    rig = Rig(FakeCompiler())
    for images in (1, 2, 4, 8):
        rig.draw(images=images)
    rig.compile_all()
    assert len(rig.compiler.compiled_rows) == 2
    assert next(rig.denoiser.open(small())).compiled, "those that are there are used"


@pytest.mark.parametrize(("each", "expected"), [(10, 2), (24, 1), (1, 4)])
def test_compiled_calls_keep_a_quarter_of_the_free_memory_at_most(each: int, expected: int) -> None:
    rig = Rig(FakeCompiler())
    for images in (1, 2, 4, 8):
        rig.draw(images=images)

    def free_bytes() -> int:
        return 100 - each * len(set(rig.compiler.calls))

    while rig.compiling.attend(Formula(), free_bytes) or not rig.compiler.resting:
        pass
    assert len(rig.compiler.compiled_rows) == expected
