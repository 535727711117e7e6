"""The samplers that diffusers' schedulers draw, by their usual names; a name is a line.

Says which class stands for a name and how it is set; the engine reads its steps off.
"""

from __future__ import annotations

import inspect
from collections.abc import Container, Mapping
from importlib import import_module
from typing import Any

LATENT = {"clip_sample": False, "thresholding": False}
"""Limits on pixel values mean nothing for latents."""

SCHEDULERS: dict[str, tuple[str, dict[str, Any]]] = {
    "ddpm": ("DDPMScheduler", {}),
    "heun": ("HeunDiscreteScheduler", {}),
    # Its Runge-Kutta start takes nine more calls and no fewer than three steps; nobody's pictures have it.
    "pndm": ("PNDMScheduler", {"skip_prk_steps": True}),
    "unipc": ("UniPCMultistepScheduler", {}),
    "dpmpp_sde": ("DPMSolverSinglestepScheduler", {"algorithm_type": "sde-dpmsolver++", "lower_order_final": True}),
    "dpm2": ("KDPM2DiscreteScheduler", {}),
    "lcm": ("LCMScheduler", {}),
    "tcd": ("TCDScheduler", {}),
}
NOT_OF_SAMPLE = ("dpm2", "pndm")
"""Those whose schedulers know no model that predicts the clean latent (`prediction_type` "sample")."""


DISTILLED = {"lcm": 50, "tcd": 50}
"""Samplers whose steps are some of those that a model was distilled with, and how many those are where the checkpoint's
scheduler does not say."""


def most_steps(samplers: Container[str], config: Mapping[str, Any]) -> dict[str, int]:
    """Of those samplers that make only so many, on a checkpoint's own noise."""
    own = config.get("original_inference_steps")
    return {name: own if type(own) is int else usual for name, usual in DISTILLED.items() if name in samplers}


def make_scheduler(name: str, config: Mapping[str, Any]) -> Any:
    """The scheduler that stands for a sampler, on a checkpoint's own noise. Raises KeyError for an unknown name."""
    class_name, changes = SCHEDULERS[name]
    scheduler = getattr(import_module("diffusers.schedulers"), class_name)
    # What only the checkpoint's own scheduler knows would be warned of, at every start.
    known = inspect.signature(scheduler.__init__).parameters
    settings = {
        key: value for key, value in (dict(config) | LATENT | changes).items() if key in known or key.startswith("_")
    }
    return scheduler.from_config(settings)
