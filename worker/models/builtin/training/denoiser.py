"""Trains the built-in model's UNet on latents, with the text encoder and the VAE standing still.

v-prediction (Salimans and Ho, "Progressive Distillation", 2022); a tenth of the captions is left out for
classifier-free guidance; figures and their outlines weigh more than the flat background around them.
"""

from __future__ import annotations

import copy

import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextModel

from worker.models.builtin.training import codes
from worker.models.builtin.training.stage import Stage
from worker.models.builtin.training.text_encoder import WIDTH

BATCH = 32
UNCONDITIONAL = 0.1
EMA_DECAY = 0.9995

SCHEDULE = {
    "num_train_timesteps": 1000,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    # Above Stable Diffusion's 0.012: a 16 x 16 latent keeps its mean colour through noise that would hide it
    # in a 64 x 64 one, and a background must not depend on the mean of the initial noise.
    "beta_end": 0.018,
    "prediction_type": "v_prediction",
}


def build() -> UNet2DConditionModel:
    """The UNet, untrained. The text also joins the time embedding (`addition_embed_type`)."""
    return UNet2DConditionModel(
        sample_size=codes.PLACES,
        in_channels=codes.CHANNELS,
        out_channels=codes.CHANNELS,
        block_out_channels=(64, 112, 128),
        down_block_types=("DownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=WIDTH,
        attention_head_dim=2,
        norm_num_groups=16,
        resnet_time_scale_shift="scale_shift",
        addition_embed_type="text",
        addition_embed_type_num_heads=4,
    )


def train(
    stage: Stage,
    unet: UNet2DConditionModel,
    latents: torch.Tensor,
    weights: torch.Tensor,
    encoder: CLIPTextModel,
    ids: torch.Tensor,
    unconditional: torch.Tensor,
) -> UNet2DConditionModel:
    """Train `unet` and return the averaged weights.

    `latents` are scaled  # [n, 4, 16, 16];  `weights` say what a place counts  # [n, 1, 16, 16];
    `ids` are the tokens of k captions of every picture  # [n, k, 77];  `unconditional`, of the empty one  # [77]
    """
    unet.to(stage.device, memory_format=torch.channels_last)
    average = copy.deepcopy(unet).requires_grad_(False)
    alphas = DDPMScheduler(**SCHEDULE).alphas_cumprod.to(stage.device)

    def loss_at(step: int, generator: torch.Generator) -> torch.Tensor:
        chosen = torch.randint(0, len(latents), (BATCH,), generator=generator)
        wording = torch.randint(0, ids.shape[1], (BATCH,), generator=generator)
        asked = ids[chosen, wording].long()
        asked[torch.rand(BATCH, generator=generator) < UNCONDITIONAL] = unconditional.long()
        with torch.no_grad():
            text = encoder(asked.to(stage.device)).last_hidden_state  # [batch, 77, width]
        # Half of the timesteps even, half leaning to the noisy end, where colour, place and shape are decided.
        draw = torch.rand(2, BATCH, generator=generator)
        position = torch.where(draw[0] < 0.5, draw[1], draw[1].sqrt())
        timesteps = (position * 1000).long().clamp(max=999).to(stage.device)
        x_0 = latents[chosen].float().to(stage.device)
        noise = torch.randn(x_0.shape, generator=generator).to(stage.device)
        alpha = alphas[timesteps][:, None, None, None]
        x_t = alpha.sqrt() * x_0 + (1 - alpha).sqrt() * noise
        v = alpha.sqrt() * noise - (1 - alpha).sqrt() * x_0
        with stage.autocast():
            v_pred = unet(x_t, timesteps, text).sample
        loss: torch.Tensor = (weights[chosen].float().to(stage.device) * (v_pred.float() - v) ** 2).mean()
        return loss

    @torch.no_grad()
    def after_step(step: int) -> None:
        decay = min(EMA_DECAY, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(average.parameters()), list(unet.parameters()), 1 - decay)

    stage.run({"unet": unet, "average": average}, loss_at, after_step)
    return average.eval().to(memory_format=torch.contiguous_format)


@torch.no_grad()
def adopt(unet: UNet2DConditionModel, forward: torch.Tensor, backward: torch.Tensor) -> None:
    """Let a finished `unet` work in another latent space: `forward` leads to it, `backward` from it.  # [4, 4]"""
    unet.conv_in.weight.copy_(torch.einsum("oihw,ij->ojhw", unet.conv_in.weight.double(), backward))
    unet.conv_out.weight.copy_(torch.einsum("ij,jkhw->ikhw", forward, unet.conv_out.weight.double()))
    unet.conv_out.bias.copy_(forward @ unet.conv_out.bias.double())


def place_weights(covered: torch.Tensor) -> torch.Tensor:
    """What each latent place counts: 1 on flat ground, up to 4 where an outline runs, with mean 1.

    `covered` is how much of each pixel a figure covers.  # [n, 128, 128] -> [n, 1, 16, 16]
    """
    cells = nn.functional.avg_pool2d(covered[:, None], 8)  # [n, 1, 16, 16]
    least = -nn.functional.max_pool2d(-cells, 3, 1, 1)
    most = nn.functional.max_pool2d(cells, 3, 1, 1)
    weight = 1.0 + cells + 2.0 * (most - least)
    return weight / weight.mean(dim=(2, 3), keepdim=True)
