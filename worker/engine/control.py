"""Pictures that guide a drawing: read once for a job, and how much each counts at which of its calls.

Knows a ControlNet by its name alone; what it does with the picture is the model's business.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from worker.engine import pictures
from worker.engine.canny import canny
from worker.engine.runner import Pixels
from worker.jobs.params import ControlParams, JobParams, Preprocessor

if TYPE_CHECKING:
    from worker.models.base import Model


@dataclass(frozen=True, eq=False)
class Control:
    """`place` is where it stands in the model's conditioning; `picture` is on the device  # [1, 3, H, W], from 0 to 1.

    `scales` says for every call how much it counts; `held` keeps the model ready for it.
    """

    name: str
    place: str
    scale: float
    picture: torch.Tensor
    scales: tuple[float, ...]
    held: object


Controls = tuple[Control, ...]


def open_controls(model: Model, params: JobParams, width: int, height: int, calls: int) -> Controls:
    """Those of a job that makes so many calls, in the order of their names. Raises InvalidInput."""
    opened = []
    times: Counter[str] = Counter()
    for asked in params.controls:
        held = model.control(asked.name)
        pixels = torch.from_numpy(read_control(asked, width, height).copy())
        picture = pixels.permute(2, 0, 1)[None].float() / 255.0
        opened.append(
            Control(
                name=asked.name,
                place=f"{times[asked.name]}.{asked.name}",
                scale=asked.scale,
                picture=picture.to(model.device, model.dtype),
                scales=tuple(asked.scale if counts(asked, call, calls) else 0.0 for call in range(calls)),
                held=held,
            )
        )
        times[asked.name] += 1
    return tuple(sorted(opened, key=lambda one: one.place))


def read_control(asked: ControlParams, width: int, height: int) -> Pixels:
    """The control picture in the size that is drawn.  # [height, width, 3]. Raises InvalidInput."""
    match asked.preprocessor:
        case Preprocessor.NONE:
            return pictures.read_control(asked.image, width, height)
        case Preprocessor.CANNY:
            return canny(pictures.read_pixels(asked.image, width, height, name="control picture"))


def counts(asked: ControlParams, call: int, calls: int) -> bool:
    """As the stock pipelines have it: whether the call lies whole between start and end."""
    return not (call / calls < asked.start or (call + 1) / calls > asked.end)


def said_of(controls: Controls) -> tuple[str, ...]:
    """What the job must say of those that have no part in it though they should."""
    return tuple(
        f"controls: no step lies between the start and the end of {control.name}, which had no part"
        for control in controls
        if control.scale and not any(control.scales)
    )


def stacked(
    drawings: Sequence[Controls], calls: Sequence[int], rows: Sequence[int], device: torch.device
) -> dict[str, torch.Tensor]:
    """The conditioning of one call. `drawings` have controls of the same places; `rows` says whose each row is.

    What counts for nobody in this call is left out, so that the model need not look at it.
    """
    tensors = {}
    for controls in zip(*drawings, strict=True):
        scales = [control.scales[call] for control, call in zip(controls, calls, strict=True)]
        if any(scales):
            place = controls[0].place
            tensors[f"control.{place}"] = torch.cat([controls[row].picture for row in rows])
            tensors[f"control_scale.{place}"] = torch.tensor([scales[row] for row in rows], device=device)
    return tensors
