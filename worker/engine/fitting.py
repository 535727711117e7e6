"""What the device's memory was seen to hold, for the answer to a job that it does not."""

from __future__ import annotations

import math

from worker.errors import OutOfMemory
from worker.jobs.params import JobParams


class Fitting:
    """Remembers the largest picture that was drawn to its end."""

    def __init__(self) -> None:
        self._largest = (0, 0)

    def drawn(self, params: JobParams) -> None:
        """A picture of this job is finished."""
        if params.width * params.height > math.prod(self._largest):
            self._largest = (params.width, params.height)

    def refusal(self, asked: JobParams) -> OutOfMemory:
        """Says what did not fit, and what would."""
        told = f"The device's memory does not hold a picture of {asked.width} x {asked.height}"
        if 0 < math.prod(self._largest) < asked.width * asked.height:
            width, height = self._largest
            return OutOfMemory(f"{told}; one of {width} x {height} has fit")
        return OutOfMemory(f"{told}; a smaller one, or one without guidance, may fit")
