"""What the engine needs done on the device, and the one thing both pass back and forth: a `Drawing`.

The engine decides which drawings step together and never sees a tensor; a runner steps them and never sees
a queue.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias, TypeVar

from worker.jobs.params import JobParams
from worker.jobs.tiling import Tile

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

Pixels: TypeAlias = "npt.NDArray[np.uint8]"  # [H, W, 3]


class DeviceLost(Exception):
    """The device will not recover within this process."""


@dataclass(slots=True, eq=False, kw_only=True)
class Drawing:
    """One image of one job on its way from noise to pixels, or one tile of it. Drawings with equal keys can share a
    model call.

    `rows` is what it takes up in that call, each of `pixels`; `turn` when it last stepped (the engine's clock), or
    another tile of its image; `since` when its job `job_id` was accepted (the monotonic clock); `job_left` the steps
    that all images of its job have still to do; `warnings` what its job must say, such as that something of the prompt
    was not used. `tile` is its place in an image that is drawn in several `tiles`; `begun` that one of them has
    stepped. `own_pace`: its steps take as long as they take, `step_s` once that is known, and say nothing of others.
    """

    key: Hashable
    rows: int
    pixels: int
    index: int
    seed: int
    steps: int
    job_id: str = ""
    warnings: tuple[str, ...] = ()
    tile: Tile | None = None
    tiles: int = 1
    own_pace: bool = False
    step_s: float | None = None
    step: int = 0
    turn: int = 0
    since: float = 0.0
    job_left: int = 0
    begun: bool = False

    @property
    def is_new(self) -> bool:
        """Whether nothing of its image has stepped."""
        return self.step == 0 and not self.begun

    @property
    def done(self) -> bool:
        return self.step >= self.steps

    @property
    def share(self) -> float:
        """Its rows as a part of its image: an image in tiles may ask for no more of the device than a whole one."""
        return self.rows / self.tiles

    def end_calls(self) -> None:
        """It takes part in none any more: what only they need is held no longer."""


D = TypeVar("D", bound=Drawing)


class Runner(Protocol[D]):
    """All calls come from the engine's thread. Any may raise a `JobFailure`, or DeviceLost."""

    def load(self, report: Callable[[float], None]) -> None:
        """Load the model; `report` takes a share from 0 to 1. Raises ModelUnusable."""

    def open(self, params: JobParams) -> Iterable[D]:
        """A drawing for each image of a job, or for each of its tiles, at step 0: text encoded, noise drawn, timesteps
        planned. Each comes as soon as it is made; before the next one is asked for, others may step."""

    def step(self, batch: Sequence[D]) -> None:
        """Advance every drawing by one step with one model call; on an error none has changed."""

    def time_call(self, rows: int) -> tuple[float, int | None]:
        """The seconds that a model call over so many rows of the model's own size took, and how many rows memory would
        hold, None where that is not known. May lack memory."""

    def prepare(self) -> bool:
        """Make later calls faster, between two steps, by no more work than a call; False if there was none to do."""

    def let_go(self) -> bool:
        """Free what is only kept for later jobs, since memory was lacking; whether there was any of it."""

    def preview(self, drawing: D) -> Pixels:
        """What the picture looks like so far, at any resolution up to its own."""

    def finish(self, drawing: D) -> Pixels:
        """The final pixels of a drawing that is done."""
