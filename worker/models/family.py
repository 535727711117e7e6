"""What a family of models is, and what of a checkpoint tells which one it is of.

Knows shapes of configurations, not where they come from: a folder and a single file are told apart elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from worker.jobs.facts import Guidance
from worker.jobs.params import FLOW, Task


@dataclass(frozen=True)
class Anatomy:
    """The configurations that a checkpoint is made of, each as diffusers writes it.

    `pipeline` is the class in `model_index.json`; `denoiser` the configuration of the UNet or of the transformer.
    """

    pipeline: str
    denoiser: Mapping[str, Any]
    vae: Mapping[str, Any]
    scheduler: Mapping[str, Any]

    @property
    def few_steps(self) -> bool:
        """Distilled to be drawn in a few steps: only such checkpoints bring these schedulers with this spacing.

        A trailing spacing with v-prediction or with a last step of pure noise is a model of many steps.
        """
        scheduler = self.scheduler
        if scheduler.get("_class_name") in ("LCMScheduler", "TCDScheduler"):
            return True
        return (
            scheduler.get("_class_name") in ("EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler")
            and scheduler.get("timestep_spacing") == "trailing"
            and scheduler.get("prediction_type", "epsilon") in ("epsilon", "sample")
            and not scheduler.get("rescale_betas_zero_snr")
        )

    @property
    def takes_scale(self) -> bool:
        """The guidance scale is an input of its denoiser, as of latent consistency models."""
        return bool(self.denoiser.get("time_cond_proj_dim"))

    @property
    def v_prediction(self) -> bool:
        """It predicts the velocity and not the noise."""
        return self.scheduler.get("prediction_type") == "v_prediction"

    @property
    def repaints(self) -> bool:
        """Beside the noisy latent its denoiser takes a mask and the latent of the masked picture."""
        return bool(self.denoiser["in_channels"] == 2 * self.vae["latent_channels"] + 1)


@dataclass(frozen=True)
class Family:
    """One kind of checkpoint: who loads it, and what is best for it where neither client nor maker says otherwise.

    `name` is what `/v1/info` shows and what LoRA and ControlNet must fit; `variant` says which of its kind.
    `side_px` stands where the configuration has no size of its own; `text_length` counts tokens of the longest text
    encoder. `loader` names the function that loads the weights.
    """

    name: str
    variant: str
    loader: str
    pipelines: tuple[str, ...]
    is_it: Callable[[Anatomy], bool]
    side_px: int
    steps: int
    guidance_scale: float
    sampler: str
    tasks: tuple[Task, ...]
    text_length: int = 77
    guidance: Guidance = Guidance.ROWS
    flow: bool = False
    """Between noise and picture it knows straight lines: only samplers named `flow_…` draw it, and only it."""

    @property
    def denoiser(self) -> str:
        """The part of a checkpoint that is called at each step."""
        return "transformer" if self.flow else "unet"

    @property
    def encoders(self) -> int:
        """How many text encoders it cannot do without; SD 3 may come without its third."""
        return 1 if self.name == "sd" else 2

    def samplers_among(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """Those that draw this kind."""
        return tuple(name for name in names if name.startswith(FLOW) == self.flow)
