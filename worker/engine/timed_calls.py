"""Model calls that nobody asked for, made to learn how long they take and how many rows fit into memory."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import torch

from worker.engine.device_memory import DeviceMemory
from worker.engine.device_waiting import wait_for

if TYPE_CHECKING:
    from worker.models.base import Conditioning, Model

TOO_LONG_S = 10.0
"""A call that is only to be timed."""


class TimedCalls:
    """Of latents at random, with nothing asked for. `memory` is that of the model's device, with room left to decode a
    picture of the model's own size."""

    def __init__(self, model: Model) -> None:
        self.memory = DeviceMemory(model.device, self._decode_nothing)
        self._model = model
        self._nothing: Conditioning | None = None
        self._was_timed = False

    def time(self, rows: int) -> tuple[float, int | None]:
        """The seconds of a call, and the rows that memory would hold, None where that is not known.

        One that is going to take long is not made at all, since a job may come in the middle of it: what smaller
        pictures take says enough. May lack memory.
        """
        facts = self._model.facts
        if not self._was_timed:
            expected_s = self._expected_s(rows)
            if expected_s > TOO_LONG_S:
                return expected_s, None
        self._was_timed = True
        took_s = 0.0

        def call() -> None:
            nonlocal took_s
            took_s = self._seconds(rows, facts.width, facts.height)

        fitting = self.memory.rows_that_fit(rows, call)
        return took_s, fitting

    def _expected_s(self, rows: int) -> float:
        """What a call for pictures of a quarter of the sides takes, as often as it goes into them: hardly too much."""
        facts = self._model.facts
        width, height = (max(1, side // 4 // facts.multiple) * facts.multiple for side in (facts.width, facts.height))
        self._seconds(rows, width, height)  # finds its kernels
        return self._seconds(rows, width, height) * (facts.width * facts.height) / (width * height)

    def _seconds(self, rows: int, width_px: int, height_px: int) -> float:
        """Of one call."""
        device = self._model.device
        latents = torch.randn((rows, *self._model.latent_shape(width_px, height_px))).to(device)
        timesteps = torch.full((rows,), 500.0, device=device)
        self._nothing = self._nothing or self._model.encode_prompt("")
        seen = {**self._nothing.tensors, **self._frame_of_nothing(width_px, height_px)}
        tensors = {name: tensor.expand(rows, *tensor.shape[1:]) for name, tensor in seen.items()}
        wait_for(device)
        started = time.perf_counter()
        self._model.predict(latents, timesteps, tensors)
        wait_for(device)
        return time.perf_counter() - started

    def _frame_of_nothing(self, width_px: int, height_px: int) -> dict[str, torch.Tensor]:
        """What a row of that size has beside the text."""
        frame = dict(self._model.frame(width_px, height_px, self._model.facts.guidance_scale))
        if self._model.takes_mask:
            channels, *place = self._model.latent_shape(width_px, height_px)
            frame["masked"] = torch.zeros((1, 1 + channels, *place), device=self._model.device)
        return frame

    def _decode_nothing(self) -> None:
        """What a picture of the model's own size takes to decode."""
        facts = self._model.facts
        shape = self._model.latent_shape(facts.width, facts.height)
        self._model.decode(torch.zeros((1, *shape), device=self._model.device))
