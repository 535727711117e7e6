"""Every sampler and the diffusers scheduler whose picture it has to give; written down apart from the worker."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import diffusers

SCHEDULERS: dict[str, tuple[str, dict[str, Any]]] = {
    "ddim": ("DDIMScheduler", {"clip_sample": False}),
    "ddpm": ("DDPMScheduler", {"clip_sample": False}),
    "dpm2": ("KDPM2DiscreteScheduler", {}),
    "dpmpp_2m": ("DPMSolverMultistepScheduler", {}),
    "dpmpp_2m_karras": ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}),
    "dpmpp_2m_sde": ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    "dpmpp_sde": (
        "DPMSolverSinglestepScheduler",
        {"algorithm_type": "sde-dpmsolver++", "lower_order_final": True},
    ),
    "euler": ("EulerDiscreteScheduler", {}),
    "euler_a": ("EulerAncestralDiscreteScheduler", {}),
    "heun": ("HeunDiscreteScheduler", {"clip_sample": False}),
    "lcm": ("LCMScheduler", {"clip_sample": False}),
    "lms": ("LMSDiscreteScheduler", {}),
    "pndm": ("PNDMScheduler", {"skip_prk_steps": True}),
    "tcd": ("TCDScheduler", {"clip_sample": False}),
    "unipc": ("UniPCMultistepScheduler", {}),
}
FLOWS: dict[str, tuple[str, dict[str, Any]]] = {"flow_euler": ("FlowMatchEulerDiscreteScheduler", {})}


def stock_scheduler(sampler: str, config: Mapping[str, Any]) -> Any:
    """The scheduler as a user of diffusers makes it from a checkpoint's configuration."""
    name, changes = (SCHEDULERS | FLOWS)[sampler]
    return getattr(diffusers, name).from_config(dict(config), **changes)
