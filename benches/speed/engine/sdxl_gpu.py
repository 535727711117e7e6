"""Row 13: SDXL at 1024² on an NVIDIA GPU. The worker has no such family, so its claims are not measured here.

What can be told is what its UNet alone would take of the device, by rows: the room that batching would have.
"""

from __future__ import annotations

import torch

from benches.speed.bench import Bench
from benches.speed.claims import claims_of
from benches.speed.engine.rate import matrix_tflops, timed_s
from benches.speed.engine.synthetic import sdxl_unet
from benches.speed.outcome import Group, Outcome
from benches.speed.spread import once
from shared_worker.device import find_device

LATENT_PX = 128
UNET_TFLOP = 6.761
"""Of one row's forward at 1024²."""
ROWS = (1, 2, 4, 8, 16)
REASON = "SDXL is not a family of this worker"


def measure(bench: Bench) -> Outcome:
    """The UNet by itself with random weights, in bf16; the claims stay open."""
    device, dtype = find_device(bench.backend).torch_name, torch.bfloat16
    unet = sdxl_unet(device, dtype)
    limit = matrix_tflops(device, dtype) / UNET_TFLOP
    shares = {}
    for rows in ROWS:
        inputs = {
            "sample": torch.randn(rows, 4, LATENT_PX, LATENT_PX, device=device, dtype=dtype),
            "timestep": torch.full((rows,), 500, device=device),
            "encoder_hidden_states": torch.randn(rows, 77, 2048, device=device, dtype=dtype),
            "added_cond_kwargs": {
                "text_embeds": torch.randn(rows, 1280, device=device, dtype=dtype),
                "time_ids": torch.full((rows, 6), 1024, device=device),
            },
        }
        with torch.inference_mode():
            seconds = timed_s(lambda given=inputs: unet(**given), device, rounds=bench.pick(10, 1))  # type: ignore[misc]
        shares[f"{rows} rows"] = once(rows / seconds / limit)
    return Outcome(
        13,
        groups=(Group("a bare UNet forward of SDXL's size, eager", "share of the matrix rate", shares),),
        missing={claim.key: REASON for claim in claims_of(13)},
    )
