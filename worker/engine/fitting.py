"""What the device's memory was seen to hold, for the answer to a job that it does not."""

from __future__ import annotations

import math

from worker.errors import OutOfMemory
from worker.jobs.params import JobParams


class Fitting:
    """Remembers the largest picture that was drawn to its end. `padded`: every call has all its rows."""

    def __init__(self, *, padded: bool = False) -> None:
        self._padded = padded
        self._largest = (0, 0)

    def drawn(self, params: JobParams) -> None:
        """A picture of this job is finished."""
        if params.width * params.height > math.prod(self._largest):
            self._largest = (params.width, params.height)

    def refusal(self, asked: JobParams) -> OutOfMemory:
        """Says what did not fit, and what would."""
        if asked.upscale is not None and asked.upscale.by_network:
            told = f"The device's memory does not hold the upscaler {asked.upscale.upscaler} and a tile"
            return OutOfMemory(f"{told}; a picture of any size takes as much")
        told = f"The device's memory does not hold a picture of {asked.width} x {asked.height}"
        if asked.reads_files:
            told += " with its LoRAs or ControlNets"
        if 0 < math.prod(self._largest) < asked.width * asked.height:
            width, height = self._largest
            return OutOfMemory(f"{told}; one of {width} x {height} has fit")
        if self._padded:
            return OutOfMemory(f"{told}; a smaller one may fit, or any with a lower --max-rows of the worker")
        return OutOfMemory(f"{told}; a smaller one, or one without guidance, may fit")
