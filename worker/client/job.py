"""A job as the worker shows it, and what came of it. Fields that a later worker adds are passed over."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ImageLink:
    """A finished picture by its URL, which `Client.fetch` turns into pixels; image k of a job has `seed + k`."""

    index: int
    url: str
    seed: int
    width: int
    height: int
    format: str
    bytes: int

    @classmethod
    def read(cls, data: Json) -> ImageLink:
        """As a job and a `completed` event have it."""
        return cls(
            data["index"], data["url"], data["seed"], data["width"], data["height"], data["format"], data["bytes"]
        )


@dataclass(frozen=True, slots=True)
class Timings:
    """Where a job's time went, in seconds; None for what was not reached."""

    queue_s: float | None = None
    encode_s: float | None = None
    denoise_s: float | None = None
    decode_s: float | None = None
    total_s: float | None = None

    @classmethod
    def read(cls, data: Json) -> Timings:
        """As a job and a `completed` event have it."""
        return cls(*(data.get(name) for name in ("queue_s", "encode_s", "denoise_s", "decode_s", "total_s")))


@dataclass(frozen=True, slots=True)
class Job:
    """A job as it stood when it was asked for; `status` is `queued`, `running`, `completed`, `failed` or `cancelled`.

    `params` has every default filled in and the seed that is used; `error` is the `code`, `message` and
    `retriable` of a failure, of a `timeout` or of a `shutdown`. `raw` is the worker's whole answer.
    """

    job_id: str
    status: str
    position: int | None
    eta_s: float | None
    step: int
    steps: int
    params: Json = field(repr=False)
    images: tuple[ImageLink, ...]
    warnings: tuple[str, ...]
    error: Json | None
    timings: Timings
    attempt: int
    created_at: str
    labels: Mapping[str, str]
    raw: Json = field(repr=False)

    @property
    def ended(self) -> bool:
        return self.status in ("completed", "failed", "cancelled")

    @classmethod
    def read(cls, data: Json) -> Job:
        """Raises KeyError and TypeError where the contract is not kept."""
        return cls(
            job_id=data["job_id"],
            status=data["status"],
            position=data["position"],
            eta_s=data["eta_s"],
            step=data["progress"]["step"],
            steps=data["progress"]["steps"],
            params=data["params"],
            images=tuple(ImageLink.read(one) for one in data["images"]),
            warnings=tuple(data.get("warnings", ())),
            error=data["error"],
            timings=Timings.read(data["timings"]),
            attempt=data["attempt"],
            created_at=data["created_at"],
            labels=data["labels"],
            raw=data,
        )


@dataclass(frozen=True, slots=True)
class Result:
    """The pictures of a completed job with what belongs to them; `images[k]` was drawn from `links[k].seed`."""

    job_id: str
    images: tuple[Image.Image, ...]
    links: tuple[ImageLink, ...]
    timings: Timings
    warnings: tuple[str, ...]

    @property
    def image(self) -> Image.Image:
        """The first picture."""
        return self.images[0]

    @property
    def seed(self) -> int:
        """The first picture's; give it again for the same picture."""
        return self.links[0].seed
