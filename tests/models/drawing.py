"""The picture of a tiny checkpoint, through the whole path: loaded, encoded, denoised, decoded."""

from __future__ import annotations

from shared_worker.device import find_device
from tests.models.tiny import job
from worker.engine.denoiser import Denoiser
from worker.engine.runner import Pixels
from worker.models.checkpoint import Checkpoint


def draw(checkpoint: Checkpoint) -> Pixels:
    """Always the same job, on the CPU.  # [H, W, 3]"""
    denoiser = Denoiser(lambda report: checkpoint.load(find_device("cpu"), report))
    denoiser.load(lambda share: None)
    [drawing] = denoiser.open(job())
    while not drawing.done:
        denoiser.step([drawing])
    return denoiser.finish(drawing)
