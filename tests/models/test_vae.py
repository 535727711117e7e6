"""The scale of latents: what the stock pipelines hand to the denoiser, and take back."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.models.tiny_parts import FLOW_VAE, vae
from worker.models.vae import Vae

PER_CHANNEL = {"latents_mean": [-1.6, 1.0, 0.0, -0.8], "latents_std": [8.0, 5.0, 6.0, 5.0], "scaling_factor": 0.5}


@pytest.mark.parametrize(("channels", "config"), [(4, {"scaling_factor": 0.13025}), (16, FLOW_VAE), (4, PER_CHANNEL)])
def test_what_is_encoded_is_decoded(channels: int, config: dict[str, Any]) -> None:
    torch.manual_seed(0)
    stock = vae(channels, **config).eval()
    ours = Vae(stock, torch.float32)
    assert ours.latent_shape(32, 24) == (channels, 12, 16)
    pixels = torch.randn(1, 3, 24, 32).clamp(-1, 1)
    with torch.inference_mode():
        posterior = stock.encode(pixels).latent_dist
        mean, deviation = ours.encode(pixels)
        raw = posterior.mean
        assert torch.allclose(ours.decode(mean), stock.decode(raw).sample, atol=1e-4)
        # A sample of the scaled posterior is the scaled sample.
        noise = torch.randn(raw.shape)
        sample = ours.decode(mean + deviation * noise)
        assert torch.allclose(sample, stock.decode(raw + posterior.std * noise).sample, atol=1e-4)


def test_the_scale_is_the_checkpoints() -> None:
    def scaled(raw: float, **config: Any) -> list[float]:
        made = Vae(vae(4, **config), torch.float32)
        latent = (torch.full((1, 4, 1, 1), raw) - made._shift) * made._scale
        return [round(value, 4) for value in latent.flatten().tolist()]

    assert scaled(2.0, scaling_factor=0.5) == [1.0] * 4
    assert scaled(2.0, scaling_factor=0.5, shift_factor=0.4) == [0.8] * 4
    assert scaled(2.0, **PER_CHANNEL) == [
        round((2.0 - m) * 0.5 / s, 4) for m, s in ((-1.6, 8), (1, 5), (0, 6), (-0.8, 5))
    ]
