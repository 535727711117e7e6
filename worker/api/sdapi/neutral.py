"""Fields of this API that the worker has nothing for: let pass where they ask for nothing, else refused by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from worker.api.body import shown_name
from worker.errors import FieldFault

NEUTRAL: dict[str, tuple[Any, ...]] = {
    "styles": ([],),
    "subseed_strength": (0,),
    "seed_resize_from_h": (-1, 0),
    "seed_resize_from_w": (-1, 0),
    "restore_faces": (False,),
    "tiling": (False,),
    "s_churn": (0,),
    "s_min_uncond": (0,),
    "s_noise": (1,),
    "s_tmin": (0,),
    "s_tmax": (0,),
    "enable_hr": (False,),
    "refiner_checkpoint": ("", "None"),
    "script_name": ("", "None"),
    "script_args": ([],),
    "alwayson_scripts": ({},),
    "disable_extra_networks": (False,),
    "firstpass_image": (),
    "force_task_id": (),
    "comments": ({},),
    "infotext": ("",),
    "save_images": (False, True),
    "clip_skip": (1,),
}
"""The values that ask for nothing; null is one of them everywhere. There is no folder that pictures are saved to."""
NEUTRAL_OF_PICTURES: dict[str, tuple[Any, ...]] = {
    "resize_mode": (0,),
    "inpainting_fill": (1,),
    "inpaint_full_res": (False, 0),
    "initial_noise_multiplier": (1,),
    "include_init_images": (False,),
    "latent_mask": (),
    "mask_round": (True,),
}
"""Further ones of `img2img`: a picture is fitted into the size, and what is masked begins with what was there."""
ONLY_WITH = {
    "subseed": "subseed_strength",
    "refiner_switch_at": "refiner_checkpoint",
    "override_settings_restore_afterwards": "override_settings",
    "do_not_save_samples": "save_images",
    "do_not_save_grid": "save_images",
    **dict.fromkeys(
        (
            *("hr_scale", "hr_upscaler", "hr_second_pass_steps", "hr_resize_x", "hr_resize_y", "hr_checkpoint_name"),
            *("hr_sampler_name", "hr_scheduler", "hr_prompt", "hr_negative_prompt"),
            *("hr_additional_modules", "firstphase_width", "firstphase_height"),
        ),
        "enable_hr",
    ),
}
ONLY_WITH_A_MASK = dict.fromkeys(("inpainting_fill", "inpaint_full_res"), "mask")
"""Fields that say nothing unless what stands beside them is there and asks for something."""


def refused(
    extra: Mapping[str, Any], values: Mapping[str, tuple[Any, ...]], only_with: Mapping[str, str]
) -> list[FieldFault]:
    """A fault for each field that asks for what the worker cannot do, or that nobody knows."""
    faults = []
    for name, value in extra.items():
        if name in only_with or (name in values and (value is None or any(_same(value, one) for one in values[name]))):
            continue
        if name in values:
            faults.append(FieldFault(name, "is not supported by this worker with this value"))
        else:
            faults.append(FieldFault(shown_name(name), "is not a known field"))
    return faults


def _same(value: Any, one: Any) -> bool:
    """Equal, and true is not 1."""
    return isinstance(value, bool) is isinstance(one, bool) and bool(value == one)
