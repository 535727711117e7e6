"""Stable Diffusion 1.x and 2.x: a CLIP text encoder, a UNet with cross-attention, a VAE of factor 8."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from transformers import CLIPTextModel, CLIPTokenizer

from shared_worker.device import Device
from worker.models.base import MASKED, Conditioning
from worker.models.controls.nets import ControlNets
from worker.models.imports import put_off_siblings
from worker.models.loras.adapters import Adapters
from worker.models.parts import TORCH_DTYPES, load_parts
from worker.models.prompts.clip import ClipEncoder
from worker.models.registry import Checkpoint
from worker.models.schedulers import make_scheduler
from worker.models.vae import Vae

put_off_siblings()
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL  # noqa: E402
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel  # noqa: E402

PARTS = {
    "tokenizer": CLIPTokenizer,
    "text_encoder": CLIPTextModel,
    "unet": UNet2DConditionModel,
    "vae": AutoencoderKL,
}


class StableDiffusion:
    """The four parts of a checkpoint, on one device."""

    _vae_may_overflow = False

    def __init__(
        self,
        checkpoint: Checkpoint,
        device: torch.device,
        *,
        tokenizer: CLIPTokenizer,
        text_encoder: CLIPTextModel,
        unet: UNet2DConditionModel,
        vae: AutoencoderKL,
    ) -> None:
        self.facts = checkpoint.facts
        self.device = device
        self.dtype = TORCH_DTYPES[checkpoint.facts.dtype]
        self.scheduler_config = _scheduler_config(checkpoint)
        self._text_encoder = text_encoder
        self._prompts = ClipEncoder(tokenizer, text_encoder, self._hidden, embeddings=checkpoint.embeddings)
        self._unet = unet
        self.adapters = self._adapters(checkpoint, text_encoder=text_encoder)
        self._vae = Vae(vae, self.dtype, may_overflow=self._vae_may_overflow)
        self._guidance_width = int(unet.config.time_cond_proj_dim or 0)
        """Of the guidance scale as an input, for those that were distilled with it; else 0."""
        self._controls = ControlNets(
            checkpoint.controls,
            unet.config,
            device,
            self.dtype,
            weights_dtype=checkpoint.facts.weights_dtype,
            placement=checkpoint.placement,
        )
        self.takes_mask = unet.config.in_channels > self._vae.channels

    def _adapters(self, checkpoint: Checkpoint, **text_encoders: Any) -> Adapters:
        family = checkpoint.family.name
        return Adapters(checkpoint.loras, family, self.device, self.dtype, unet=self._unet, **text_encoders)

    def scheduler(self, sampler: str) -> Any:
        """On the checkpoint's own noise."""
        return make_scheduler(sampler, self.scheduler_config)

    def latent_shape(self, width_px: int, height_px: int) -> tuple[int, int, int]:
        """(C, H/8, W/8)."""
        return self._vae.latent_shape(width_px, height_px)

    def guides(self, guidance_scale: float) -> bool:
        """By Ho and Salimans, "Classifier-Free Diffusion Guidance", 2022: 1 is the prompt's own prediction.

        Not where the scale is an input.
        """
        return guidance_scale > 1.0 and not self._guidance_width

    def frame(self, width_px: int, height_px: int, guidance_scale: float) -> Mapping[str, torch.Tensor]:
        """`timestep_cond` where the scale is an input.  # [1, width]"""
        if not self._guidance_width:
            return {}
        return {"timestep_cond": waves(guidance_scale - 1.0, self._guidance_width).to(self.device, self.dtype)}

    @torch.inference_mode()
    def encode_prompt(self, text: str | None) -> Conditioning:
        """The last hidden states of the text encoder, of all chunks of the prompt."""
        encoded = self._prompts.encode(text or "")
        hidden = encoded.hidden.to(self.dtype)  # [1, 77 chunks, width]
        return Conditioning({"encoder_hidden_states": hidden}, encoded.warnings)

    def _hidden(self, ids: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, None]:
        masked = getattr(self._text_encoder.config, "use_attention_mask", False)
        ids, attention_mask = ids.to(self.device), mask.to(self.device) if masked else None
        return self._text_encoder(ids, attention_mask=attention_mask)[0], None

    def control(self, name: str) -> object:
        """Loaded now if it is not kept from an earlier job."""
        return self._controls.hold(name)

    def let_go(self) -> bool:
        """ControlNets and adapters."""
        controls, adapters = self._controls.let_go(), self.adapters.let_go()
        return controls or adapters

    @torch.inference_mode()
    def predict(
        self, latents: torch.Tensor, timesteps: torch.Tensor, conditioning: Mapping[str, torch.Tensor]
    ) -> torch.Tensor:
        """One forward of the UNet, behind those of the ControlNets.  # [rows, C, h, w]"""
        text = conditioning["encoder_hidden_states"]
        added = self._added(conditioning)
        residuals = self._controls.residuals(conditioning, latents, timesteps, text, added)
        if self.takes_mask:
            latents = torch.cat([latents, conditioning[MASKED]], dim=1)
        output = self._unet(
            latents.to(self.dtype),
            timesteps,
            text,
            timestep_cond=conditioning.get("timestep_cond"),
            added_cond_kwargs=added,
            return_dict=False,
            **residuals,
        )[0]
        return cast(torch.Tensor, output)

    def _added(self, conditioning: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor] | None:
        """What the UNet takes beside the text; nothing."""
        return None

    def encode(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Through the VAE."""
        return self._vae.encode(pixels)

    def decode(self, latents: torch.Tensor, *, precise: bool = False) -> torch.Tensor:
        """Through the VAE."""
        return self._vae.decode(latents, precise=precise)


def _scheduler_config(checkpoint: Checkpoint) -> Mapping[str, Any]:
    """With an offset of 1, whatever it says, where the stock pipelines of 1.x and 2.x correct it so; SDXL's and those
    of latent consistency do not."""
    config = checkpoint.config("scheduler")
    corrected = checkpoint.family.name == "sd" and str(checkpoint.source.pipeline).startswith("StableDiffusion")
    return {**config, "steps_offset": 1} if corrected else config


def waves(value: float, width: int) -> torch.Tensor:
    """A thousand times a value as sines and cosines of `width` / 2 frequencies; as latent consistency models take it.

    Luo et al., "Latent Consistency Models", 2023.  # [1, width]
    """
    frequencies = torch.exp(torch.arange(width // 2) * -(math.log(10000.0) / (width // 2 - 1)))
    angles = 1000.0 * value * frequencies
    return torch.cat([angles.sin(), angles.cos()])[None]


def load(checkpoint: Checkpoint, device: Device, report: Callable[[float], None]) -> StableDiffusion:
    """Read every part, safetensors alone, without network. Raises ModelUnusable."""
    return StableDiffusion(checkpoint, torch.device(device.torch_name), **load_parts(checkpoint, device, PARTS, report))
