"""Trains the built-in model's VAE: 128 px pictures to the latents that `codes` defines, and back.

The encoder learns the codes themselves, the decoder to draw from codes that are a little wrong, as a denoiser's are.
Most steps see pieces of 64 px, which cost a quarter; the last ones see whole pictures.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
from diffusers import AutoencoderKL
from torch import nn

from worker.models.builtin.training import scenes
from worker.models.builtin.training.codes import CHANNELS, FACTOR, linear_map
from worker.models.builtin.training.stage import Stage

BATCH = 16
PIECE_PX = 64
SPREAD = 0.03
"""Standard deviation of the posterior: a constant, as none is learned."""
WHOLE_FROM = 0.8
"""From this share of the steps on, pictures are shown whole: group normalisation looks at all it is given."""
NOISE = (0.02, 0.35)
"""Least and greatest standard deviation of what is added to each value of a latent before it is decoded. Small ones are
drawn more often: the outlines of small figures show only in latents that are nearly right."""
OFFSET = 0.05
"""Standard deviation of what is added to a whole channel."""
OVERSHOOT = 0.2
"""The most by which a latent is stretched, as guidance does."""


def build() -> AutoencoderKL:
    """The VAE, untrained."""
    return AutoencoderKL(
        block_out_channels=(16, 32, 64, 64),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        latent_channels=CHANNELS,
        norm_num_groups=8,
        mid_block_add_attention=False,
        sample_size=scenes.SIZE_PX,
        scaling_factor=1.0,
    )


def to_tensor(pictures: npt.NDArray[np.uint8]) -> torch.Tensor:
    """Pixels as the VAE reads them, -1 to 1.  # [n, 3, H, W]"""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1.0


def train(
    stage: Stage,
    vae: AutoencoderKL,
    pictures: npt.NDArray[np.uint8],
    latents: torch.Tensor,
    weights: torch.Tensor,
) -> AutoencoderKL:
    """Train `vae` on `pictures`  # [n, 128, 128, 3]  with the `latents` wanted of them.  # [n, 4, 16, 16]

    `weights` say what each latent place counts.  # [n, 1, 16, 16]
    """
    vae.to(stage.device).requires_grad_(True)

    def loss_at(step: int, generator: torch.Generator) -> torch.Tensor:
        # Whole pictures cost four times a piece's time: half as many of them.
        whole = step >= WHOLE_FROM * stage.steps
        chosen = torch.randint(0, len(pictures), (BATCH // 2 if whole else BATCH,), generator=generator)
        batch, wanted, weight = to_tensor(pictures[chosen.numpy()]), latents[chosen].float(), weights[chosen].float()
        if not whole:
            side = PIECE_PX // FACTOR
            y, x = torch.randint(0, wanted.shape[-1] - side + 1, (2,), generator=generator).tolist()
            wanted, weight = (each[:, :, y : y + side, x : x + side] for each in (wanted, weight))
            y, x = FACTOR * y, FACTOR * x
            batch = batch[:, :, y : y + PIECE_PX, x : x + PIECE_PX]
        wrong = disturbed(wanted, generator).to(stage.device)
        batch, wanted, weight = batch.to(stage.device), wanted.to(stage.device), weight.to(stage.device)
        with stage.autocast():
            encoded = vae.encode(batch).latent_dist.mean
            decoded = vae.decode(wrong).sample
        loss: torch.Tensor = difference(decoded, batch, weight) + ((encoded.float() - wanted) ** 2).mean()
        return loss

    stage.run({"vae": vae}, loss_at)
    # The encoder gives means; behind them stand the logarithms of variances, which it never learned.
    vae.requires_grad_(False).quant_conv.weight[CHANNELS:] = 0.0
    vae.quant_conv.bias[CHANNELS:] = 2 * math.log(SPREAD)
    return vae.eval()


def disturbed(latents: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """`latents` as wrong as a denoiser may leave them: stretched, shifted and noisy.  # [n, 4, h, w]"""
    rows = (len(latents), 1, 1, 1)
    stretch = 1.0 + OVERSHOOT * torch.rand(rows, generator=generator)
    shift = OFFSET * torch.randn((len(latents), CHANNELS, 1, 1), generator=generator)
    spread = NOISE[0] + (NOISE[1] - NOISE[0]) * torch.rand(rows, generator=generator) ** 2
    return latents * stretch + shift + spread * torch.randn(latents.shape, generator=generator)


def difference(decoded: torch.Tensor, pictures: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """L1 + MSE  # [n, 3, H, W],  each latent place counting as the square of `weight`.  # [n, 1, H / 8, W / 8]"""
    error = decoded.float() - pictures
    weight = nn.functional.interpolate(weight**2, scale_factor=float(FACTOR))
    return (weight * (error.abs() + error**2)).mean()


@torch.no_grad()
def adopt(
    vae: AutoencoderKL, pictures: npt.NDArray[np.uint8], latents: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Turn a finished `vae` towards the `latents` wanted of `pictures`.  # [n, 4, 16, 16] and [n, 128, 128, 3]

    The encoder as far as a linear map can; the decoder forgets how it took its latents in. Returns the matrices from
    old latents to new ones and back  # [4, 4],  which a denoiser of the old ones needs.
    """
    old = torch.cat([vae.encode(some).latent_dist.mean for some in to_tensor(pictures).split(64)])
    old = old * vae.config.scaling_factor
    forward, onward = linear_map(old, latents)
    backward, _ = linear_map(latents, old)
    quant, post = vae.quant_conv, vae.post_quant_conv
    turn = forward * vae.config.scaling_factor
    quant.weight[:CHANNELS] = torch.einsum("ij,jkhw->ikhw", turn, quant.weight[:CHANNELS].double())
    quant.bias[:CHANNELS] = turn @ quant.bias[:CHANNELS].double() + onward
    post.weight.copy_(torch.eye(CHANNELS)[:, :, None, None])
    post.bias.zero_()
    vae.decoder.conv_in.reset_parameters()
    vae.register_to_config(scaling_factor=1.0)
    return forward, backward


@torch.no_grad()
def survey(vae: AutoencoderKL, pictures: npt.NDArray[np.uint8], latents: torch.Tensor) -> str:
    """How near the encoder comes to `latents`, and how well `pictures` survive there and back, in words."""
    batch = to_tensor(pictures).to(vae.device)
    encoded = vae.encode(batch).latent_dist.mean
    decoded = vae.decode(encoded).sample.clamp(-1, 1)
    error = (encoded.cpu() - latents.float()).square().mean().sqrt()
    return f"latents within {error:.3f} (rms), {10 * torch.log10(4.0 / ((decoded - batch) ** 2).mean()):.1f} dB"
