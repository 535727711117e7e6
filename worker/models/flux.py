"""FLUX.1 dev and schnell: pooled text of a CLIP, hidden states of a T5, a transformer that flows over packed latents.

Its tokens are two by two places of the latent; the engine's latents are not packed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from transformers import CLIPTextModel, CLIPTokenizer, T5EncoderModel, T5Tokenizer

from shared_worker.device import Device
from worker.errors import InvalidInput
from worker.models.base import Conditioning
from worker.models.checkpoint import Checkpoint
from worker.models.imports import put_off_siblings
from worker.models.loras.adapters import Adapters
from worker.models.parts import TORCH_DTYPES, load_parts
from worker.models.prompts.clip import ClipEncoder
from worker.models.prompts.t5 import t5_tokens
from worker.models.vae import Vae

put_off_siblings()
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL  # noqa: E402
from diffusers.models.transformers.transformer_flux import FluxTransformer2DModel  # noqa: E402

PARTS = {
    "tokenizer": CLIPTokenizer,
    "tokenizer_2": T5Tokenizer,
    "text_encoder": CLIPTextModel,
    "text_encoder_2": T5EncoderModel,
    "transformer": FluxTransformer2DModel,
    "vae": AutoencoderKL,
}
PATCH = 2


class Flux:
    """The parts of a checkpoint, on one device."""

    takes_mask = False

    def __init__(
        self,
        checkpoint: Checkpoint,
        device: torch.device,
        *,
        tokenizer: CLIPTokenizer,
        tokenizer_2: T5Tokenizer,
        text_encoder: CLIPTextModel,
        text_encoder_2: T5EncoderModel,
        transformer: FluxTransformer2DModel,
        vae: AutoencoderKL,
    ) -> None:
        self.facts = checkpoint.facts
        self.device = device
        self.dtype = TORCH_DTYPES[checkpoint.facts.dtype]
        scheduler = checkpoint.config("scheduler")
        self.scheduler_config: Mapping[str, Any] = {**scheduler, "patch_size": PATCH, "even_sigmas": True}
        self._text_encoder = text_encoder
        self._clip = ClipEncoder(
            tokenizer, text_encoder, self._pooled, embeddings=checkpoint.embeddings, first_alone=True
        )
        self._tokenizer_2 = tokenizer_2
        self._text_encoder_2 = text_encoder_2
        self._text_length = checkpoint.family.text_length
        self._transformer = transformer
        self.adapters = Adapters(
            checkpoint.loras,
            checkpoint.family.name,
            device,
            self.dtype,
            transformer=transformer,
            text_encoder=text_encoder,
        )
        self._knows_guidance = bool(transformer.config.guidance_embeds)
        self._vae = Vae(vae, self.dtype)

    def scheduler(self, sampler: str) -> Any:
        """There is none: flows have formulas. Raises KeyError."""
        raise KeyError(sampler)

    def latent_shape(self, width_px: int, height_px: int) -> tuple[int, int, int]:
        """(16, H/8, W/8)."""
        return self._vae.latent_shape(width_px, height_px)

    def guides(self, guidance_scale: float) -> bool:
        """Never by a second row: guidance was distilled into the model, or it has none."""
        return False

    def frame(self, width_px: int, height_px: int, guidance_scale: float) -> Mapping[str, torch.Tensor]:
        """`guidance`, where the transformer takes it.  # [1]"""
        return {"guidance": torch.tensor([guidance_scale], device=self.device)} if self._knows_guidance else {}

    @torch.inference_mode()
    def encode_prompt(self, text: str | None) -> Conditioning:
        """What CLIP pools of the first chunk, and T5's hidden states, which read all of the prompt."""
        clip = self._clip.encode(text or "")
        assert clip.pooled is not None
        tokens = t5_tokens(self._tokenizer_2, text or "", self._text_length)
        hidden = self._text_encoder_2(tokens.ids.to(self.device))[0]
        tensors = {
            "encoder_hidden_states": hidden.to(self.dtype),  # [1, 256 or 512, width]
            "pooled_projections": clip.pooled.to(self.dtype),  # [1, width of CLIP]
        }
        return Conditioning(tensors, tuple(dict.fromkeys((*clip.warnings, *tokens.warnings))))

    def _pooled(self, ids: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        encoded = self._text_encoder(ids.to(self.device))
        return encoded.last_hidden_state, encoded.pooler_output

    def control(self, name: str) -> object:
        """None is served. Raises InvalidInput."""
        raise InvalidInput("ControlNets for FLUX are not served")

    def let_go(self) -> bool:
        """Adapters: there is nothing else."""
        return self.adapters.let_go()

    @torch.inference_mode()
    def predict(
        self, latents: torch.Tensor, timesteps: torch.Tensor, conditioning: Mapping[str, torch.Tensor]
    ) -> torch.Tensor:
        """One forward of the transformer. All of the text stands at one position, each token of the latent at its own.

        Both are the same for every row, since texts have one length and rows of a call one size.
        """
        height, width = latents.shape[2:]
        text = conditioning["encoder_hidden_states"]
        output = self._transformer(
            hidden_states=pack(latents).to(self.dtype),
            timestep=timesteps / 1000,
            guidance=conditioning.get("guidance"),
            pooled_projections=conditioning["pooled_projections"],
            encoder_hidden_states=text,
            txt_ids=torch.zeros((text.shape[1], 3), device=self.device),
            img_ids=positions(height // PATCH, width // PATCH, self.device),
            return_dict=False,
        )[0]
        return unpack(output, height, width)

    def encode(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Through the VAE."""
        return self._vae.encode(pixels)

    def decode(self, latents: torch.Tensor, *, precise: bool = False) -> torch.Tensor:
        """Through the VAE."""
        return self._vae.decode(latents, precise=precise)


def pack(latents: torch.Tensor) -> torch.Tensor:
    """Two by two places as one token, row by row.  # [rows, C, h, w] -> [rows, h/2 w/2, 4 C]"""
    return torch.nn.functional.pixel_unshuffle(latents, PATCH).flatten(2).transpose(1, 2)


def unpack(tokens: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """The way back, to a latent of this size.  # [rows, h/2 w/2, 4 C] -> [rows, C, h, w]"""
    places = tokens.transpose(1, 2).unflatten(2, (height // PATCH, width // PATCH))
    return torch.nn.functional.pixel_shuffle(places, PATCH)


def positions(height: int, width: int, device: torch.device) -> torch.Tensor:
    """Of each token of a latent: nought, its line, its column.  # [height width, 3]"""
    lines, columns = torch.meshgrid(
        torch.arange(height, device=device), torch.arange(width, device=device), indexing="ij"
    )
    return torch.stack([torch.zeros_like(lines), lines, columns], dim=-1).flatten(0, 1).float()


def load(checkpoint: Checkpoint, device: Device, report: Callable[[float], None]) -> Flux:
    """Read every part, safetensors alone, without network. Raises ModelUnusable."""
    return Flux(checkpoint, torch.device(device.torch_name), **load_parts(checkpoint, device, PARTS, report))
