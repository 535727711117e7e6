"""Every sampler against the diffusers scheduler of the same name, with a model that is a formula."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler

from worker.engine import sampling
from worker.engine.sampling.plan import COLUMNS, Plan, advance
from worker.engine.sampling.schedule import NoiseSchedule, UnsupportedSchedule

# diffusers' schedulers hand tensors to numpy in the old way.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

SCHEDULERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "ddim": (DDIMScheduler, {"clip_sample": False}),
    "euler": (EulerDiscreteScheduler, {}),
    "dpmpp_2m": (DPMSolverMultistepScheduler, {}),
}
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
UNSUPPORTED = {("euler", "sample")}
"""What the scheduler itself refuses."""


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
    cls, changes = SCHEDULERS[name]
    scheduler = cls.from_config(config, **changes)
    scheduler.set_timesteps(steps)
    x = noise[None] * scheduler.init_noise_sigma
    for timestep in scheduler.timesteps:
        output = predict(scheduler.scale_model_input(x, timestep), float(timestep))
        x = scheduler.step(output, timestep, x).prev_sample
    return x[0]


def plan_of(name: str, config: dict[str, Any], steps: int) -> Plan:
    return sampling.planner(name)(NoiseSchedule.from_config(config), steps)


def by_plans(plans: list[Plan], noises: list[torch.Tensor]) -> list[torch.Tensor]:
    """All of them together, each leaving when its plan is done."""
    x = [noise * plan.initial_scale for noise, plan in zip(noises, plans, strict=True)]
    x_0 = [torch.zeros_like(noise) for noise in noises]
    for step in range(max(plan.steps for plan in plans)):
        alive = [k for k, plan in enumerate(plans) if step < plan.steps]
        table = torch.from_numpy(np.stack([plans[k].table[step] for k in alive]))
        latents = torch.stack([x[k] for k in alive])
        scaled = latents * table[:, COLUMNS.index("input_scale"), None, None, None]
        output = torch.stack([predict(scaled[j], float(plans[k].timesteps[step])) for j, k in enumerate(alive)])
        latents, predicted = advance(latents, output, torch.stack([x_0[k] for k in alive]), None, table)
        for j, k in enumerate(alive):
            x[k], x_0[k] = latents[j], predicted[j]
    return x


def relative_error(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    assert torch.isfinite(theirs).all()
    return float((ours - theirs).abs().max() / theirs.abs().max())


def test_each_sampler_has_a_scheduler_to_be_held_against() -> None:
    assert set(SCHEDULERS) == set(sampling.SAMPLERS)


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


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_step_count_has_as_many_steps_and_ends_finite(name: str, spacing: str | None) -> None:
    for steps in range(1, 151):
        plan = plan_of(name, config_of(spacing=spacing), steps)
        assert plan.steps == steps
        assert plan.table.shape == (steps, len(COLUMNS))
        assert np.isfinite(plan.table).all()
        assert np.isfinite(plan.initial_scale)
        assert (np.diff(plan.timesteps) < 0).all()
        assert 0 <= plan.timesteps.min() <= plan.timesteps.max() <= 999


def test_a_batch_of_different_samplers_and_steps_is_what_each_is_alone() -> None:
    kinds = [(name, steps, spacing) for name in SCHEDULERS for steps in (2, 5, 11) for spacing in SPACINGS[:3]]
    plans = [plan_of(name, config_of(spacing=spacing), steps) for name, steps, spacing in kinds]
    noises = [noise_of(seed) for seed in range(len(plans))]
    together = by_plans(plans, noises)
    for plan, noise, ours in zip(plans, noises, together, strict=True):
        (alone,) = by_plans([plan], [noise])
        assert relative_error(ours, alone) < 1e-5


def test_noise_is_added_where_a_plan_asks_for_it() -> None:
    table = torch.zeros(1, len(COLUMNS))
    table[0, COLUMNS.index("from_noise")] = 0.5
    noise = noise_of(3)[None]
    x_next, _ = advance(noise_of(1)[None], noise_of(2)[None], noise_of(4)[None], noise, table)
    assert torch.equal(x_next, 0.5 * noise)


@pytest.mark.parametrize(
    "changes",
    [
        {"beta_schedule": "squaredcos_cap_v2"},
        {"prediction_type": "flow_prediction"},
        {"timestep_spacing": "karras"},
        {"rescale_betas_zero_snr": True},
    ],
)
def test_a_schedule_that_is_not_built_is_refused_and_not_guessed(changes: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedSchedule, match=next(iter(changes))):
        NoiseSchedule.from_config(config_of() | changes)
