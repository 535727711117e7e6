"""What the loaded model and the worker's limits speak against in a request that is well-formed."""

from __future__ import annotations

from collections.abc import Sequence

from worker.api.pictures import Pictures
from worker.api.request import MAX_SEED, ControlRequest, JobRequest, LoraRequest, UpscaleRequest
from worker.errors import FieldFault
from worker.jobs.facts import ControlFacts, Guidance, Limits, LoraFacts, ModelFacts
from worker.jobs.params import LATENT, Task

Named = LoraRequest | ControlRequest


def unmet_limits(
    asked: JobRequest, pictures: Pictures, facts: ModelFacts, limits: Limits, *, whatever_task: bool = False
) -> list[FieldFault]:
    """What the loaded model or the worker's limits speak against; `whatever_task` if nobody knows which was meant."""
    faults = _adapters(asked, facts)
    width, height = size_of(asked, pictures, facts)
    steps = asked.steps or facts.steps
    task = Task(asked.task)
    if whatever_task:
        pass
    elif task in facts.tasks:
        faults += _pictures_of_task(asked) + _upscale(asked, facts)
    else:
        faults.append(FieldFault("task", f"must be one of {', '.join(facts.tasks)}"))
    for name, given, side in (("width", asked.width, width), ("height", asked.height, height)):
        if task is Task.UPSCALE:
            if given is not None:
                faults.append(FieldFault(name, "is that of the image times upscale.factor"))
            if pictures.image is not None and not limits.min_side_px <= side <= limits.max_side_px:
                told = f"becomes {side} pixels; from {limits.min_side_px} to {limits.max_side_px} are drawn"
                faults.append(FieldFault("image", f"its {name} {told}"))
            continue
        if given is None and pictures.image is not None:
            if not limits.min_side_px <= side <= limits.max_side_px:
                told = f"is {side} pixels; give a {name} from {limits.min_side_px} to {limits.max_side_px}"
                faults.append(FieldFault("image", f"its {name} {told}"))
            continue
        if side % facts.multiple:
            faults.append(FieldFault(name, f"must be a multiple of {facts.multiple}"))
        if not limits.min_side_px <= side <= limits.max_side_px:
            faults.append(FieldFault(name, f"must be from {limits.min_side_px} to {limits.max_side_px}"))
    if max(width, height) > limits.max_side_px:
        pass  # what follows from too long a side is no fault of other fields
    elif width * height > limits.max_pixels:
        field = "image" if task is Task.UPSCALE else "width"
        faults.append(FieldFault(field, f"width x height must be at most {limits.max_pixels}"))
    elif width * height * steps * asked.num_images > limits.max_work:
        faults.append(FieldFault("steps", f"width x height x steps x num_images must be at most {limits.max_work}"))
    if (asked.seed or 0) + asked.num_images - 1 > MAX_SEED:
        faults.append(FieldFault("seed", f"seed + num_images - 1 must be at most {MAX_SEED}"))
    if asked.sampler is not None and asked.sampler not in facts.samplers:
        faults.append(FieldFault("sampler", f"must be one of {', '.join(facts.samplers)}"))
    sampler = asked.sampler or facts.sampler
    if steps > (most := facts.most_steps.get(sampler, steps)):
        faults.append(FieldFault("steps", f"must be at most {most} with the sampler {sampler}"))
    if facts.guidance is Guidance.NONE and (asked.guidance_scale or 0) > 1:
        faults.append(FieldFault("guidance_scale", "has no effect on this model: leave it out, or give 1 or less"))
    if asked.timeout_s is not None and asked.timeout_s > limits.timeout_s:
        faults.append(FieldFault("timeout_s", f"must be at most {limits.timeout_s:g}"))
    for name, text in asked.labels.items():
        if not name or "\x00" in name or max(len(name), len(text)) > limits.label_characters:
            faults.append(FieldFault("labels", f"names and values hold 1 to {limits.label_characters} characters"))
            break
    return faults


def size_of(asked: JobRequest, pictures: Pictures, facts: ModelFacts) -> tuple[int, int]:
    """Width and height of what is to be drawn."""
    usual = pictures.image or facts
    if Task(asked.task) is Task.UPSCALE:
        factor = asked.upscale.factor if asked.upscale else UpscaleRequest().factor
        return usual.width * factor, usual.height * factor
    return asked.width or usual.width, asked.height or usual.height


def _pictures_of_task(asked: JobRequest) -> list[FieldFault]:
    """Fields that belong to a task are asked for by that one, and refused by the others."""
    task = Task(asked.task)
    fields = (
        ("image", asked.image, task.takes_image, "image-to-image, inpainting and upscale"),
        ("mask", asked.mask, task is Task.INPAINTING, "inpainting"),
    )
    faults = []
    for name, value, taken, tasks in fields:
        if taken and value is None:
            faults.append(FieldFault(name, f"is required for {task}"))
        elif value is not None and not taken:
            faults.append(FieldFault(name, f"is for {tasks} alone"))
    if asked.strength is not None and not task.takes_image:
        faults.append(FieldFault("strength", "is for image-to-image, inpainting and upscale alone"))
    return faults


def _upscale(asked: JobRequest, facts: ModelFacts) -> list[FieldFault]:
    if Task(asked.task) is not Task.UPSCALE:
        return [] if asked.upscale is None else [FieldFault("upscale", "is for upscale alone")]
    faults = []
    upscale = asked.upscale or UpscaleRequest()
    if upscale.upscaler not in facts.upscalers:
        faults.append(FieldFault("upscale.upscaler", f"must be one of {', '.join(facts.upscalers)}"))
    elif upscale.upscaler != LATENT:
        faults += _by_network(asked, upscale, facts)
    if asked.controls:  # a control picture belongs to a whole picture
        faults.append(FieldFault("controls", "is not for upscale"))
    return faults


def _by_network(asked: JobRequest, upscale: UpscaleRequest, facts: ModelFacts) -> list[FieldFault]:
    """A network makes a picture larger in one way; what it would not look at is refused."""
    network = next(one for one in facts.enlargers if one.name == upscale.upscaler)
    faults = [
        FieldFault(name, f"is for the upscaler {LATENT} alone")
        for name in ("negative_prompt", "steps", "guidance_scale", "sampler", "strength", "loras")
        if getattr(asked, name) not in (None, [])
    ]
    if asked.num_images > 1:
        faults.append(FieldFault("num_images", f"is 1 but for the upscaler {LATENT}: all would be the same"))
    if not network.makes(upscale.factor):
        faults.append(FieldFault("upscale.factor", f"is {network.scale} at most with this upscaler"))
    return faults


def _adapters(asked: JobRequest, facts: ModelFacts) -> list[FieldFault]:
    """Adapters that the worker does not have, or that are not for the loaded model."""
    faults = []
    offers: tuple[tuple[str, Sequence[Named], Sequence[LoraFacts | ControlFacts]], ...] = (
        ("loras", asked.loras, facts.loras),
        ("controls", asked.controls, facts.controls),
    )
    for field, wanted, offered in offers:
        known = {one.name: one for one in offered}
        for index, one in enumerate(wanted):
            found = known.get(one.name)
            if found is None:
                faults.append(FieldFault(f"{field}.{index}.name", f"is not among the {field} of this worker"))
            elif not found.fits:
                faults.append(FieldFault(f"{field}.{index}.name", f"does not fit the model: {found.reason}"))
    for index, control in enumerate(asked.controls):
        if control.start > control.end:
            faults.append(FieldFault(f"controls.{index}.start", "must not be above end"))
    return faults
