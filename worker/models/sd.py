"""Stable Diffusion 1.x and 2.x: a CLIP text encoder, a UNet with cross-attention, a VAE of factor 8."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import torch
from transformers import CLIPTextModel, CLIPTokenizer

from shared_worker.device import Device
from worker.errors import ModelUnusable
from worker.models.base import MASKED, Conditioning
from worker.models.imports import put_off_siblings
from worker.models.parts import TORCH_DTYPES, load_part, load_tokenizer
from worker.models.prompts.clip import ClipEncoder
from worker.models.registry import Checkpoint
from worker.models.schedulers import make_scheduler

put_off_siblings()
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL  # noqa: E402
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel  # noqa: E402


class StableDiffusion:
    """The four parts of a checkpoint, on one device."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        tokenizer: CLIPTokenizer,
        text_encoder: CLIPTextModel,
        unet: UNet2DConditionModel,
        vae: AutoencoderKL,
        device: torch.device,
    ) -> None:
        self.facts = checkpoint.facts
        self.device = device
        self.dtype = TORCH_DTYPES[checkpoint.facts.dtype]
        self.scheduler_config: Mapping[str, Any] = checkpoint.config("scheduler")
        self._text_encoder = text_encoder
        self._prompts = ClipEncoder(tokenizer, text_encoder, self._hidden, embeddings=checkpoint.embeddings)
        self._unet = unet
        self._vae = vae
        self.takes_mask = unet.config.in_channels > vae.config.latent_channels
        self._factor = 2 ** (len(vae.config.block_out_channels) - 1)

    def scheduler(self, sampler: str) -> Any:
        """On the checkpoint's own noise."""
        return make_scheduler(sampler, self.scheduler_config)

    def latent_shape(self, width_px: int, height_px: int) -> tuple[int, int, int]:
        """(C, H/8, W/8)."""
        return int(self._vae.config.latent_channels), height_px // self._factor, width_px // self._factor

    def guides(self, guidance_scale: float) -> bool:
        """By Ho and Salimans, "Classifier-Free Diffusion Guidance", 2022: 1 is the prompt's own prediction."""
        return guidance_scale > 1.0

    def frame(self, width_px: int, height_px: int, guidance_scale: float) -> Mapping[str, torch.Tensor]:
        """Nothing."""
        return {}

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

    @torch.inference_mode()
    def predict(
        self, latents: torch.Tensor, timesteps: torch.Tensor, conditioning: Mapping[str, torch.Tensor]
    ) -> torch.Tensor:
        """One forward of the UNet.  # [rows, C, h, w]"""
        if self.takes_mask:
            latents = torch.cat([latents, conditioning[MASKED]], dim=1)
        text = conditioning["encoder_hidden_states"]
        output = self._unet(latents.to(self.dtype), timesteps, text, return_dict=False)[0]
        return cast(torch.Tensor, output)

    @torch.inference_mode()
    def encode(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Through the VAE, scaled as the UNet knows it."""
        with self._vae_in(self._vae_dtype(precise=False)) as vae:
            posterior = vae.encode(pixels.to(vae.dtype)).latent_dist
            scale = vae.config.scaling_factor
            return posterior.mean.float() * scale, posterior.std.float() * scale

    @torch.inference_mode()
    def decode(self, latents: torch.Tensor, *, precise: bool = False) -> torch.Tensor:
        """Through the VAE, in fp32 if asked or if the checkpoint says that its VAE overflows in less."""
        with self._vae_in(self._vae_dtype(precise)) as vae:
            scaled = (latents / vae.config.scaling_factor).to(vae.dtype)
            return cast(torch.Tensor, vae.decode(scaled, return_dict=False)[0])

    def _vae_dtype(self, precise: bool) -> torch.dtype:
        overflows = self.dtype == torch.float16 and bool(self._vae.config.force_upcast)
        return torch.float32 if precise or overflows else self.dtype

    @contextmanager
    def _vae_in(self, dtype: torch.dtype) -> Iterator[AutoencoderKL]:
        """The VAE in `dtype` for now, then as it was."""
        if self._vae.dtype != dtype:
            self._vae.to(dtype)
        try:
            yield self._vae
        finally:
            if self._vae.dtype != self.dtype:
                self._vae.to(self.dtype)


def load(checkpoint: Checkpoint, device: Device, report: Callable[[float], None]) -> StableDiffusion:
    """Read every part, safetensors alone, without network. Raises ModelUnusable."""
    target = torch.device(device.torch_name)
    report(0.05)
    parts: dict[str, Any] = {"tokenizer": load_tokenizer(checkpoint, "tokenizer", CLIPTokenizer)}
    loaders = (("text_encoder", CLIPTextModel), ("unet", UNet2DConditionModel), ("vae", AutoencoderKL))
    for count, (name, cls) in enumerate(loaders, start=1):
        part = load_part(checkpoint, name, cls)
        if device.backend == "cpu" and name != "text_encoder":  # a tenth faster, by oneDNN's kernels
            part = part.to(memory_format=torch.channels_last)
        parts[name] = part.to(target)
        report(0.05 + 0.95 * count / len(loaders))
    _require_words(parts["tokenizer"], parts["text_encoder"])
    return StableDiffusion(checkpoint, device=target, **parts)


def _require_words(tokenizer: CLIPTokenizer, text_encoder: CLIPTextModel) -> None:
    """A tokenizer without its files is an empty one, and says nothing about it."""
    config = text_encoder.config
    knows_bytes = 256 <= len(tokenizer) <= config.vocab_size
    if not knows_bytes or tokenizer.model_max_length > config.max_position_embeddings:
        raise ModelUnusable("the model's tokenizer is incomplete or does not fit its text encoder")
