"""What the front ends call samplers, and which of the worker's each name stands for."""

from __future__ import annotations

NAMES = {
    "euler": "Euler",
    "euler_a": "Euler a",
    "lms": "LMS",
    "heun": "Heun",
    "dpm2": "DPM2",
    "dpmpp_2m": "DPM++ 2M",
    "dpmpp_2m_karras": "DPM++ 2M Karras",
    "dpmpp_2m_sde": "DPM++ 2M SDE",
    "dpmpp_sde": "DPM++ SDE",
    "ddim": "DDIM",
    "pndm": "PLMS",
    "unipc": "UniPC",
    "lcm": "LCM",
    "tcd": "TCD",
    "ddpm": "DDPM",
}
ETA = {"ddim": 0, "euler_a": 1, "dpmpp_sde": 1, "dpmpp_2m_sde": 1}
"""Of the samplers that front ends give one, how much of the noise they add anew in each step; here it is fixed."""
AS_THE_SAMPLER_HAS_IT = ("", "automatic")
KARRAS = "karras"


def shown(sampler: str) -> str:
    """The front ends' name of one of the worker's samplers; its own where they have none."""
    return NAMES.get(sampler, sampler)


def find(name: str, offered: tuple[str, ...]) -> str | None:
    """The worker's sampler by either name, in whatever case; None if it offers none of that name."""
    known = {shown(sampler).lower(): sampler for sampler in offered} | {sampler: sampler for sampler in offered}
    return known.get(name.lower())


def etas(sampler: str) -> tuple[int, ...]:
    """The values of `eta` that change nothing of a sampler."""
    return (ETA[sampler],) if sampler in ETA else (0, 1)


def scheduled(sampler: str, scheduler: str, offered: tuple[str, ...]) -> str | None:
    """The sampler with another schedule of noise, which here is a sampler of its own; None if it is not offered."""
    word = scheduler.lower()
    if word in AS_THE_SAMPLER_HAS_IT or sampler.endswith(f"_{word}"):
        return sampler
    other = f"{sampler}_{word}"
    return other if other in offered else None


def schedulers(offered: tuple[str, ...]) -> list[str]:
    """The schedules of noise that can be asked for."""
    karras = any(sampler.endswith(f"_{KARRAS}") for sampler in offered)
    return ["Automatic", *(["Karras"] if karras else [])]
