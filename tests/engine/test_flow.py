"""Flow matching against diffusers' scheduler, called as the stock pipelines call it, with a model that is a formula."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.pipelines.flux.pipeline_flux import calculate_shift

from tests.engine.test_sampling import by_plans, noise_of, predict, relative_error
from worker.engine.sampling.flow import FlowSchedule
from worker.engine.sampling.flow_euler import plan
from worker.engine.sampling.schedule import NoiseSchedule, UnsupportedSchedule
from worker.engine.sampling.schedules import read_schedule

FIXED = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000, "shift": 3.0}
GROWING = FIXED | {
    "use_dynamic_shifting": True,
    "base_image_seq_len": 256,
    "max_image_seq_len": 4096,
    "base_shift": 0.5,
    "max_shift": 1.15,
}
SIZES = ((32, 32), (128, 128), (96, 160))


def stock(config: dict[str, Any], steps: int, size: tuple[int, int], *, even: bool) -> FlowMatchEulerDiscreteScheduler:
    """As Stable Diffusion 3's pipeline sets it; as FLUX's if `even`."""
    scheduler = FlowMatchEulerDiscreteScheduler.from_config(config)
    sigmas = np.linspace(1.0, 1 / steps, steps) if even else None
    mu = calculate_shift((size[0] // 2) * (size[1] // 2)) if config.get("use_dynamic_shifting") else None
    scheduler.set_timesteps(None if even else steps, sigmas=sigmas, mu=mu)
    return scheduler


@pytest.mark.parametrize("steps", [1, 5, 28])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("even", [False, True])
@pytest.mark.parametrize("config", [FIXED, FIXED | {"shift": 1.0}, GROWING, GROWING | {"time_shift_type": "linear"}])
def test_sigmas_and_pictures_are_the_schedulers(
    config: dict[str, Any], even: bool, size: tuple[int, int], steps: int
) -> None:
    scheduler = stock(config, steps, size, even=even)
    schedule = FlowSchedule.from_config(config | {"even_sigmas": even}).of_size(*size)
    assert np.allclose(schedule.sigmas(steps), scheduler.sigmas[:-1].numpy(), atol=2e-6)
    ours = plan(schedule, steps)
    assert np.allclose(ours.timesteps, scheduler.timesteps.numpy(), atol=2e-3)
    x = noise_of(1)
    for timestep in scheduler.timesteps:
        x = scheduler.step(predict(x, float(timestep)), timestep, x).prev_sample
    (drawn,) = by_plans([ours], [noise_of(1)])
    assert relative_error(drawn, x) < 1e-4


@pytest.mark.parametrize("first", [0, 3, 7])
def test_a_noisy_picture_is_the_schedulers_before_every_call(first: int) -> None:
    scheduler = stock(FIXED, 8, (32, 32), even=False)
    ours = plan(FlowSchedule.from_config(FIXED), 8, first)
    assert ours.steps == 8 - first
    clean, noise = noise_of(1), noise_of(2)
    for call, timestep in enumerate(scheduler.timesteps[first:]):
        expected = scheduler.scale_noise(clean[None], timestep[None], noise[None])[0]
        assert torch.allclose(float(ours.signal[call]) * clean + float(ours.level[call]) * noise, expected, atol=1e-5)
    assert (ours.signal[-1], ours.level[-1]) == (1.0, 0.0)


def test_what_is_predicted_is_the_clean_latent() -> None:
    ours = plan(FlowSchedule.from_config(FIXED), 4)
    clean, noise = noise_of(1), noise_of(2)
    for call in range(4):
        x = float(ours.signal[call]) * clean + float(ours.level[call]) * noise
        table = torch.from_numpy(ours.table[call])
        assert torch.allclose(table[1, 0] * x + table[1, 2] * (noise - clean), clean, atol=1e-5)


def test_only_a_shift_that_grows_depends_on_the_size() -> None:
    fixed, growing = FlowSchedule.from_config(FIXED), FlowSchedule.from_config(GROWING)
    assert fixed.of_size(32, 32) is fixed
    assert growing.of_size(32, 64) == growing.of_size(64, 32) != growing.of_size(64, 64)


def test_the_kind_of_noise_is_what_the_scheduler_says() -> None:
    assert isinstance(read_schedule(FIXED), FlowSchedule)
    assert isinstance(read_schedule({"_class_name": "EulerDiscreteScheduler"}), NoiseSchedule)


@pytest.mark.parametrize(
    "changes",
    [
        {"invert_sigmas": True},
        {"shift_terminal": 0.1},
        {"stochastic_sampling": True},
        {"use_karras_sigmas": True},
        {"use_exponential_sigmas": True},
        {"use_beta_sigmas": True},
        {"use_dynamic_shifting": True, "time_shift_type": "cubic"},
    ],
)
def test_what_is_not_built_is_refused_and_not_guessed(changes: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedSchedule, match=list(changes)[-1]):
        FlowSchedule.from_config(FIXED | changes)
