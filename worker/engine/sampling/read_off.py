"""Reads a plan off a diffusers scheduler, for the samplers that have no formula of their own here.

A scheduler's step is linear in the sample, the model's output, its noise and whatever tensors it keeps from earlier
steps. So it is walked through once on the host with unit vectors in their place: what comes back are the coefficients.
The picture is then the scheduler's own, and its jobs are advanced with all others. Knows the interface of diffusers'
schedulers; imports none.
"""

from __future__ import annotations

import inspect
from typing import Any, Protocol

import numpy as np
import torch

from worker.engine.sampling.plan import Plan
from worker.engine.sampling.schedule import NoiseSchedule

WIDTH = 16
"""Symbols at once: the sample, what is kept, the model's output, and one that stands for nothing."""
SAMPLE, OUTPUT, NOTHING = 0, WIDTH - 2, WIDTH - 1


class Scheduler(Protocol):
    """What diffusers' schedulers have in common. Its tensors live on the CPU."""

    timesteps: torch.Tensor
    init_noise_sigma: Any
    order: int

    def set_timesteps(self, num_inference_steps: int) -> None:
        """Plan so many steps. Raises ValueError where it cannot."""

    def scale_model_input(self, sample: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        """The sample as the model sees it."""

    def step(self, model_output: torch.Tensor, timestep: torch.Tensor, sample: torch.Tensor) -> Any:
        """The next sample, as `prev_sample`."""

    def add_noise(self, original_samples: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """A clean sample as it is at a timestep."""


def read_off(scheduler: Scheduler, schedule: NoiseSchedule, steps: int, first: int = 0) -> Plan:
    """The plan of `steps` steps of `scheduler`, of which `first` is the first one done.

    Raises ValueError where it does not make so many.
    """
    scheduler.set_timesteps(steps)
    _without_negative_timestep(scheduler)
    timesteps = scheduler.timesteps[first * scheduler.order :]
    if first and hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(first * scheduler.order)
    calls = len(timesteps)
    levels = [_signal_and_level(scheduler, timesteps[0])]
    generator = torch.Generator().manual_seed(0)
    # As the stock pipeline calls it, which hands over an eta of 0.
    options: dict[str, Any] = {"generator": generator, "eta": 0.0}
    taken = inspect.signature(scheduler.step).parameters
    options = {name: value for name, value in options.items() if name in taken}
    scales, noisy, rows = [], [], []
    kept: list[torch.Tensor] = []
    for call, timestep in enumerate(timesteps):
        scales.append(float(scheduler.scale_model_input(_unit(SAMPLE), timestep).flatten()[SAMPLE]))
        before = generator.get_state()
        following = scheduler.step(_unit(OUTPUT), timestep, _unit(SAMPLE), **options).prev_sample
        noisy.append(not torch.equal(before, generator.get_state()))
        noise = torch.randn(following.shape, generator=torch.Generator().set_state(before)).flatten()
        kept = _tensors(scheduler)
        read = [_coefficients(tensor, noise) for tensor in (following, *kept)]
        _replace(scheduler, [_unit(1 + k) for k in range(len(kept))])
        rows.append(read)
        levels.append(_signal_and_level(scheduler, timesteps[call + 1]) if call + 1 < calls else (1.0, 0.0))
    most = max(len(read) - 1 for read in rows)
    slots = 2 + most
    table = np.zeros((calls, slots, slots + 2))
    own = [0, *range(2, slots), slots]  # where the symbols x, kept..., output stand among the columns
    symbols = [SAMPLE, *range(1, 1 + most), OUTPUT]
    for call, read in enumerate(rows):
        for row, (coefficients, from_noise) in zip([0, *range(2, slots)], read, strict=False):
            table[call, row, own] = coefficients[symbols]
            table[call, row, slots + 1] = from_noise
    table[:, 1, 0], table[:, 1, slots] = _prediction(schedule, timesteps, np.asarray(scales))
    return Plan(
        timesteps=timesteps.float().numpy(),
        input_scale=np.asarray(scales, dtype=np.float32),
        table=table.astype(np.float32),
        steps_done=_steps_done(calls, steps - first, scheduler.order),
        noisy=np.asarray(noisy),
        signal=np.asarray(levels, dtype=np.float32)[:, 0],
        level=np.asarray(levels, dtype=np.float32)[:, 1],
        initial_scale=float(scheduler.init_noise_sigma),
    )


def _without_negative_timestep(scheduler: Scheduler) -> None:
    """Take out a last step at timestep -1, which rounding makes of some numbers of steps with trailing spacing.

    All else in the scheduler's tables stays, the noise level behind the last step too.
    """
    if scheduler.timesteps[-1] < 0:
        end = len(scheduler.timesteps)
        for name in ("timesteps", "sigmas", "sigmas_interpol"):
            if (table := getattr(scheduler, name, None)) is not None:
                setattr(scheduler, name, torch.cat([table[: end - scheduler.order], table[end:]]))


def _unit(symbol: int) -> torch.Tensor:
    """The tensor that stands for a symbol; no other tensor of a scheduler has such a shape.  # [1, 1, 1, WIDTH]"""
    vector = torch.zeros(1, 1, 1, WIDTH)
    vector[..., symbol] = 1.0
    return vector


def _signal_and_level(scheduler: Scheduler, timestep: torch.Tensor) -> tuple[float, float]:
    """What a clean sample and noise count in a noisy one; of the step that the scheduler has come to."""
    one, none = torch.ones(1), torch.zeros(1)
    at = timestep[None]
    return float(scheduler.add_noise(one, none, at)), float(scheduler.add_noise(none, one, at))


def _stands_for_something(value: object) -> bool:
    return isinstance(value, torch.Tensor) and value.shape == (1, 1, 1, WIDTH)


def _tensors(scheduler: Scheduler) -> list[torch.Tensor]:
    """Everything it keeps that came from a sample or an output, in the order of its attributes."""
    found = []
    for value in vars(scheduler).values():
        found += [one for one in (value if isinstance(value, list) else [value]) if _stands_for_something(one)]
    return found


def _replace(scheduler: Scheduler, tensors: list[torch.Tensor]) -> None:
    """Put `tensors` where `_tensors` found some, in the same order."""
    following = iter(tensors)
    for name, value in list(vars(scheduler).items()):
        if isinstance(value, list):
            setattr(scheduler, name, [next(following) if _stands_for_something(one) else one for one in value])
        elif _stands_for_something(value):
            setattr(scheduler, name, next(following))


def _coefficients(tensor: torch.Tensor, noise: torch.Tensor) -> tuple[np.ndarray[Any, Any], float]:
    """Of the symbols, and of the noise: nothing but noise reaches the symbol that stands for nothing."""
    vector = tensor.float().flatten()
    from_noise = float(vector[NOTHING] / noise[NOTHING])
    return (vector - from_noise * noise).numpy().astype(np.float64), from_noise


def _prediction(schedule: NoiseSchedule, timesteps: torch.Tensor, scales: Any) -> tuple[Any, Any]:
    """Coefficients of x and of the output in the clean latent."""
    ratio = np.interp(timesteps.double().numpy(), np.arange(schedule.num_train_timesteps), schedule.sigmas)
    alpha = 1.0 / np.sqrt(ratio**2 + 1.0)
    from_x, from_output = schedule.x0_from(alpha, ratio * alpha)
    return from_x * scales, from_output


def _steps_done(calls: int, steps: int, order: int) -> Any:
    """A scheduler of second order calls the model twice a step but for the last; others may call more at the start."""
    call = np.arange(1, calls + 1)
    if order == 2:
        return np.append(call[:-1] // 2, steps)
    return np.maximum(0, call - (calls - steps))
