"""The runner that computes, over a model that is a formula: rows, guidance, seeds, and what becomes of errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from tests.fakes import FACTS, make_params
from worker.engine import preview
from worker.engine.denoiser import Denoiser
from worker.engine.latent_drawing import LatentDrawing
from worker.engine.runner import DeviceLost
from worker.errors import InvalidInput, ModelUnusable, NanOutput, OutOfMemory
from worker.models.base import Conditioning
from worker.models.schedulers import SCHEDULERS, make_scheduler

COLOURS = torch.tensor([[0.3, -0.2, 0.1], [0.1, 0.4, -0.3], [-0.2, 0.1, 0.2], [0.0, -0.3, 0.4], [0.1, -0.1, 0.2]])
"""What the formula's pixels are of its latents.  # [C + 1, 3]"""

NO_EFFECT = "negative_prompt: it has no effect without guidance by a second row"


class NoAdapters:
    """Of a worker without LoRAs; also what a job has of them."""

    held = (0, 0)
    loras = text_loras = warnings = ()

    def load(self, loras: Sequence[object]) -> NoAdapters:
        assert not loras
        return self

    def let_go(self) -> bool:
        return False

    def active(self, sets: Sequence[object]) -> AbstractContextManager[None]:
        return nullcontext()


class Formula:
    """Predicts a mix of the latent, the timestep and the prompt; remembers how many rows it was asked for."""

    facts = replace(FACTS, width=32, height=32)
    device = torch.device("cpu")
    dtype = torch.float32
    adapters = NoAdapters()
    takes_mask = False
    scheduler_config: Mapping[str, Any] = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}

    def __init__(self) -> None:
        self.rows: list[int] = []
        self.encoded: list[str] = []
        self.schedulers: list[str] = []
        self.decoded: list[bool] = []

    def scheduler(self, sampler: str) -> Any:
        self.schedulers.append(sampler)
        return make_scheduler(sampler, self.scheduler_config)

    def latent_shape(self, width_px: int, height_px: int) -> tuple[int, int, int]:
        return 4, height_px // 8, width_px // 8

    def encode_prompt(self, text: str | None) -> Conditioning:
        text = text or ""
        self.encoded.append(text)
        return Conditioning({"hidden": torch.full((1, 3, 2), float(len(text)))})

    def predict(
        self, latents: torch.Tensor, timesteps: torch.Tensor, conditioning: Mapping[str, torch.Tensor]
    ) -> torch.Tensor:
        rows = len(latents)
        assert latents.dtype == torch.float32
        assert timesteps.shape == (rows,)
        assert conditioning["hidden"].shape == (rows, 3, 2)
        self.rows.append(rows)
        told = conditioning["hidden"].mean(dim=(1, 2)) / 10 + timesteps / 1000
        return latents.tanh() * told[:, None, None, None]

    def let_go(self) -> bool:
        return self.adapters.let_go()

    def guides(self, guidance_scale: float) -> bool:
        return guidance_scale > 1.0

    def frame(self, width_px: int, height_px: int, guidance_scale: float) -> Mapping[str, torch.Tensor]:
        return {}

    def encode(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        shades = torch.nn.functional.avg_pool2d(pixels, 8) - COLOURS[-1][None, :, None, None]
        # What painting does not see carries something else, as a VAE's latents do.
        unseen = torch.linalg.svd(COLOURS[:-1]).U[:, -1]  # [4]
        latents = torch.einsum("nrhw,rc->nchw", shades, torch.linalg.pinv(COLOURS[:-1]))
        mean = latents + torch.einsum("nhw,c->nchw", shades.square().sum(dim=1), unseen)
        return mean, torch.zeros_like(mean)

    def decode(self, latents: torch.Tensor, *, precise: bool = False) -> torch.Tensor:
        self.decoded.append(precise)
        colours = torch.einsum("nchw,cr->nrhw", latents, COLOURS[:-1]) + COLOURS[-1][None, :, None, None]
        return torch.nn.functional.interpolate(colours, scale_factor=8)


class Overflows(Formula):
    """Decodes to something that is no number; in fp32 too if `always`."""

    def __init__(self, value: float, *, always: bool) -> None:
        super().__init__()
        self._value = value
        self._always = always

    def decode(self, latents: torch.Tensor, *, precise: bool = False) -> torch.Tensor:
        pixels = super().decode(latents, precise=precise)
        if self._always or not precise:
            pixels[0, 1, 2, 3] = self._value
        return pixels


class Raises(Formula):
    """Raises `error` in every prediction and every decoding."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self._error = error

    def predict(self, *_: Any, **__: Any) -> torch.Tensor:
        raise self._error

    def decode(self, latents: torch.Tensor, *, precise: bool = False) -> torch.Tensor:
        raise self._error


class LongTexts(Formula):
    """A text of n words has n chunks of three tokens; each word is told."""

    def encode_prompt(self, text: str | None) -> Conditioning:
        text = text or ""
        chunks = [torch.full((1, 3, 2), float(len(word))) for word in text.split() or [""]]
        return Conditioning({"hidden": torch.cat(chunks, dim=1)}, tuple(f"of {word}" for word in text.split()))

    def predict(
        self, latents: torch.Tensor, timesteps: torch.Tensor, conditioning: Mapping[str, torch.Tensor]
    ) -> torch.Tensor:
        mean = conditioning["hidden"].mean(dim=1, keepdim=True).expand(-1, 3, -1)
        return super().predict(latents, timesteps, {"hidden": mean})


class FailsOnce(Formula):
    """Raises `error` in the next prediction, when it is armed."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self._error = error
        self.armed = False

    def predict(self, *arguments: Any, **named: Any) -> torch.Tensor:
        if self.armed:
            self.armed = False
            raise self._error
        return super().predict(*arguments, **named)


def loaded(model: Formula, **options: Any) -> Denoiser:
    denoiser = Denoiser(lambda report: model, **options)
    denoiser.load(lambda share: None)
    return denoiser


def run(denoiser: Denoiser, *drawings: LatentDrawing) -> None:
    while waiting := [drawing for drawing in drawings if not drawing.done]:
        denoiser.step(waiting)


def small(**changes: object) -> Any:
    return make_params(**{"width": 32, "height": 32} | changes)


# Opening


def test_a_drawing_for_each_image_with_noise_of_its_own_seed() -> None:
    first, second = loaded(Formula()).open(small(seed=7, num_images=2, sampler="ddim", steps=6))
    assert (first.index, first.seed, first.steps, first.step, first.rows) == (0, 7, 6, 0, 2)
    assert (second.index, second.seed) == (1, 8)
    expected = torch.randn((1, 4, 4, 4), generator=torch.Generator("cpu").manual_seed(8))[0]
    assert torch.equal(second.latent, expected)


def test_only_guidance_above_one_costs_a_second_row() -> None:
    denoiser = loaded(Formula())
    rows = {scale: next(denoiser.open(small(guidance_scale=scale))).rows for scale in (0.0, 1.0, 1.01, 9.0)}
    assert rows == {0.0: 1, 1.0: 1, 1.01: 2, 9.0: 2}


def test_prompts_are_encoded_once() -> None:
    denoiser = loaded(model := Formula())
    list(denoiser.open(small(prompt="a", negative_prompt="b")))
    list(denoiser.open(small(prompt="b", negative_prompt=None)))
    list(denoiser.open(small(prompt="a", negative_prompt="unused", guidance_scale=1.0)))
    assert model.encoded == ["a", "b", ""]


def test_drawings_of_one_size_share_a_key_whatever_else_they_ask() -> None:
    denoiser = loaded(Formula())
    usual = next(denoiser.open(small())).key
    for other in (
        small(prompt="else", negative_prompt="other", steps=9),
        small(sampler="ddim"),
        small(guidance_scale=1.0),
    ):
        assert next(denoiser.open(other)).key == usual
    assert next(denoiser.open(small(width=64))).key != usual


@pytest.mark.parametrize(("prompt", "negative"), [("aa bb cc", "d"), ("aa", "d e f"), ("aa bb", None)])
def test_a_negative_prompt_of_another_length_is_a_row_of_the_same_call(prompt: str, negative: str | None) -> None:
    denoiser = loaded(model := LongTexts())
    [drawing] = denoiser.open(small(prompt=prompt, negative_prompt=negative, steps=2))
    assert drawing.negative is not None
    tokens = {tuple(one.tensors["hidden"].shape) for one in (drawing.prompt, drawing.negative)}
    assert tokens == {(1, 3 * max(len(prompt.split()), len((negative or "").split())), 2)}
    run(denoiser, drawing)
    assert model.rows == [2, 2]


def test_long_texts_and_short_ones_do_not_share_a_call() -> None:
    denoiser = loaded(LongTexts())
    asked = [("a b", "", 5), ("a", "b c", 5), ("a b", None, 1), ("a", None, 5), ("a", "b", 1)]
    keys = [
        next(denoiser.open(small(prompt=prompt, negative_prompt=negative, guidance_scale=scale))).key
        for prompt, negative, scale in asked
    ]
    assert keys[0] == keys[1] == keys[2]
    assert keys[3] == keys[4]
    assert keys[0] != keys[3]


def test_what_is_to_be_said_of_the_texts_goes_with_every_drawing() -> None:
    denoiser = loaded(LongTexts())
    guided = list(denoiser.open(small(prompt="a b", negative_prompt="c", num_images=2)))
    assert {drawing.warnings for drawing in guided} == {("prompt: of a", "prompt: of b", "negative_prompt: of c")}
    [alone] = denoiser.open(small(prompt="a", negative_prompt="c", guidance_scale=1.0))
    assert alone.warnings == ("prompt: of a", NO_EFFECT)
    assert next(denoiser.open(small(prompt=""))).warnings == ()


def test_a_negative_prompt_without_guidance_is_told_to_have_no_effect() -> None:
    denoiser = loaded(Formula())
    [unguided] = denoiser.open(small(negative_prompt="green", guidance_scale=1.0))
    assert unguided.warnings == (NO_EFFECT,)
    for nothing in (None, ""):
        [unguided] = denoiser.open(small(negative_prompt=nothing, guidance_scale=1.0))
        assert unguided.warnings == ()
    [guided] = denoiser.open(small(negative_prompt="green", guidance_scale=2.0))
    assert guided.warnings == ()


# Stepping


def test_all_drawings_advance_with_one_model_call() -> None:
    denoiser = loaded(model := Formula())
    drawings = [
        *denoiser.open(small(num_images=2)),
        *denoiser.open(small(guidance_scale=1.0, sampler="ddim")),
        *denoiser.open(small(steps=9, sampler="dpmpp_2m")),
    ]
    denoiser.step(drawings)
    assert model.rows == [7]
    assert [drawing.step for drawing in drawings] == [1] * 4


def test_in_company_a_drawing_is_what_it_is_alone() -> None:
    denoiser = loaded(Formula())
    jobs = [
        small(seed=1, sampler="ddim", steps=5, guidance_scale=3.0, prompt="x", negative_prompt="no"),
        small(seed=2, sampler="euler", steps=8, guidance_scale=1.0, prompt="xx"),
        small(seed=3, sampler="dpmpp_2m", steps=3, guidance_scale=7.5, prompt="xxx"),
        small(seed=4, sampler="euler", steps=1, guidance_scale=0.0, prompt="xxxx", negative_prompt="no"),
        small(seed=5, sampler="unipc", steps=6, prompt="x"),
        small(seed=6, sampler="euler_a", steps=4, prompt="xx"),
        small(seed=7, sampler="heun", steps=4, prompt="xx"),
    ]
    together = [next(denoiser.open(job)) for job in jobs]
    run(denoiser, *together)
    for job, drawing in zip(jobs, together, strict=True):
        (alone,) = denoiser.open(job)
        run(denoiser, alone)
        assert torch.allclose(drawing.latent, alone.latent, atol=1e-5)


def test_a_sampler_that_calls_the_model_twice_a_step_counts_one() -> None:
    denoiser = loaded(model := Formula())
    (heun,) = denoiser.open(small(sampler="heun", steps=3))
    (euler,) = denoiser.open(small(sampler="euler", steps=5))
    seen = []
    while not (heun.done and euler.done):
        denoiser.step([one for one in (heun, euler) if not one.done])
        seen.append((heun.step, euler.step))
    assert seen == [(0, 1), (1, 2), (1, 3), (2, 4), (3, 5)]
    assert len(model.rows) == 5


@pytest.mark.parametrize("sampler", SCHEDULERS)
def test_plans_are_read_off_copies_of_a_scheduler_that_is_made_once(sampler: str) -> None:
    denoiser = loaded(model := Formula())
    list(denoiser.open(small(sampler=sampler, steps=7)))
    (drawing,) = denoiser.open(small(sampler=sampler, steps=5))
    assert model.schedulers == [sampler]
    (afresh,) = loaded(Formula()).open(small(sampler=sampler, steps=5))
    np.testing.assert_array_equal(drawing.plan.table, afresh.plan.table)
    np.testing.assert_array_equal(drawing.plan.timesteps, afresh.plan.timesteps)


def test_a_step_that_is_repeated_after_an_error_draws_the_same_noise() -> None:
    denoiser = loaded(model := FailsOnce(OutOfMemory()))
    (undisturbed,) = denoiser.open(small(sampler="euler_a", steps=3))
    run(denoiser, undisturbed)
    (drawing,) = denoiser.open(small(sampler="euler_a", steps=3))
    denoiser.step([drawing])
    model.armed = True
    with pytest.raises(OutOfMemory):
        denoiser.step([drawing])
    run(denoiser, drawing)
    assert torch.equal(drawing.latent, undisturbed.latent)


@pytest.mark.parametrize("sampler", ["euler_a", "dpmpp_2m_sde", "ddpm", "lcm"])
def test_noise_comes_from_the_jobs_own_seed(sampler: str) -> None:
    denoiser = loaded(Formula())
    jobs = [small(seed=seed, sampler=sampler, steps=4) for seed in (1, 2)]
    together = [next(denoiser.open(job)) for job in jobs]
    run(denoiser, *together)
    for job, drawing in zip(jobs, together, strict=True):
        (alone,) = denoiser.open(job)
        run(denoiser, alone)
        assert torch.allclose(drawing.latent, alone.latent, atol=1e-5)
    assert not torch.allclose(together[0].latent, together[1].latent, atol=0.1)


def test_more_steps_than_a_sampler_makes_fail_the_job_and_say_so() -> None:
    denoiser = loaded(Formula())
    with pytest.raises(InvalidInput, match="lcm does not make 60 steps"):
        list(denoiser.open(small(sampler="lcm", steps=60)))
    assert next(denoiser.open(small(sampler="lcm", steps=4))).steps == 4


def test_what_a_samplers_scheduler_does_not_know_fails_the_job_and_says_so() -> None:
    model = Formula()
    model.scheduler_config = {**model.scheduler_config, "prediction_type": "sample"}
    denoiser = loaded(model)
    with pytest.raises(InvalidInput, match="dpm2 does not draw this model"):
        list(denoiser.open(small(sampler="dpm2")))
    assert next(denoiser.open(small(sampler="heun", steps=4))).steps == 4


def test_guidance_is_between_the_prompt_and_the_negative_prompt() -> None:
    """Where both say the same, no scale changes anything."""
    denoiser = loaded(Formula())
    (guided,) = denoiser.open(small(prompt="same", negative_prompt="same", guidance_scale=12.0))
    (plain,) = denoiser.open(small(prompt="same", guidance_scale=1.0))
    run(denoiser, guided)
    run(denoiser, plain)
    assert torch.allclose(guided.latent, plain.latent, atol=1e-4)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3 GiB"), OutOfMemory),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), OutOfMemory),
        (RuntimeError("MPS backend out of memory (MPS allocated: 8 GB)"), OutOfMemory),
        (MemoryError(), OutOfMemory),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), DeviceLost),
        (RuntimeError("CUDA error: device-side assert triggered"), DeviceLost),
        (RuntimeError("CUDA error: out of memory"), OutOfMemory),
        (RuntimeError("FIND was unable to find an engine to execute this computation"), OutOfMemory),
        (RuntimeError("shapes do not match"), RuntimeError),
        (RuntimeError("could not create a primitive"), OutOfMemory),
        (RuntimeError("could not create a primitive descriptor for the matmul primitive. Run"), RuntimeError),
        (ValueError("can't allocate memory"), ValueError),
    ],
)
def test_the_devices_errors_are_told_in_the_workers_words(error: Exception, expected: type[Exception]) -> None:
    denoiser = loaded(Raises(error))
    (drawing,) = denoiser.open(small())
    before = drawing.latent.clone()
    for attempt in (lambda: denoiser.step([drawing]), lambda: denoiser.finish(drawing)):
        with pytest.raises(expected) as raised:
            attempt()
        assert type(raised.value) is expected
    assert drawing.step == 0
    assert torch.equal(drawing.latent, before), "a failed step has changed nothing"


@pytest.mark.parametrize(("answers", "expected"), [(False, DeviceLost), (True, RuntimeError)])
def test_a_device_that_answers_to_nothing_is_lost_whatever_its_error_is_called(
    monkeypatch: pytest.MonkeyPatch, *, answers: bool, expected: type[Exception]
) -> None:
    error = RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED")

    def synchronize() -> None:
        if not answers:
            raise RuntimeError("CUDA error: misaligned address")

    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", synchronize)
    denoiser = loaded(Raises(error))
    with pytest.raises(expected) as raised:
        denoiser.step(list(denoiser.open(small())))
    assert type(raised.value) is expected


def test_a_step_that_fails_at_its_very_end_has_changed_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    denoiser = loaded(Formula())
    drawings = [*denoiser.open(small()), *denoiser.open(small(seed=2))]
    before = [drawing.state.clone() for drawing in drawings]

    def fails(device: torch.device) -> None:
        raise RuntimeError("the device says so late")

    monkeypatch.setattr("worker.engine.denoiser.wait_for", fails)
    with pytest.raises(RuntimeError):
        denoiser.step(drawings)
    assert [(drawing.step, drawing.call) for drawing in drawings] == [(0, 0)] * 2
    assert all(torch.equal(drawing.state, state) for drawing, state in zip(drawings, before, strict=True))


def test_prompts_are_let_go_of_where_memory_lacks() -> None:
    kept: list[int] = []
    denoiser = loaded(model := Formula(), on_prompts_kept=kept.append)
    list(denoiser.open(small(prompt="a")))
    list(denoiser.open(small(prompt="a")))
    assert denoiser.let_go()
    assert not denoiser.let_go(), "there was nothing left"
    assert kept[-1] == 0
    list(denoiser.open(small(prompt="a")))
    assert model.encoded.count("a") == 2


# Finishing


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_is_no_number_is_decoded_once_more_in_full_precision(value: float) -> None:
    denoiser = loaded(model := Overflows(value, always=False))
    (drawing,) = denoiser.open(small())
    run(denoiser, drawing)
    model.decoded.clear()
    assert denoiser.finish(drawing).shape == (32, 32, 3)
    assert model.decoded == [False, True]


def test_what_is_no_number_in_full_precision_either_fails_the_job() -> None:
    denoiser = loaded(model := Overflows(float("nan"), always=True))
    (drawing,) = denoiser.open(small())
    run(denoiser, drawing)
    model.decoded.clear()
    with pytest.raises(NanOutput):
        denoiser.finish(drawing)
    assert model.decoded == [False, True]


def test_pixels_are_rounded_and_not_wrapped() -> None:
    denoiser = loaded(Formula())
    (drawing,) = denoiser.open(small())
    drawing.state = torch.zeros(2, 4, 4, 4)
    expected = ((COLOURS[-1] / 2 + 0.5) * 255).round().to(torch.uint8).numpy()
    assert (denoiser.finish(drawing) == expected).all()
    drawing.state[0, 1] = 100.0
    assert set(np.unique(denoiser.finish(drawing))) == {0, 255}


# Timing


def test_a_timed_call_has_the_rows_that_were_asked_for() -> None:
    denoiser = loaded(model := Formula())
    seconds, fitting = denoiser.time_call(6)
    assert seconds > 0
    assert fitting is None, "nobody tells of a CPU's memory"
    assert model.rows[-1] == 6


def test_a_call_that_would_take_long_is_not_made_to_be_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Formula()
    sides: list[int] = []
    called = model.predict

    def predict(latents: torch.Tensor, *others: Any) -> torch.Tensor:
        sides.append(latents.shape[-1])
        return called(latents, *others)

    monkeypatch.setattr(model, "predict", predict)
    monkeypatch.setattr("worker.engine.timed_calls.TOO_LONG_S", 0.0)
    denoiser = loaded(model)
    seconds, fitting = denoiser.time_call(2)
    whole, small = model.latent_shape(model.facts.width, model.facts.height)[-1], sides[0]
    assert small < whole
    assert sides == [small, small], "once to find its kernels"
    assert seconds > 0
    assert fitting is None
    monkeypatch.undo()
    monkeypatch.setattr(model, "predict", predict)
    denoiser.time_call(2)
    denoiser.time_call(4)
    assert sides == [small] * 4 + [whole] * 2, "once it is known not to take long, it is made"


def test_a_timed_call_without_memory_says_so() -> None:
    denoiser = loaded(model := FailsOnce(torch.OutOfMemoryError("CUDA out of memory")))
    model.armed = True
    with pytest.raises(OutOfMemory):
        denoiser.time_call(6)


# Previews


def test_the_preview_map_finds_how_a_model_paints() -> None:
    assert torch.allclose(preview.fit(Formula()), COLOURS, atol=1e-4)


def test_a_preview_is_of_the_clean_latent_that_is_predicted() -> None:
    denoiser = loaded(model := Formula())
    (drawing,) = denoiser.open(small(steps=8))
    for _ in range(7):
        denoiser.step([drawing])
    seen = denoiser.preview(drawing)
    assert seen.shape == (4, 4, 3)
    assert model.decoded == [], "neither fitting the map nor applying it asks the decoder"
    denoiser.step([drawing])
    finished = denoiser.finish(drawing)[::8, ::8].astype(float)
    assert np.abs(seen - finished).mean() < 16
    (noise,) = denoiser.open(small(steps=8))
    assert np.abs(denoiser.preview(noise) - finished).mean() > 16


# Loading


def test_loading_tells_how_far_it_is() -> None:
    shares: list[float] = []

    def load(report: Any) -> Formula:
        report(0.5)
        report(1.0)
        return Formula()

    Denoiser(load).load(shares.append)
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


def test_a_model_whose_schedule_is_not_built_is_refused() -> None:
    model = Formula()
    model.scheduler_config = {"beta_schedule": "squaredcos_cap_v2"}
    with pytest.raises(ModelUnusable, match="squaredcos_cap_v2"):
        loaded(model)
