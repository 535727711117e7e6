"""What a model family gives the engine. A family knows its own tensors and nothing of queues or clients."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch

from worker.jobs.facts import ModelFacts
from worker.jobs.params import LoraParams

MASKED = "masked"
"""The conditioning of inpainting models: the mask, 1 where it is painted anew, over the latent of the picture with
that part grey.  # [rows, 1 + C, h, w]"""

CONTROL, CONTROL_SCALE = "control.", "control_scale."
"""What conditioning by ControlNets begins with: the control picture, from 0 to 1  # [rows, 3, H, W], and how much the
net counts  # [rows]. Behind it stand a number, by which one net can be there twice, a dot and the net's name."""


@dataclass(frozen=True, eq=False)
class Conditioning:
    """One prompt's encoding, as the denoiser takes it: tensors by name, each with one row.  # [1, ...]

    `warnings` is what a job must say that uses it. `filler` is what lengthens it, if not the empty prompt's tensors.
    """

    tensors: Mapping[str, torch.Tensor]
    warnings: tuple[str, ...] = ()
    filler: Mapping[str, torch.Tensor] = field(default_factory=dict)

    def as_long_as(self, other: Conditioning, empty: Conditioning) -> Conditioning:
        """Itself where no tensor of `other` has more tokens; else with those of `empty` appended.  # [1, tokens, width]

        So a prompt and its negative prompt can be rows of one call.
        """
        lengthened = {}
        for name, tensor in self.tensors.items():
            more = other.tensors[name].shape[1] - tensor.shape[1] if tensor.ndim == 3 else 0
            if more > 0:
                chunk = self.filler.get(name, empty.tensors[name])
                lengthened[name] = torch.cat([tensor, *[chunk] * (more // chunk.shape[1])], dim=1)
        return replace(self, tensors={**self.tensors, **lengthened}) if lengthened else self

    @property
    def size_bytes(self) -> int:
        """What it takes in memory."""
        return sum(tensor.nbytes for tensor in self.tensors.values())

    @property
    def key(self) -> Hashable:
        """Conditionings with equal keys can stand in one batch."""
        return tuple((name, tuple(tensor.shape[1:])) for name, tensor in sorted(self.tensors.items()))


class AdapterSet(Protocol):
    """The LoRA adapters of one job, in memory for as long as this is kept."""

    loras: tuple[LoraParams, ...]
    """Those that count, in the order of their names."""
    text_loras: tuple[LoraParams, ...]
    """Those of them that change what a prompt is encoded to."""

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a job must say that uses it."""


class Adapters(Protocol):
    """A model's LoRA adapters by name, of which it keeps some in memory."""

    @property
    def held(self) -> tuple[int, int]:
        """How many it keeps, and their bytes."""

    def load(self, loras: Sequence[LoraParams]) -> Any:
        """An `AdapterSet` of them, none for none. Raises InvalidInput."""

    def let_go(self) -> bool:
        """Drop those that nobody uses; whether there were any."""

    def active(self, sets: Sequence[Any]) -> AbstractContextManager[None]:
        """While it lasts, row k of every call has the adapters of set k; where all sets are the same, every row has."""


class Upscaler(Protocol):
    """A network that makes pictures larger by itself, without prompt, seed or steps."""

    scale: int
    margin: int
    """Pixels around a tile that the network should see too, so that the tile ends as the next one begins."""

    def enlarge(self, pixels: torch.Tensor) -> torch.Tensor:
        """Pixels from 0 to 1  # [1, 3, h, w], on any device;  larger ones, about in that range
        # [1, 3, h scale, w scale]"""


class Model(Protocol):
    """A loaded model. Every call comes from the engine's thread; nothing here keeps a gradient."""

    facts: ModelFacts
    device: torch.device
    dtype: torch.dtype
    scheduler_config: Mapping[str, Any]
    """The content of the checkpoint's `scheduler_config.json`, and facts of the family that its noise depends on."""
    takes_mask: bool
    """Whether `predict` wants `MASKED` among its conditioning; if not, what is not painted anew is put back into the
    latents between the steps."""

    @property
    def adapters(self) -> Adapters:
        """Those of `--lora-dir`."""

    def scheduler(self, sampler: str) -> Any:
        """The diffusers scheduler behind a sampler that the engine has no formula for. Raises KeyError."""

    def latent_shape(self, width_px: int, height_px: int) -> tuple[int, int, int]:
        """(C, h, w) of the latent of a picture."""

    def guides(self, guidance_scale: float) -> bool:
        """Whether guidance of this scale takes a second row, the negative prompt's."""

    def encode_prompt(self, text: str | None) -> Conditioning:
        """A prompt or a negative prompt; None is a negative prompt that was not given."""

    def frame(self, width_px: int, height_px: int, guidance_scale: float) -> Mapping[str, torch.Tensor]:
        """What every row of a picture has beside the text, as `Conditioning` has it.  # each [1, ...]"""

    def control(self, name: str) -> object:
        """Make ready the ControlNet of that name; `predict` knows it for as long as what comes back is kept.

        Raises InvalidInput where it cannot be had.
        """

    def let_go(self) -> bool:
        """Drop the ControlNets and adapters that nobody uses; whether there were any."""

    def predict(
        self, latents: torch.Tensor, timesteps: torch.Tensor, conditioning: Mapping[str, torch.Tensor]
    ) -> torch.Tensor:
        """The denoiser's output for every row, in one forward.

        `latents`  # [rows, C, h, w] in fp32;  `timesteps`  # [rows];  `conditioning`  # each [rows, ...]
        """

    def encode(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and standard deviation of the clean latent  # each [1, C, h, w], of pixels from -1 to 1.
        # [1, 3, H, W]"""

    def decode(self, latents: torch.Tensor, *, precise: bool = False) -> torch.Tensor:
        """Pixels from -1 to 1  # [1, 3, H, W], from one clean latent  # [1, C, h, w]; `precise` computes in fp32."""
