"""Trains the built-in model's VAE: 128 px pictures to 4 x 16 x 16 latents and back.

First both halves together, mostly on 64 px pieces, which cost a quarter; then, with the encoder and so all latents
standing still, the decoder alone on whole pictures, with an eye on figures and their outlines.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
from diffusers import AutoencoderKL
from torch import nn

from worker.models.builtin.training import scenes
from worker.models.builtin.training.stage import Stage

BATCH = 16
DECODER_BATCH = 8
PIECE_PX = 64
FACTOR = 8
"""Pixels along the side of one latent place."""
NOISE = 0.1
"""Standard deviation of what is added to a latent of variance 1 before it is decoded, in training."""
SPREAD = 0.03
"""Standard deviation of the posterior: a constant, as none is learned."""
WHOLE_FROM = 0.88
"""From this share of the steps on, pictures are shown whole: group normalisation looks at all it is given."""
COLOUR_WEIGHT = 0.2
WHITE_WEIGHT = 0.05


def build() -> AutoencoderKL:
    """The VAE, untrained."""
    return AutoencoderKL(
        block_out_channels=(16, 32, 64, 64),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        mid_block_add_attention=False,
        sample_size=scenes.SIZE_PX,
    )


def to_tensor(pictures: npt.NDArray[np.uint8]) -> torch.Tensor:
    """Pixels as the VAE reads them, -1 to 1.  # [n, 3, H, W]"""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1.0


def train(stage: Stage, vae: AutoencoderKL, pictures: npt.NDArray[np.uint8], weights: torch.Tensor) -> AutoencoderKL:
    """Train `vae` on `pictures`  # [n, 128, 128, 3];  `weights` say what each latent place counts.  # [n, 1, 16, 16]

    In place of the KL term, which lets channels collapse, latents are held at mean 0, variance 1 and no correlation,
    and the decoder gets them with the same noise on every channel. So what tells two colours apart must be large
    beside that noise, and a denoiser's small errors stay small in the picture.
    """
    vae.to(stage.device).requires_grad_(True)
    # Three directions are to tell a place's mean colour, linearly: the eye's distances become the latent's.
    colour = nn.Conv2d(vae.config.latent_channels, 3, 1).to(stage.device)

    def loss_at(step: int, generator: torch.Generator) -> torch.Tensor:
        chosen = torch.randint(0, len(pictures), (BATCH,), generator=generator)
        batch, weight = to_tensor(pictures[chosen.numpy()]), weights[chosen].float()
        if step < WHOLE_FROM * stage.steps:
            y, x = torch.randint(0, (scenes.SIZE_PX - PIECE_PX) // FACTOR + 1, (2,), generator=generator).tolist()
            weight = weight[:, :, y : y + PIECE_PX // FACTOR, x : x + PIECE_PX // FACTOR]
            y, x = FACTOR * y, FACTOR * x
            batch = batch[:, :, y : y + PIECE_PX, x : x + PIECE_PX]
        batch, weight = batch.to(stage.device), weight.to(stage.device)
        with stage.autocast():
            latents = vae.encode(batch).latent_dist.mean
            noisy = latents + NOISE * torch.randn(latents.shape, generator=generator).to(stage.device)
            decoded, told = vae.decode(noisy).sample, colour(noisy)
        seen = nn.functional.avg_pool2d(batch, FACTOR)
        loss: torch.Tensor = (
            difference(decoded, batch, weight)
            + COLOUR_WEIGHT * ((told.float() - seen) ** 2).mean()
            + WHITE_WEIGHT * crookedness(latents.float())
        )
        return loss

    stage.run({"vae": vae, "colour": colour}, loss_at)
    vae.eval().requires_grad_(False)
    return vae


def train_decoder(
    stage: Stage, vae: AutoencoderKL, pictures: npt.NDArray[np.uint8], weights: torch.Tensor
) -> AutoencoderKL:
    """Go on with the decoder of a trained `vae`, on whole pictures; shapes as in `train`."""
    decoder = nn.ModuleList([vae.decoder, vae.post_quant_conv]).requires_grad_(True)

    def loss_at(step: int, generator: torch.Generator) -> torch.Tensor:
        chosen = torch.randint(0, len(pictures), (DECODER_BATCH,), generator=generator)
        batch = to_tensor(pictures[chosen.numpy()]).to(stage.device)
        with stage.autocast():
            with torch.no_grad():
                latents = vae.encode(batch).latent_dist.mean
            decoded = vae.decode(latents + NOISE * torch.randn(latents.shape, generator=generator).to(latents)).sample
        return difference(decoded, batch, weights[chosen].float().to(stage.device))

    stage.run({"decoder": decoder}, loss_at)
    vae.eval().requires_grad_(False)
    return vae


def difference(decoded: torch.Tensor, pictures: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """L1 + MSE  # [n, 3, H, W],  each latent place counting as `weight` says.  # [n, 1, H / 8, W / 8]"""
    error = decoded.float() - pictures
    weight = nn.functional.interpolate(weight, scale_factor=float(FACTOR))
    return (weight * (error.abs() + error**2)).mean()


def crookedness(latents: torch.Tensor) -> torch.Tensor:
    """How far the channels of `latents` are from mean 0, variance 1 and no correlation.  # [n, C, h, w] -> []"""
    places = latents.transpose(0, 1).flatten(1)  # [C, n * h * w]
    excess = torch.cov(places) - torch.eye(len(places), device=places.device)
    return (places.mean(dim=1) ** 2).mean() + (excess**2).mean()


@torch.no_grad()
def whiten(vae: AutoencoderKL, latents: torch.Tensor) -> None:
    """Turn and stretch the latent space until channels have mean 0, variance 1 and no correlation.

    `latents` are what it encodes to now.  # [n, 4, 16, 16]. Training leaves them near to this, batch by batch; here
    it is made exact. The map goes into the convolutions next to the latent, so what is decoded stays the same.
    """
    places = latents.permute(1, 0, 2, 3).flatten(1).double()  # [4, n * 16 * 16]
    mean = places.mean(dim=1)
    variances, directions = torch.linalg.eigh(torch.cov(places))
    # ZCA: of all whitenings the one that turns least.
    forward = directions @ torch.diag(variances.rsqrt()) @ directions.T  # [4, 4]
    backward = directions @ torch.diag(variances.sqrt()) @ directions.T
    channels, quant, post, conv_in = len(mean), vae.quant_conv, vae.post_quant_conv, vae.decoder.conv_in

    outer, inner = quant.weight.double()[:, :, 0, 0], post.weight.double()[:, :, 0, 0]
    map_in = torch.cat([forward @ outer[:channels], torch.zeros_like(outer[channels:])])
    bias_in = torch.cat(
        [forward @ (quant.bias.double()[:channels] - mean), torch.full_like(mean, 2 * math.log(SPREAD))]
    )
    quant.weight.copy_(map_in[:, :, None, None])
    quant.bias.copy_(bias_in)
    # Behind the latent the whole map stands in one convolution, where half precision rounds each channel by its own
    # size; before that convolution's zero padding there is only a shift.
    map_out = inner @ backward
    post.bias.copy_(torch.linalg.solve(map_out, post.bias.double() + inner @ mean))
    post.weight.copy_(torch.eye(channels, device=post.weight.device)[:, :, None, None])
    conv_in.weight.copy_(torch.einsum("oihw,ij->ojhw", conv_in.weight.double(), map_out))
    vae.register_to_config(scaling_factor=1.0)


@torch.no_grad()
def encode(vae: AutoencoderKL, pictures: npt.NDArray[np.uint8], stage: Stage) -> torch.Tensor:
    """The latents' means, unscaled, in half precision.  # [n, 4, 16, 16]"""
    latents = []
    for start in range(0, len(pictures), 64):
        batch = to_tensor(pictures[start : start + 64]).to(stage.device)
        with stage.autocast():
            latents.append(vae.encode(batch).latent_dist.mean.half().cpu())
    return torch.cat(latents)


@torch.no_grad()
def psnr(vae: AutoencoderKL, pictures: npt.NDArray[np.uint8], stage: Stage) -> float:
    """How well `pictures` survive there and back, in decibels."""
    batch = to_tensor(pictures).to(stage.device)
    decoded = vae.decode(vae.encode(batch).latent_dist.mean).sample.clamp(-1, 1)
    return float(10 * torch.log10(4.0 / ((decoded - batch) ** 2).mean()))
