"""Waiting for a device: what is timed, and told, has happened then."""

from __future__ import annotations

import torch


def wait_for(device: torch.device) -> None:
    """Until it has done what it was told to do. The CPU always has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
