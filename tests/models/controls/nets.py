"""ControlNets of toy size with random weights, for the tiny models; and the stock pipelines that draw with them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from PIL import Image as PillowImage

from tests.models.families import TASKS
from tests.models.lora_files import adapted
from tests.models.tiny import SIDE_PX, by_stock, picture, pil
from worker.engine.runner import Pixels
from worker.jobs.params import ControlParams, JobParams, LoraParams, Picture, Preprocessor, Task


def write_controlnet(folder: Path, model: Path, seed: int = 0, **config: Any) -> Path:
    """A ControlNet for the model in the other folder, as a diffusers folder; its zero convolutions are not zero."""
    make_controlnet(model, seed, **config).save_pretrained(folder)
    return folder


def make_controlnet(
    model: Path, seed: int = 0, *, rebuilt: Mapping[str, Any] | None = None, **config: Any
) -> ControlNetModel:
    """By default its picture is made as small as the tiny models' VAEs make theirs; `rebuilt` is built otherwise."""
    unet = UNet2DConditionModel.from_pretrained(model / "unet")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = ControlNetModel.from_unet(unet, **{"conditioning_embedding_out_channels": (8, 16)} | config)
        if rebuilt:
            net = ControlNetModel.from_config(dict(net.config) | dict(rebuilt))
        with torch.no_grad():
            net.controlnet_cond_embedding.conv_out.weight.normal_(std=0.3)
            for convolution in (*net.controlnet_down_blocks, net.controlnet_mid_block):
                convolution.weight.normal_(std=0.15)
                convolution.bias.normal_(std=0.1)
    return net


def lines(width: int = SIDE_PX, height: int = SIDE_PX, every: int = 8) -> Picture:
    """White lines on black."""
    drawn = np.zeros((height, width, 3), np.uint8)
    drawn[::every] = 255
    drawn[:, :: every + 3] = 255
    return picture(PillowImage.fromarray(drawn))


def control(name: str, **changes: Any) -> ControlParams:
    """By lines, at full strength from first to last, some of it changed."""
    usual: dict[str, Any] = {"image": lines(), "scale": 1.0, "start": 0.0, "end": 1.0}
    return ControlParams(name, **usual | {"preprocessor": Preprocessor.NONE} | changes)


class Stock:
    """The stock pipelines of the model in `folder`, with those of `nets` and of `loras` that a job names.

    `change` is done to each of them when it is made.
    """

    def __init__(
        self, folder: Path, nets: Path, loras: Path | None = None, change: Callable[[Any], Any] = lambda made: made
    ) -> None:
        self._folder = folder
        self._nets = nets
        self._loras = loras
        self._change = change
        index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
        self._kind = "StableDiffusionXL" if "XL" in index["_class_name"] else "StableDiffusion"
        self._made: dict[tuple[Task, tuple[str, ...], tuple[LoraParams, ...]], Any] = {}

    def draw(self, asked: JobParams, index: int = 0) -> Pixels:
        """Image `index` of a job that has controls."""
        names = tuple(one.name for one in asked.controls)
        if (key := (asked.task, names, asked.loras)) not in self._made:
            made = self._change(self._make(asked.task, names))
            self._made[key] = made if self._loras is None else adapted(made, self._loras, asked)
        pictures: Sequence[Any] = [pil(one.image).resize((asked.width, asked.height)) for one in asked.controls]
        return by_stock(
            self._made[key],
            asked,
            index,
            **{"image" if asked.task is Task.TEXT_TO_IMAGE else "control_image": pictures},
            controlnet_conditioning_scale=[one.scale for one in asked.controls],
            control_guidance_start=[one.start for one in asked.controls],
            control_guidance_end=[one.end for one in asked.controls],
        )

    def _make(self, task: Task, names: tuple[str, ...]) -> Any:
        nets = [ControlNetModel.from_pretrained(self._nets / name) for name in names]
        cls = getattr(diffusers, f"{self._kind}ControlNet{TASKS[task]}Pipeline")
        pipeline = cls.from_pretrained(self._folder, controlnet=nets, dtype=torch.float32)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline
