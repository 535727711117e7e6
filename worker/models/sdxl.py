"""Stable Diffusion XL: Stable Diffusion with a second text encoder, whose pooled text it sees with the picture's size.

Podell et al., "SDXL", 2023, sections 2.1 and 2.2.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from shared_worker.device import Device
from worker.models.base import Conditioning
from worker.models.checkpoint import Checkpoint
from worker.models.imports import put_off_siblings
from worker.models.parts import load_parts
from worker.models.prompts.clip import ClipEncoder, encode_side_by_side
from worker.models.sd import StableDiffusion

put_off_siblings()
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL  # noqa: E402
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel  # noqa: E402

PARTS = {
    "tokenizer": CLIPTokenizer,
    "tokenizer_2": CLIPTokenizer,
    "text_encoder": CLIPTextModel,
    "text_encoder_2": CLIPTextModelWithProjection,
    "unet": UNet2DConditionModel,
    "vae": AutoencoderKL,
}


class StableDiffusionXL(StableDiffusion):
    """The parts of a checkpoint, on one device."""

    _vae_may_overflow = True

    def __init__(
        self,
        checkpoint: Checkpoint,
        device: torch.device,
        *,
        tokenizer_2: CLIPTokenizer,
        text_encoder_2: CLIPTextModelWithProjection,
        **parts: Any,
    ) -> None:
        super().__init__(checkpoint, device, **parts)
        self._text_encoder_2 = text_encoder_2
        self.adapters = self._adapters(checkpoint, text_encoder=self._text_encoder, text_encoder_2=text_encoder_2)
        self._prompts_2 = ClipEncoder(
            tokenizer_2, text_encoder_2, self._hidden_2, number=1, embeddings=checkpoint.embeddings
        )
        self._nothing_is_zeros = bool(checkpoint.index.get("force_zeros_for_empty_prompt", True))

    @torch.inference_mode()
    def encode_prompt(self, text: str | None) -> Conditioning:
        """Both encoders' last hidden states but one, side by side, and what the second pools of the first chunk.

        Where the checkpoint says so, a negative prompt that was not given is zeros, and not the empty prompt.
        """
        encoded = encode_side_by_side(text or "", self._prompts, self._prompts_2)
        assert encoded.pooled is not None
        tensors = {
            "encoder_hidden_states": encoded.hidden.to(self.dtype),  # [1, 77 chunks, width + width_2]
            "text_embeds": encoded.pooled.to(self.dtype),  # [1, projection]
        }
        if text is None and self._nothing_is_zeros:
            zeros = {name: torch.zeros_like(tensor) for name, tensor in tensors.items()}
            return Conditioning(zeros, filler=zeros)
        return Conditioning(tensors, encoded.warnings)

    def frame(self, width_px: int, height_px: int, guidance_scale: float) -> Mapping[str, torch.Tensor]:
        """`time_ids` also: the size before it was cut, where it was cut, the size it was cut to.  # [1, 6]"""
        sizes = [height_px, width_px, 0, 0, height_px, width_px]
        time_ids = torch.tensor([sizes], dtype=torch.float32, device=self.device)
        return {**super().frame(width_px, height_px, guidance_scale), "time_ids": time_ids}

    def _hidden(self, ids: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, None]:
        encoded = self._text_encoder(ids.to(self.device), output_hidden_states=True)
        return encoded.hidden_states[-2], None

    def _hidden_2(self, ids: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        encoded = self._text_encoder_2(ids.to(self.device), output_hidden_states=True)
        return encoded.hidden_states[-2], encoded.text_embeds

    def _added(self, conditioning: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {name: conditioning[name] for name in ("text_embeds", "time_ids")}


def load(checkpoint: Checkpoint, device: Device, report: Callable[[float], None]) -> StableDiffusionXL:
    """Read every part, safetensors alone, without network. Raises ModelUnusable."""
    parts = load_parts(checkpoint, device, PARTS, report)
    return StableDiffusionXL(checkpoint, torch.device(device.torch_name), **parts)
