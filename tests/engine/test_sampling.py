"""Every sampler against the diffusers scheduler of the same name, with a model that is a formula."""

from __future__ import annotations

import inspect
import itertools
from typing import Any

import numpy as np
import pytest
import torch

from tests.schedulers import FLOWS, SCHEDULERS, stock_scheduler
from worker.engine import sampling
from worker.engine.sampling.plan import Plan, X, advance, stack_tables
from worker.engine.sampling.read_off import read_off
from worker.engine.sampling.schedule import NoiseSchedule, UnsupportedSchedule
from worker.models.schedulers import SCHEDULERS as READ_OFF
from worker.models.schedulers import make_scheduler

SPACINGS = ("leading", "trailing", "linspace", None)
PREDICTIONS = ("epsilon", "v_prediction", "sample")
STEPS = (1, 2, 5, 20)
STABLE_DIFFUSION = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "set_alpha_to_one": False,
    "steps_offset": 1,
}
SHAPE = (4, 6, 5)
UNSUPPORTED = {(name, "sample") for name in ("euler", "euler_a", "heun", "dpm2", "pndm")}
"""What the scheduler itself refuses."""
NOISE_SEED = 99


def config_of(prediction: str = "epsilon", spacing: str | None = "leading", **changes: object) -> dict[str, Any]:
    spaced = {} if spacing is None else {"timestep_spacing": spacing}
    return STABLE_DIFFUSION | {"prediction_type": prediction} | spaced | changes


def noise_of(seed: int) -> torch.Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))


def predict(x: torch.Tensor, timestep: float) -> torch.Tensor:
    """A made-up model: linear in the latent, different for each timestep and place.  # [..., C, h, w]"""
    tilt = torch.linspace(-0.5, 0.5, SHAPE[-1])
    return (0.3 + timestep / 2000) * x + 0.2 * x.roll(1, -2) + tilt


def by_scheduler(name: str, config: dict[str, Any], steps: int, noise: torch.Tensor) -> torch.Tensor:
    scheduler = stock_scheduler(name, config)
    scheduler.set_timesteps(steps)
    # What the stock pipeline hands to schedulers that take it.
    extra = {"generator": torch.Generator().manual_seed(NOISE_SEED), "eta": 0.0}
    options = {name: value for name, value in extra.items() if name in inspect.signature(scheduler.step).parameters}
    x = noise[None] * scheduler.init_noise_sigma
    for timestep in scheduler.timesteps:
        output = predict(scheduler.scale_model_input(x, timestep), float(timestep))
        x = scheduler.step(output, timestep, x, **options).prev_sample
    return x[0]


def plan_of(name: str, config: dict[str, Any], steps: int) -> Plan:
    schedule = NoiseSchedule.from_config(config)
    if name in READ_OFF:
        return read_off(make_scheduler(name, config), schedule, steps)
    return sampling.planner(name)(schedule, steps)


def by_plans(plans: list[Plan], noises: list[torch.Tensor]) -> list[torch.Tensor]:
    """All of them together, each leaving when its plan is done."""
    slots = max(plan.slots for plan in plans)
    states = torch.zeros(len(plans), slots, *SHAPE)
    for k, (plan, noise) in enumerate(zip(plans, noises, strict=True)):
        states[k, X] = noise * plan.initial_scale
    generators = [torch.Generator().manual_seed(NOISE_SEED) for _ in plans]
    for call in range(max(plan.calls for plan in plans)):
        alive = [k for k, plan in enumerate(plans) if call < plan.calls]
        table = torch.from_numpy(stack_tables([(plans[k], call) for k in alive]))
        state = states[alive, : table.shape[1]]
        output = torch.stack(
            [
                predict(state[j, X] * float(plans[k].input_scale[call]), float(plans[k].timesteps[call]))
                for j, k in enumerate(alive)
            ]
        )
        drawn = [
            torch.randn(1, *SHAPE, generator=generators[k])[0] if plans[k].noisy[call] else torch.zeros(SHAPE)
            for k in alive
        ]
        states[alive, : table.shape[1]] = advance(state, output, torch.stack(drawn), table)
    return list(states[:, X])


def relative_error(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    assert torch.isfinite(theirs).all()
    return float((ours - theirs).abs().max() / theirs.abs().max())


def test_each_sampler_has_a_scheduler_to_be_held_against() -> None:
    assert set(SCHEDULERS | FLOWS) == set(sampling.SAMPLERS) | set(READ_OFF)
    assert not set(sampling.SAMPLERS) & set(READ_OFF)


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize(
    ("name", "prediction"), [pair for pair in itertools.product(SCHEDULERS, PREDICTIONS) if pair not in UNSUPPORTED]
)
def test_a_sampler_does_what_the_scheduler_of_its_name_does(
    name: str, prediction: str, spacing: str | None, steps: int
) -> None:
    config = config_of(prediction, spacing)
    (ours,) = by_plans([plan_of(name, config, steps)], [noise_of(1)])
    assert relative_error(ours, by_scheduler(name, config, steps, noise_of(1))) < 1e-4


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize(
    "changes",
    [
        {"beta_schedule": "linear", "beta_start": 0.0001, "beta_end": 0.02},
        {"set_alpha_to_one": True, "steps_offset": 0},
        {"num_train_timesteps": 400},
        {"trained_betas": np.linspace(0.001, 0.02, 500).tolist(), "num_train_timesteps": 500},
    ],
)
def test_other_noise_schedules_are_followed_too(name: str, changes: dict[str, Any]) -> None:
    config = config_of("v_prediction", **changes)
    (ours,) = by_plans([plan_of(name, config, 7)], [noise_of(2)])
    assert relative_error(ours, by_scheduler(name, config, 7, noise_of(2))) < 1e-4


@pytest.mark.parametrize("name", SCHEDULERS)
def test_noise_without_signal_at_its_end_is_followed_where_its_scheduler_does(name: str) -> None:
    config = config_of("v_prediction", "trailing", rescale_betas_zero_snr=True)
    (ours,) = by_plans([plan_of(name, config, 7)], [noise_of(2)])
    # DDIM's scheduler has no signal at all there, and ours next to none.
    assert relative_error(ours, by_scheduler(name, config, 7, noise_of(2))) < (2e-3 if name == "ddim" else 1e-4)


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("name", [name for name in sampling.SAMPLERS if name not in FLOWS])
def test_every_step_count_has_as_many_steps_and_ends_finite(name: str, spacing: str | None) -> None:
    for steps in range(1, 151):
        plan = plan_of(name, config_of(spacing=spacing), steps)
        assert plan.steps == plan.calls == steps
        assert np.isfinite(plan.table).all()
        assert np.isfinite(plan.initial_scale)
        if name != "dpmpp_2m_karras":  # its levels lie close enough together to share a timestep
            assert (np.diff(plan.timesteps) < 0).all()
        assert 0 <= plan.timesteps.min() <= plan.timesteps.max() <= 999


@pytest.mark.parametrize("name", [name for name in READ_OFF if name not in ("lcm", "tcd")])
def test_a_step_too_many_behind_the_last_is_not_read_off(name: str) -> None:
    """Diffusers' schedulers count trailing steps in floating point; here at every number of them where that goes wrong.

    A model that knows the picture draws it, but for the noise that `pndm` leaves at timestep 0.
    """
    config = config_of(spacing="trailing")
    sigmas = NoiseSchedule.from_config(config).sigmas
    picture, scheduler = noise_of(4), make_scheduler(name, config)
    for steps in range(1, 151):
        scheduler.set_timesteps(steps)
        if scheduler.timesteps[-1] >= 0:
            continue
        plan = plan_of(name, config, steps)
        assert (plan.steps, plan.calls) == (steps, len(scheduler.timesteps) - scheduler.order)
        assert 0 <= plan.timesteps.min() <= plan.timesteps.max() <= 999
        state = torch.zeros(1, plan.slots, *SHAPE)
        state[:, X] = noise_of(5) * plan.initial_scale
        for call, timestep in enumerate(plan.timesteps):
            sigma = float(np.interp(timestep, np.arange(len(sigmas)), sigmas))
            seen = state[:, X] * float(plan.input_scale[call]) * (sigma**2 + 1) ** 0.5
            noise = noise_of(call)[None] if plan.noisy[call] else None
            state = advance(state, (seen - picture) / sigma, noise, torch.from_numpy(stack_tables([(plan, call)])))
        assert relative_error(state[0, X], picture) < 0.05


@pytest.mark.parametrize("name", SCHEDULERS)
def test_steps_are_counted_up_to_the_last_however_often_the_model_is_called(name: str) -> None:
    for steps in (1, 2, 3, 8, 50):
        plan = plan_of(name, config_of(), steps)
        assert plan.steps == steps
        assert plan.calls >= steps
        assert set(np.diff(plan.steps_done, prepend=0)) <= {0, 1}
        assert np.isfinite(plan.table).all()
    assert plan_of("heun", config_of(), 8).calls == 15


def test_a_scheduler_that_does_not_make_so_many_steps_says_so() -> None:
    with pytest.raises(ValueError, match="num_inference_steps"):
        plan_of("lcm", config_of(), 51)


def test_a_batch_of_different_samplers_and_steps_is_what_each_is_alone() -> None:
    kinds = [(name, steps, spacing) for name in SCHEDULERS for steps in (2, 7) for spacing in SPACINGS[:2]]
    plans = [plan_of(name, config_of(spacing=spacing), steps) for name, steps, spacing in kinds]
    noises = [noise_of(seed) for seed in range(len(plans))]
    together = by_plans(plans, noises)
    for plan, noise, ours in zip(plans, noises, together, strict=True):
        (alone,) = by_plans([plan], [noise])
        assert relative_error(ours, alone) < 1e-5


def test_noise_is_added_where_a_plan_asks_for_it() -> None:
    table = torch.zeros(1, 2, 4)
    table[0, X, 3] = 0.5
    noise = noise_of(3)[None]
    following = advance(torch.stack([noise_of(1), noise_of(4)])[None], noise_of(2)[None], noise, table)
    assert torch.equal(following[:, X], 0.5 * noise)


def test_fewer_slots_beside_more_are_filled_with_nothing() -> None:
    few, many = plan_of("ddim", config_of(), 3), plan_of("unipc", config_of(), 3)
    table = stack_tables([(few, 1), (many, 1)])
    assert table.shape == (2, many.slots, many.slots + 2)
    assert np.array_equal(table[0, :2, :2], few.table[1, :, :2])
    assert np.array_equal(table[0, :2, many.slots :], few.table[1, :, 2:])
    assert not table[0, 2:].any()
    assert not table[0, :2, 2 : many.slots].any()
    assert np.array_equal(table[1], many.table[1])


@pytest.mark.parametrize(
    "changes",
    [
        {"beta_schedule": "squaredcos_cap_v2"},
        {"prediction_type": "flow_prediction"},
        {"timestep_spacing": "karras"},
    ],
)
def test_a_schedule_that_is_not_built_is_refused_and_not_guessed(changes: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedSchedule, match=next(iter(changes))):
        NoiseSchedule.from_config(config_of() | changes)
