"""The VAE that every family has: sizes, scale and precision. A latent is scaled as the family's denoiser knows it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import torch

from worker.models.imports import put_off_siblings
from worker.models.parts import to_dtype

put_off_siblings()
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL  # noqa: E402

TILED_ABOVE_PX = 1536 * 1536
"""Each of the tensors at a decoder's full resolution takes 1 KiB a pixel in fp32 (256 channels), and several live at
once. Larger pictures go through the VAE in tiles, which sees a little less of them at a time."""


class Vae:
    """Kept in `dtype`; in fp32 for as long as a call needs that. Pictures above `tiled_above_px` pixels go through it
    in overlapping tiles, by diffusers, so that memory is bounded.

    `may_overflow` says that the family's pipelines look at `force_upcast`, which diffusers sets where nobody does.
    """

    def __init__(
        self,
        vae: AutoencoderKL,
        dtype: torch.dtype,
        tiled_above_px: int = TILED_ABOVE_PX,
        *,
        may_overflow: bool = False,
    ) -> None:
        self._vae = vae
        self._tiled_above_px = tiled_above_px
        self._dtype = dtype
        overflows = may_overflow and dtype == torch.float16 and bool(vae.config.force_upcast)
        self._safe_dtype = torch.float32 if overflows else dtype
        self.channels = int(vae.config.latent_channels)
        self.factor = 2 ** (len(vae.config.block_out_channels) - 1)
        """Pixels along the side of a place of the latent."""
        self._scale, self._shift = _scale_and_shift(vae)

    def latent_shape(self, width_px: int, height_px: int) -> tuple[int, int, int]:
        """(C, H / factor, W / factor)."""
        return self.channels, height_px // self.factor, width_px // self.factor

    @torch.inference_mode()
    def encode(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """As `Model.encode`; in fp32 if its VAE is known to overflow in less, or does."""
        mean, deviation = self._encoded(pixels, self._safe_dtype)
        if self._safe_dtype == torch.float16 and not bool(mean.isfinite().all()):
            return self._encoded(pixels, torch.float32)
        return mean, deviation

    def _encoded(self, pixels: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        with self._in(dtype, pixels.shape[-1] * pixels.shape[-2]) as vae:
            posterior = vae.encode(pixels.to(vae.dtype)).latent_dist
            scale, shift = self._scale.to(pixels.device), self._shift.to(pixels.device)
            return (posterior.mean.float() - shift) * scale, posterior.std.float() * scale

    @torch.inference_mode()
    def decode(self, latents: torch.Tensor, *, precise: bool = False) -> torch.Tensor:
        """As `Model.decode`; in fp32 also if its VAE is known to overflow in less."""
        pixels = latents.shape[-1] * latents.shape[-2] * self.factor**2
        exactly = torch.backends.cudnn.flags(enabled=True, allow_tf32=not precise)  # CUDA rounds to TF32 otherwise
        with exactly, self._in(torch.float32 if precise else self._safe_dtype, pixels) as vae:
            scaled = latents / self._scale.to(latents.device) + self._shift.to(latents.device)
            return cast(torch.Tensor, vae.decode(scaled.to(vae.dtype), return_dict=False)[0])

    @contextmanager
    def _in(self, dtype: torch.dtype, pixels: int) -> Iterator[AutoencoderKL]:
        """The VAE in `dtype` for now, and in tiles if there are so many pixels; then as it was."""
        self._vae.use_tiling = pixels > self._tiled_above_px
        other = dtype != self._dtype
        try:
            if other:
                to_dtype(self._vae, dtype)
            yield self._vae
        finally:
            if other:  # also where memory did not last for all of it
                to_dtype(self._vae, self._dtype)


def _scale_and_shift(vae: AutoencoderKL) -> tuple[torch.Tensor, torch.Tensor]:
    """What a latent of the VAE's own is multiplied by, after the shift is taken off.  # each [1, 1 or C, 1, 1]

    Some checkpoints give a mean and a deviation for each channel instead of one shift.
    """
    config = vae.config
    scale = torch.tensor(float(config.scaling_factor)).view(1, 1, 1, 1)
    mean, deviation = getattr(config, "latents_mean", None), getattr(config, "latents_std", None)
    if mean is not None and deviation is not None:
        return scale / torch.tensor(deviation).view(1, -1, 1, 1), torch.tensor(mean).view(1, -1, 1, 1)
    return scale, torch.tensor(float(getattr(config, "shift_factor", None) or 0.0)).view(1, 1, 1, 1)
