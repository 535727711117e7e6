"""What the device's memory was seen to hold, for the answer to a job that it does not."""

from __future__ import annotations

from worker.errors import OutOfMemory
from worker.jobs.params import JobParams


class Fitting:
    """Remembers the largest picture that was drawn to its end."""

    def __init__(self) -> None:
        self._largest: JobParams | None = None

    def drawn(self, params: JobParams) -> None:
        """A picture of this job is finished."""
        if self._largest is None or _area(params) > _area(self._largest):
            self._largest = params

    def refusal(self, asked: JobParams) -> OutOfMemory:
        """Says what did not fit, and what would."""
        told = f"The device's memory does not hold a picture of {asked.width} x {asked.height}"
        if self._largest is not None and _area(self._largest) < _area(asked):
            return OutOfMemory(f"{told}; one of {self._largest.width} x {self._largest.height} has fit")
        return OutOfMemory(f"{told}; a smaller one, or one without guidance, may fit")


def _area(params: JobParams) -> int:
    return params.width * params.height
