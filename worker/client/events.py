"""What a stream tells of a job: seven frozen events, three of which end it."""

from __future__ import annotations

import base64
import io
import json
from dataclasses import dataclass, field

from PIL import Image

from worker.client.errors import BadAnswer
from worker.client.job import ImageLink, Timings
from worker.client.sse import ServerSentEvent


@dataclass(frozen=True, slots=True)
class Queued:
    """The job waits behind `position` others (0: it is next); comes again when that changes."""

    id: int
    job_id: str
    position: int
    eta_s: float | None


@dataclass(frozen=True, slots=True)
class Started:
    """The worker took the job up, for the `attempt`-th time."""

    id: int
    job_id: str
    attempt: int


@dataclass(frozen=True, slots=True)
class Progress:
    """Step `step` of `steps`, from 1, is done."""

    id: int
    job_id: str
    step: int
    steps: int
    percent: float
    eta_s: float | None


@dataclass(frozen=True, slots=True)
class Preview:
    """What the job's first picture looks like after `step` steps; comes only where `preview` was asked for."""

    id: int
    job_id: str
    step: int
    steps: int
    width: int
    height: int
    format: str
    data: bytes = field(repr=False)

    @property
    def image(self) -> Image.Image:
        """Decoded anew each time."""
        with Image.open(io.BytesIO(self.data)) as image:
            image.load()
            return image


@dataclass(frozen=True, slots=True)
class Completed:
    """All pictures are there; `Client.fetch` gets them by their links."""

    id: int
    job_id: str
    images: tuple[ImageLink, ...]
    timings: Timings
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Failed:
    """The job ended without its pictures; `retriable`: posting it again can help."""

    id: int
    job_id: str
    code: str
    message: str
    retriable: bool


@dataclass(frozen=True, slots=True)
class Cancelled:
    """Somebody, its time limit or the shutdown ended the job: `requested`, `disconnected`, `timeout`, `shutdown`."""

    id: int
    job_id: str
    reason: str


Ending = Completed | Failed | Cancelled
Event = Queued | Started | Progress | Preview | Ending


def read_event(sent: ServerSentEvent) -> Event | None:
    """None for a kind of event that this client does not know. Raises BadAnswer where the contract is not kept."""
    try:
        data = json.loads(sent.data)
        number, job_id = int(sent.id), data["job_id"]
        match sent.name:
            case "queued":
                return Queued(number, job_id, data["position"], data["eta_s"])
            case "started":
                return Started(number, job_id, data["attempt"])
            case "progress":
                return Progress(number, job_id, data["step"], data["steps"], data["percent"], data["eta_s"])
            case "preview":
                size = data["step"], data["steps"], data["width"], data["height"], data["format"]
                return Preview(number, job_id, *size, base64.b64decode(data["image"], validate=True))
            case "completed":
                images = tuple(ImageLink.read(one) for one in data["images"])
                return Completed(number, job_id, images, Timings.read(data["timings"]), tuple(data.get("warnings", ())))
            case "failed":
                return Failed(number, job_id, data["code"], data["message"], data["retriable"])
            case "cancelled":
                return Cancelled(number, job_id, data["reason"])
            case _:
                return None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise BadAnswer(f"a {sent.name!r} event is not what the contract says") from None
