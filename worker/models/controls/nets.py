"""ControlNets in memory: loaded when a job asks for one, kept for the next, run beside the UNet.

What they add to a row counts times that row's own scale, so that jobs with the same nets share calls.
"""

from __future__ import annotations

import gc
import logging
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any
from weakref import WeakValueDictionary

import torch

from worker.errors import InvalidInput
from worker.models.base import CONTROL, CONTROL_SCALE
from worker.models.casting import cast_layers
from worker.models.controls.catalogue import Catalogue, Entry
from worker.models.folder import DiffusersFolder
from worker.models.imports import put_off_siblings
from worker.models.offload import OnDevice, Placement
from worker.models.packing import lay_out
from worker.models.parts import DTYPE_NAMES, read_folder_part

logger = logging.getLogger(__name__)

KEPT = 4
"""As many stay in memory while nobody uses them, those that are used among them."""


class Held:
    """While it lives, the net that it stands for stays loaded."""


class ControlNets:
    """Those of `catalogue`, for a UNet of this configuration, on its device and in its dtype; kept in `weights_dtype`
    as its weights are, if there is one."""

    def __init__(
        self,
        catalogue: Catalogue,
        unet: Mapping[str, Any],
        device: torch.device,
        dtype: torch.dtype,
        *,
        kept: int = KEPT,
        weights_dtype: str | None = None,
        placement: Placement | None = None,
    ) -> None:
        self._catalogue = catalogue
        self._unet = unet
        self._device = device
        self._dtype = dtype
        self._kept = kept
        self._weights_dtype = weights_dtype
        self._placement = placement or OnDevice()
        self._loaded: OrderedDict[str, Any] = OrderedDict()
        self._held: WeakValueDictionary[str, Held] = WeakValueDictionary()

    def hold(self, name: str) -> Held:
        """Make it ready, for as long as what comes back is kept. Raises InvalidInput. Slow where it is not loaded."""
        if name not in self._loaded:
            if (entry := self._catalogue.get(name)) is None:
                raise InvalidInput(f"No ControlNet of the name {name} fits the model")
            self._drop_idle(self._kept - 1)
            self._loaded[name] = self._load(entry)
        self._loaded.move_to_end(name)
        held = self._held.get(name) or Held()
        self._held[name] = held
        return held

    def let_go(self) -> bool:
        """Drop those that nobody uses; whether there were any."""
        before = len(self._loaded)
        self._drop_idle(0)
        return len(self._loaded) < before

    def residuals(
        self,
        conditioning: Mapping[str, torch.Tensor],
        latents: torch.Tensor,
        timesteps: torch.Tensor,
        text: torch.Tensor,
        added: Mapping[str, torch.Tensor] | None,
    ) -> dict[str, Any]:
        """What the nets that are named in `conditioning` add to the UNet's layers, by the names of its arguments."""
        down: list[torch.Tensor] = []
        middle: torch.Tensor | None = None
        for place in sorted(name.removeprefix(CONTROL) for name in conditioning if name.startswith(CONTROL)):
            net = self._loaded[place.partition(".")[2]]
            scale = conditioning[CONTROL_SCALE + place][:, None, None, None].to(self._dtype)
            more, its_middle = net(
                latents.to(self._dtype),
                timesteps,
                text,
                conditioning[CONTROL + place],
                scale,
                added_cond_kwargs=added,
                return_dict=False,
            )
            down = [one + other for one, other in zip(down, more, strict=True)] if down else list(more)
            middle = its_middle if middle is None else middle + its_middle
        if middle is None:
            return {}
        return {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}

    def _load(self, entry: Entry) -> Any:
        try:
            net = read_net(entry, self._unet, self._dtype).eval().requires_grad_(False)
            lay_out(net, self._device.type, packed=self._weights_dtype is None)
            cast_layers("controlnet", net, self._weights_dtype)
        except MemoryError:
            raise
        except Exception as error:
            logger.debug("loading failed", exc_info=error)
            told = f"The ControlNet {entry.name} cannot be loaded ({type(error).__name__})"
            raise InvalidInput(told) from None
        try:
            return self._placed(entry, net)
        except torch.OutOfMemoryError:
            self._drop_idle(0)
        return self._placed(entry, net)

    def _placed(self, entry: Entry, net: Any) -> Any:
        return self._placement.place(f"ControlNet {entry.name}", net, str(self._device), beside="unet")

    def _drop_idle(self, remaining: int) -> None:
        """Let go of those that nobody uses, the least recently used first, until no more than `remaining` are left."""
        idle = [name for name in self._loaded if name not in self._held]
        dropped = idle[: max(0, len(self._loaded) - remaining)]
        for name in dropped:
            del self._loaded[name]
        if dropped and self._weights_dtype is not None:
            gc.collect()  # a layer that casts refers to itself


def read_net(entry: Entry, unet: Mapping[str, Any], dtype: torch.dtype) -> Any:
    """On the CPU. Raises whatever the libraries do, and ValueError for a weight that is not there."""
    put_off_siblings()
    from diffusers.models.controlnets.controlnet import ControlNetModel

    if entry.path.is_dir():
        source = DiffusersFolder(entry.path.parent)
        net, missing = read_folder_part(source, entry.path.name, ControlNetModel, DTYPE_NAMES[dtype])
    else:
        from worker.models.conversion import convert_controlnet  # what a folder has no need of

        assert entry.shapes is not None, "only what was recognised is loaded"
        net, missing = convert_controlnet(entry.path, entry.shapes, ControlNetModel, unet, dtype)
    if missing:
        raise ValueError(f"{min(missing)} is missing")
    return net
