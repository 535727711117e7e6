"""A picture on its way from noise to pixels, as tensors: what one row, or two, of the model's calls are made of."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from worker.engine.beginning import Kept
from worker.engine.control import Controls
from worker.engine.runner import Drawing
from worker.engine.sampling.plan import X0, Plan, X

if TYPE_CHECKING:
    from worker.models.base import AdapterSet, Conditioning


@dataclass(slots=True, eq=False, kw_only=True)
class LatentDrawing(Drawing):
    """A drawing's tensors. With guidance (`negative` is not None) it has two rows: the prompt's and the negative's.

    `state` is what its sampler keeps, slot by slot, in fp32 on the device  # [slots, C, h, w]; `call` counts the
    model calls it has behind it, `generator` gives all its noise, on the CPU.
    """

    plan: Plan
    state: torch.Tensor
    generator: torch.Generator
    noise: torch.Tensor | None = None
    """What was drawn for the next call, so that a call that fails and is repeated gets the same.  # [C, h, w]"""
    call: int = 0
    prompt: Conditioning
    negative: Conditioning | None
    frame: Mapping[str, torch.Tensor]
    """What its rows have beside the text.  # each [1, ...]"""
    guidance_scale: float
    adapters: AdapterSet
    kept: Kept | None = None
    controls: Controls = ()
    kind: Hashable
    compiled: bool
    """Whether compiled calls draw it; from its first step to its last."""

    def end_calls(self) -> None:
        """As `Drawing` has it: its decoding, or others, may need the memory."""
        del self.prompt, self.negative, self.adapters, self.controls

    @property
    def latent(self) -> torch.Tensor:
        """The noisy latent.  # [C, h, w]"""
        return self.state[X]

    @property
    def predicted(self) -> torch.Tensor:
        """The clean latent as the last call predicted it; zeros before the first.  # [C, h, w]"""
        return self.state[X0]
