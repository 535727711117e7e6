"""The GPU's rows of the benches, from end to end with toys on the CPU: they are seldom run where they belong."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image as Pictures

from benches.speed.arms import pipeline
from benches.speed.bench import Bench
from benches.speed.claims import claims_of
from benches.speed.engine import arms, exact_gpu, gpu, rate, sd15_gpu, sdxl_gpu
from benches.speed.engine.arms import Compiled
from benches.speed.engine.rig import EngineRig
from benches.speed.outcome import NotMeasured
from shared_worker.device import find_device
from tests.models.test_sd import one_thread
from worker.engine.compiling import LEAST_CALLS
from worker.models.base import Model
from worker.models.registry import identify

SIZES = {
    name: replace(size, steps=2, side_px=64, matrix_side=64)
    for name, size in {"SD 1.5": sd15_gpu.QUICK, "SDXL": sdxl_gpu.QUICK}.items()
}
BENCH = Bench(quick=True)

__all__ = ["one_thread"]
pytestmark = pytest.mark.usefixtures("one_thread")


class InstantCompiler:
    """In a compiler process's place: compiles nothing, and says at once that it is done."""

    def __init__(self, checkpoint: Any, device: Any, mode: str) -> None:
        assert checkpoint.facts.compile == mode == "default"

    def begin(self, shapes: Any) -> None:
        """Nothing to do."""

    def ended(self) -> Callable[..., torch.Tensor]:
        def predict(model: Model, *inputs: Any) -> torch.Tensor:
            return model.predict(*inputs)

        return predict

    def rest(self) -> None:
        """Nothing to let go."""


class CountingCompiler(InstantCompiler):
    """Keeps the rows of what it was asked to compile."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.asked: list[int] = []

    def begin(self, shapes: Any) -> None:
        self.asked.append(shapes.latents.shape[0])


class OneCallAlone(CountingCompiler):
    """Has its first call once it is `free`, and is never done with the second."""

    free = False

    def ended(self) -> Any:
        return super().ended() if self.free and len(self.asked) == 1 else None

    def rest(self) -> None:
        self.resting = True


class NoCompiler(InstantCompiler):
    """On a machine where nothing can be compiled."""

    def begin(self, shapes: Any) -> None:
        raise RuntimeError("there is no compiler")


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch) -> Callable[[type[InstantCompiler]], None]:
    """Puts one in the place of those that take minutes."""

    def choose(kind: type[InstantCompiler]) -> None:
        monkeypatch.setattr(arms, "CompilerProcess", kind)
        monkeypatch.setattr(pipeline, "compiled", lambda stock: stock)

    return choose


def test_a_gpus_row_is_measured_with_every_arm(
    compiler: Callable[[Any], None], capsys: pytest.CaptureFixture[str]
) -> None:
    compiler(InstantCompiler)
    outcome = gpu.compare(BENCH, SIZES["SDXL"])
    assert set(outcome.figures) == {claim.key for claim in claims_of(13)}
    assert all(figure.value > 0 for figure in outcome.figures.values())
    images, shares, first = outcome.groups
    assert list(images.bars) == list(shares.bars) == ["B0", "B1, compiled", "engine", "engine, compiled"]
    assert list(first.bars) == ["B0", "B1, compiled", "engine, compiled"]
    told = capsys.readouterr().err
    for one in ("matrices at", "the first picture by B0", *(f"round 1 of 1: {name} " for name in images.bars)):
        assert f"row 13: {one}" in told, "a run that is broken off leaves something"


def test_where_nothing_is_compiled_the_figures_are_the_eager_engines(compiler: Callable[[Any], None]) -> None:
    compiler(NoCompiler)
    outcome = gpu.compare(BENCH, SIZES["SD 1.5"])
    assert set(outcome.figures) == {claim.key for claim in claims_of(12)}
    assert list(outcome.groups[0].bars) == ["B0", "B1, compiled", "engine"]
    told = "the engine compiled was not measured: a call cannot be compiled here: there is no compiler"
    assert outcome.notes[0] == told
    eager, b0 = (outcome.groups[0].bars[name].value for name in ("engine", "B0"))
    assert outcome.figures["12.b0"].value == pytest.approx(eager / b0)


@pytest.mark.parametrize("name", SIZES)
def test_a_pipeline_that_cannot_be_compiled_takes_no_other_arm_along(
    name: str, compiler: Callable[[Any], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*given: Any, **more: Any) -> Any:
        raise RuntimeError("Failed to find C compiler.\nSee the log.")

    compiler(NoCompiler)
    monkeypatch.setattr(pipeline, "compiled", lambda stock: fails)
    outcome = gpu.compare(BENCH, SIZES[name])
    told = "B1 broke off: RuntimeError: Failed to find C compiler."
    claimed = {claim.key for claim in claims_of(outcome.row)}
    assert outcome.missing == {key: told for key in claimed if key.endswith(".b1")}
    assert set(outcome.figures) == claimed - set(outcome.missing)
    assert outcome.notes[0] == told
    assert list(outcome.groups[0].bars) == ["B0", "engine"]


def test_an_engine_has_settled_once_its_calls_are_compiled(tmp_path: Any, compiler: Callable[[Any], None]) -> None:
    compiler(InstantCompiler)
    size = replace(SIZES["SD 1.5"], steps=LEAST_CALLS)
    checkpoint = size.write_and_identify(tmp_path / "model", "cpu")
    with Compiled(checkpoint, find_device("cpu"), max_rows=2, rows_under_way=2) as arm:
        with pytest.raises(NotMeasured, match="within 0 s"):
            arm.settle(size.jobs(), clients=1, within_s=0)
        assert arm.settle(size.jobs(), clients=1, within_s=60) > 0


def settled_engine(tmp_path: Any) -> Any:
    """An engine for up to four jobs of as many steps as make a call worth compiling, and its jobs."""
    size = replace(SIZES["SD 1.5"], steps=LEAST_CALLS)
    checkpoint = size.write_and_identify(tmp_path / "model", "cpu")
    return Compiled(checkpoint, find_device("cpu"), max_rows=8, rows_under_way=8), size.jobs()


def test_nothing_more_is_compiled_once_an_engine_has_settled(tmp_path: Any, compiler: Callable[[Any], None]) -> None:
    compiler(CountingCompiler)
    arm, jobs = settled_engine(tmp_path)
    with arm:
        arm.settle(jobs, clients=1, within_s=60)
        assert arm.rows == (2,)
        arm.images_per_s(jobs, clients=4, each=3)
        assert arm._compiler._compiler.asked == [2]


def test_what_is_not_compiled_in_time_never_is(tmp_path: Any, compiler: Callable[[Any], None]) -> None:
    compiler(OneCallAlone)
    arm, jobs = settled_engine(tmp_path)
    process = arm._compiler._compiler
    with arm:
        arm.images_per_s(jobs, clients=1, each=1)
        arm.images_per_s(jobs, clients=4, each=3)
        process.free, process.resting = True, False
        assert arm.settle(jobs, clients=4, within_s=1) > 1, "it waits for the second, until there is no time left"
        arm.images_per_s(jobs, clients=1, each=1)
        assert (len(arm.rows), len(process.asked), process.resting) == (1, 2, True)


def test_an_engine_that_does_not_settle_is_gone_before_the_others_are_measured(
    compiler: Callable[[Any], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    happened: list[str] = []

    class Leaves(Compiled):
        def __exit__(self, *exception: object) -> None:
            super().__exit__(*exception)
            happened.append("left")

    def rates(*given: Any) -> Any:
        happened.append("measured")
        raise NotMeasured("that is all")

    compiler(NoCompiler)
    monkeypatch.setattr(gpu, "Compiled", Leaves)
    monkeypatch.setattr(gpu, "_rates", rates)
    with pytest.raises(NotMeasured, match="that is all"):
        gpu.compare(BENCH, SIZES["SD 1.5"])
    assert happened == ["left", "measured"]


def test_a_round_is_drawn_before_those_that_are_kept() -> None:
    asked: list[tuple[str, int]] = []

    class Named:
        def __init__(self, name: str) -> None:
            self.name = name

        def images_per_s(self, jobs: Any, *, clients: int, each: int) -> float:
            asked.append((self.name, each))
            return float(len(asked))

    arms = {name: Named(name) for name in (gpu.PLAIN, gpu.EAGER)}
    rates = gpu._rates(arms, iter(()), replace(sdxl_gpu.WHOLE, rounds=2, each=4))
    assert asked == [("engine", 4), *[("B0", 1), ("engine", 4)] * 2]
    assert rates == {"B0": [2.0, 4.0], "engine": [3.0, 5.0]}


def test_one_thread_draws_all_of_b0s_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    drew: list[int] = []

    def draw(stock: Any, jobs: Any) -> list[Any]:
        drew.append(threading.get_ident())
        return [Pictures.new("RGB", (8, 8))]

    monkeypatch.setattr(arms, "draw", draw)
    b0, jobs = arms.B0(None), SIZES["SD 1.5"].jobs()
    for clients, each in ((1, 1), (3, 2), (1, 1)):
        b0.images_per_s(jobs, clients=clients, each=each)
    assert len(drew) == 8
    assert len(set(drew)) == 1


def test_a_calls_rows_are_half_of_those_under_way(
    compiler: Callable[[Any], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, int]] = []

    class Noted(EngineRig):
        def __init__(self, *given: Any, max_rows: int, rows_under_way: int, **more: Any) -> None:
            super().__init__(*given, max_rows=max_rows, rows_under_way=rows_under_way, **more)
            core = self._engine._core
            seen.append((core._rows.usual, core._rows_under_way))

    compiler(InstantCompiler)
    for module in (gpu, arms):
        monkeypatch.setattr(module, "EngineRig", Noted)
    gpu.compare(BENCH, replace(SIZES["SD 1.5"], clients=4))
    assert seen == [(4, 8), (4, 8)], "the engine's and the compiled engine's"


def test_a_matrix_rate_is_that_of_a_warm_card(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count()
    monkeypatch.setattr(rate, "time", SimpleNamespace(perf_counter=lambda: float(next(clock))))
    done: list[None] = []
    assert rate.timed_s(lambda: done.append(None), "cpu", rounds=5, warm=1, warm_s=30.0) == 1.0
    assert len(done) == 1 + 10 + 5, "of three looks at the clock to a product"


def test_no_prompt_comes_twice() -> None:
    prompts = [job.prompt for job in islice(sd15_gpu.WHOLE.jobs(), 500)]
    assert len(set(prompts)) == len(prompts)
    assert max(map(len, prompts)) < 60


def test_only_steps_whose_rows_are_all_taken_count() -> None:
    steps = exact_gpu.FullSteps(4)
    for seconds, rows in ((1.0, 4), (90.0, 2), (3.0, 4), (80.0, 3), (2.0, 4)):
        steps.stepped(seconds, rows)
    assert steps.median_s() == 2.0
    steps.stepped(90.0, 2)
    with pytest.raises(NotMeasured, match="no step had all of 4 rows taken"):
        steps.median_s()


def test_exact_mode_is_priced_and_held_to_its_word() -> None:
    outcome = exact_gpu.price(BENCH, SIZES["SD 1.5"])
    assert set(outcome.figures) == {"14.exact"}
    assert outcome.notes == ("a picture alone and among 1 others of other lengths: the same to the byte",)
    (group,) = outcome.groups
    assert group.title == "a step with all rows taken"
    exact, fast = (group.bars[name].value for name in ("exact", "fast"))
    assert outcome.figures["14.exact"].value == pytest.approx(100 * (1 - fast / exact))


def test_exact_mode_that_is_not_exact_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = iter(range(100))
    monkeypatch.setattr(exact_gpu, "_pixels", lambda data: bytes([next(pictures)]))
    outcome = exact_gpu.price(BENCH, SIZES["SD 1.5"])
    assert outcome.missing == {"14.exact": exact_gpu.BROKEN}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, when inductor is imported
def test_both_ways_to_compute_share_their_weights(tmp_path: Any) -> None:
    size = SIZES["SDXL"]
    size.write_and_identify(tmp_path / "model", "cpu")
    stock = pipeline.load(tmp_path / "model", kind=size.kind)
    compiled = pipeline.compiled(stock)
    assert compiled.unet is not stock.unet
    assert compiled.unet.conv_in.weight is stock.unet.conv_in.weight
    assert compiled.vae is stock.vae


def test_what_is_written_is_what_the_worker_serves(tmp_path: Any) -> None:
    for name, size in SIZES.items():
        size.write_and_identify(tmp_path / name, "cpu")
        facts = identify(str(tmp_path / name), dtype=None, samplers=("dpmpp_2m",)).facts
        assert (facts.family, facts.width) == ({"SD 1.5": "sd", "SDXL": "sdxl"}[name], size.side_px)
