"""Stable Diffusion 3 and 3.5: two CLIP text encoders and a T5, a transformer that flows, a VAE of sixteen channels.

Esser et al., "Scaling Rectified Flow Transformers", 2024.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from transformers import CLIPTextModelWithProjection, CLIPTokenizer, T5EncoderModel, T5Tokenizer

from shared_worker.device import Device
from worker.errors import InvalidInput
from worker.models.base import Conditioning
from worker.models.checkpoint import Checkpoint
from worker.models.contents import parts_of
from worker.models.imports import put_off_siblings
from worker.models.loras.adapters import Adapters
from worker.models.parts import TORCH_DTYPES, load_parts
from worker.models.prompts.clip import ClipEncoder, encode_side_by_side
from worker.models.prompts.t5 import t5_tokens
from worker.models.vae import Vae

put_off_siblings()
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL  # noqa: E402
from diffusers.models.transformers.transformer_sd3 import SD3Transformer2DModel  # noqa: E402

PARTS = {
    "tokenizer": CLIPTokenizer,
    "tokenizer_2": CLIPTokenizer,
    "text_encoder": CLIPTextModelWithProjection,
    "text_encoder_2": CLIPTextModelWithProjection,
    "transformer": SD3Transformer2DModel,
    "vae": AutoencoderKL,
}
T5_PARTS = {"tokenizer_3": T5Tokenizer, "text_encoder_3": T5EncoderModel}
"""What a checkpoint may come without."""


class StableDiffusion3:
    """The parts of a checkpoint, on one device."""

    takes_mask = False

    def __init__(
        self,
        checkpoint: Checkpoint,
        device: torch.device,
        *,
        tokenizer: CLIPTokenizer,
        tokenizer_2: CLIPTokenizer,
        text_encoder: CLIPTextModelWithProjection,
        text_encoder_2: CLIPTextModelWithProjection,
        transformer: SD3Transformer2DModel,
        vae: AutoencoderKL,
        tokenizer_3: T5Tokenizer | None = None,
        text_encoder_3: T5EncoderModel | None = None,
    ) -> None:
        self.facts = checkpoint.facts
        self.device = device
        self.dtype = TORCH_DTYPES[checkpoint.facts.dtype]
        self.scheduler_config: Mapping[str, Any] = {
            **checkpoint.config("scheduler"),
            "patch_size": transformer.config.patch_size,
        }
        self._clips = tuple(
            ClipEncoder(own_tokenizer, encoder, self._hidden_of(encoder), number=k, embeddings=checkpoint.embeddings)
            for k, (own_tokenizer, encoder) in enumerate(((tokenizer, text_encoder), (tokenizer_2, text_encoder_2)))
        )
        self._tokenizer_3 = tokenizer_3
        self._text_encoder_3 = text_encoder_3
        self._text_length = checkpoint.family.text_length
        self._transformer = transformer
        self.adapters = Adapters(
            checkpoint.loras,
            checkpoint.family.name,
            device,
            self.dtype,
            transformer=transformer,
            text_encoder=text_encoder,
            text_encoder_2=text_encoder_2,
        )
        self._vae = Vae(vae, self.dtype)

    def scheduler(self, sampler: str) -> Any:
        """There is none: flows have formulas. Raises KeyError."""
        raise KeyError(sampler)

    def latent_shape(self, width_px: int, height_px: int) -> tuple[int, int, int]:
        """(16, H/8, W/8)."""
        return self._vae.latent_shape(width_px, height_px)

    def guides(self, guidance_scale: float) -> bool:
        """By a second row, as Stable Diffusion."""
        return guidance_scale > 1.0

    def frame(self, width_px: int, height_px: int, guidance_scale: float) -> Mapping[str, torch.Tensor]:
        """Nothing."""
        return {}

    @torch.inference_mode()
    def encode_prompt(self, text: str | None) -> Conditioning:
        """The last hidden states but one of both CLIPs, side by side, what both pool, and T5's hidden states.

        A prompt that was not given is the empty one.
        """
        clip = encode_side_by_side(text or "", *self._clips)
        assert clip.pooled is not None
        t5, warnings = self._t5(text or "")
        tensors = {
            "clip": clip.hidden.to(self.dtype),  # [1, 77 chunks, width + width_2]
            "t5": t5.to(self.dtype),  # [1, 256, joint width]
            "pooled_projections": clip.pooled.to(self.dtype),  # [1, projection + projection_2]
        }
        return Conditioning(tensors, tuple(dict.fromkeys((*clip.warnings, *warnings))))

    def _hidden_of(self, encoder: Any) -> Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]:
        def last_but_one(ids: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            encoded = encoder(ids.to(self.device), output_hidden_states=True)
            return encoded.hidden_states[-2], encoded.text_embeds

        return last_but_one

    def _t5(self, text: str) -> tuple[torch.Tensor, tuple[str, ...]]:
        """Zeros for a checkpoint without a T5, as the stock pipeline has it."""
        if self._text_encoder_3 is None:
            width = self._transformer.config.joint_attention_dim
            return torch.zeros((1, self._text_length, width), device=self.device), ()
        tokens = t5_tokens(self._tokenizer_3, text, self._text_length)
        return self._text_encoder_3(tokens.ids.to(self.device))[0], tokens.warnings

    def control(self, name: str) -> object:
        """None is served. Raises InvalidInput."""
        raise InvalidInput("ControlNets for Stable Diffusion 3 are not served")

    def let_go(self) -> bool:
        """Adapters: there is nothing else."""
        return self.adapters.let_go()

    @torch.inference_mode()
    def predict(
        self, latents: torch.Tensor, timesteps: torch.Tensor, conditioning: Mapping[str, torch.Tensor]
    ) -> torch.Tensor:
        """One forward of the transformer, which reads CLIP's tokens, filled with zeros to T5's width, before T5's."""
        clip, t5 = conditioning["clip"], conditioning["t5"]
        clip = torch.nn.functional.pad(clip, (0, t5.shape[-1] - clip.shape[-1]))
        output = self._transformer(
            hidden_states=latents.to(self.dtype),
            timestep=timesteps,
            encoder_hidden_states=torch.cat([clip, t5], dim=1),
            pooled_projections=conditioning["pooled_projections"],
            return_dict=False,
        )[0]
        return cast(torch.Tensor, output)

    def encode(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Through the VAE."""
        return self._vae.encode(pixels)

    def decode(self, latents: torch.Tensor, *, precise: bool = False) -> torch.Tensor:
        """Through the VAE."""
        return self._vae.decode(latents, precise=precise)


def load(checkpoint: Checkpoint, device: Device, report: Callable[[float], None]) -> StableDiffusion3:
    """Read every part, safetensors alone, without network. Raises ModelUnusable."""
    classes = PARTS | (T5_PARTS if "text_encoder_3" in parts_of(checkpoint.source, checkpoint.family) else {})
    parts = load_parts(checkpoint, device, classes, report)
    return StableDiffusion3(checkpoint, torch.device(device.torch_name), **parts)
