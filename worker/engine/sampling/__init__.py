"""Samplers by name: each turns a noise schedule and a step count into a `Plan`.

The common ones are formulas, each a line here and a function in a file beside; nothing is imported until it is used.
All others are read off a scheduler that the model brings.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from worker.engine.sampling.plan import Plan
    from worker.engine.sampling.schedules import Schedule

SAMPLERS: dict[str, str] = {
    "ddim": "worker.engine.sampling.ddim:plan",
    "euler": "worker.engine.sampling.euler:plan",
    "euler_a": "worker.engine.sampling.euler:plan_ancestral",
    "lms": "worker.engine.sampling.lms:plan",
    "dpmpp_2m": "worker.engine.sampling.dpmpp_2m:plan",
    "dpmpp_2m_karras": "worker.engine.sampling.dpmpp_2m:plan_karras",
    "dpmpp_2m_sde": "worker.engine.sampling.dpmpp_2m:plan_sde",
    "flow_euler": "worker.engine.sampling.flow_euler:plan",
}


def read_noise(config: Mapping[str, Any]) -> Schedule:
    """The noise that a scheduler's configuration describes. Raises UnsupportedSchedule, a ValueError."""
    from worker.engine.sampling.schedules import read_schedule

    return read_schedule(config)


def planner(name: str) -> Callable[[Schedule, int, int], Plan]:
    """The function behind a sampler's name: of a noise, a number of steps, and which of these is the first one done.

    Raises KeyError for an unknown name.
    """
    module, _, function = SAMPLERS[name].partition(":")
    found: Callable[[Schedule, int, int], Plan] = getattr(import_module(module), function)
    return found
