"""One job while the engine works on it: its drawings, its clock readings, its finished pictures."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Generic

from worker.engine.runner import D, Pixels
from worker.errors import EngineFailed, JobFailure
from worker.jobs.engine import Load
from worker.jobs.events import Failed, Image, Preview, Timings
from worker.jobs.params import JobParams
from worker.jobs.queue import Work
from worker.jobs.tiling import Tile

logger = logging.getLogger(__name__)


class JobRun(Generic[D]):
    """Made when the engine takes the job up; the engine's thread owns all but `pictures`, `previews`, and `ended`.

    `ended` is the outbox's word that the job's ending was sent. `turn` is the engine's clock when that was, `decoding`
    the number of the engine's last decoding by then, and later of the job's own last one.
    """

    def __init__(self, work: Work, turn: int = 0, decoding: int = 0) -> None:
        self.work = work
        self.turn = turn
        self.decoding = decoding
        self.ended = False
        self.drawings: list[D] = []
        self.opening_s = 0.0
        self.warnings: tuple[str, ...] = ()
        self.reported_step = 0
        self.previewed_step = 0
        self.undecoded = work.params.num_images
        self.pictures = Pictures(work.params.num_images)
        self.previews = Previews()
        self.reopened = False
        self._coming: Iterator[D] | None = None
        self._made: list[D] = []
        self._load_to_come: Load | None = None
        self._pieces: dict[int, list[tuple[Tile | None, Pixels]]] = {}
        self.started_at = time.monotonic()
        self.denoising_since = self.started_at
        self.timings = Timings(queue_s=self.started_at - work.accepted_at)

    def open_on(self, opened: Callable[[JobParams], Iterable[D]], for_s: float) -> bool:
        """Take drawings as they are made, one and more for about `for_s`; whether all are there.

        The very first has the job's text to encode, and says nothing of the others. `opening_s` adds up.
        """
        started = since = time.monotonic()
        if self._coming is None:
            self._coming = iter(opened(self.work.params))
            self._made.append(next(self._coming))
            since = time.monotonic()
        first = self._made[0]
        expected = first.tiles * self.work.params.num_images
        self._load_to_come = Load(first.rows * expected, first.steps - first.step, expected, first.step_s)
        while len(self._made) < expected:
            self._made.append(next(self._coming))
            if time.monotonic() - since >= for_s:
                break
        self.opening_s += time.monotonic() - started
        if len(self._made) < expected:
            return False
        self._opened()
        return True

    def open_anew(self) -> None:
        """Its drawings could not be made: begin with the first again."""
        self._coming, self._made, self.reopened = None, [], True

    def _opened(self) -> None:
        self.drawings, self._made = self._made, []
        self._coming = None  # what makes drawings holds all that they hold, for as long as it is there
        self._load_to_come = None
        self.undecoded = len(self.drawings)
        self.warn(*(warning for drawing in self.drawings for warning in drawing.warnings))
        self.denoising_since = time.monotonic()
        self.timings = replace(self.timings, encode_s=self.denoising_since - self.started_at)

    def let_go(self) -> None:
        """It is not drawn any more, although pictures of it may still be encoded."""
        for drawing in self.drawings:
            if not drawing.done:
                drawing.end_calls()
        self.drawings, self._made, self._coming = [], [], None

    def warn(self, *warnings: str) -> None:
        """What the job must say when it is complete, each once."""
        self.warnings = tuple(dict.fromkeys([*self.warnings, *warnings]))

    @property
    def step(self) -> int:
        """The step that every image has done."""
        return min(drawing.step for drawing in self.drawings)

    @property
    def remaining_image_steps(self) -> int:
        return sum(drawing.steps - drawing.step for drawing in self.drawings)

    @property
    def share(self) -> float:
        """What its drawings take up of a call, those to come among them."""
        if self._load_to_come is not None:
            return self._made[0].rows * self.work.params.num_images
        return sum(drawing.share for drawing in self.drawings)

    @property
    def load(self) -> Load:
        """What it still asks of the device; while its drawings are made, as many as there will be. From any thread."""
        if (to_come := self._load_to_come) is not None:
            return to_come
        drawings = tuple(self.drawings)  # one may be finished meanwhile
        return Load(
            rows=sum(drawing.rows for drawing in drawings),
            steps=max((drawing.steps - drawing.step for drawing in drawings), default=0),
            images=len(drawings),
            step_s=drawings[0].step_s if drawings else None,
        )

    def denoised(self) -> None:
        """The last step is done."""
        self.timings = replace(self.timings, denoise_s=time.monotonic() - self.denoising_since)

    @property
    def shown(self) -> list[D]:
        """The drawings of its first image that is still being drawn: those that a preview is made of."""
        return [drawing for drawing in self.drawings if drawing.index == self.drawings[0].index]

    def may_decode(self, drawing: D) -> bool:
        """One that is done. A preview is made of all tiles of an image, and some of them run ahead of the others."""
        of_its_image = (other for other in self.drawings if other.index == drawing.index)
        return self.work.params.preview is None or all(other.done for other in of_its_image)

    def decoded(self, drawing: D, pixels: Pixels, seconds: float) -> list[tuple[Tile | None, Pixels]] | None:
        """One more image, or tile, went through the decoder: all of its image's pieces if it was the last."""
        self.undecoded -= 1
        self.timings = replace(self.timings, decode_s=(self.timings.decode_s or 0.0) + seconds)
        self.drawings.remove(drawing)
        self._pieces.setdefault(drawing.index, []).append((drawing.tile, pixels))
        if len(self._pieces[drawing.index]) < drawing.tiles:
            return None
        return self._pieces.pop(drawing.index)

    def final_timings(self) -> Timings:
        """All readings, in milliseconds' precision, with the total from acceptance until now."""
        total = replace(self.timings, total_s=time.monotonic() - self.work.accepted_at)
        return Timings(*(None if (s := getattr(total, name)) is None else round(s, 4) for name in Timings.__slots__))

    def failure(self, error: BaseException) -> Failed:
        """The job's ending for `error`; what is not meant for clients is logged and told in general words."""
        if not isinstance(error, JobFailure):
            logger.error("a job failed", exc_info=error, extra={"job_id": self.work.job_id})
            error = EngineFailed()
        return Failed(error.code, error.detail, error.retriable, self.final_timings())


class Pictures:
    """The encoded pictures of one job, gathered from the threads of the encoding pool."""

    def __init__(self, expected: int) -> None:
        self._lock = threading.Lock()
        self._outstanding = expected
        self._images: list[Image] = []

    def preview_follows(self) -> None:
        """One more thing must come back before the job is complete."""
        with self._lock:
            self._outstanding += 1

    def arrived(self, image: Image | None) -> tuple[Image, ...] | None:
        """Note a picture (None: a preview); all of them in order once nothing is outstanding any more."""
        with self._lock:
            self._outstanding -= 1
            if image is not None:
                self._images.append(image)
            if self._outstanding:
                return None
            return tuple(sorted(self._images, key=lambda one: one.index))


class Previews:
    """Brings the previews of one job back into their order: two threads encode them, and one may overtake the other."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ordered = 0
        self._told = 0
        self._early: dict[int, Preview] = {}

    @property
    def waiting(self) -> int:
        """How many were not told yet."""
        return self._ordered - self._told

    def order(self) -> int:
        """The place of one more preview."""
        self._ordered += 1
        return self._ordered - 1

    def encoded(self, place: int, preview: Preview, tell: Callable[[Preview], None]) -> None:
        """Tell it, and those that waited for it, unless it has to wait itself."""
        with self._lock:  # also while telling, or the order would be lost again
            self._early[place] = preview
            while self._told in self._early:
                tell(self._early.pop(self._told))
                self._told += 1
