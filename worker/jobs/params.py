"""What a job asks for, and what the loaded model offers: frozen words that every room understands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class Task(StrEnum):
    """What is drawn from what."""

    TEXT_TO_IMAGE = "text-to-image"
    IMAGE_TO_IMAGE = "image-to-image"
    INPAINTING = "inpainting"


class Priority(StrEnum):
    """Which of the waiting jobs goes first; order of declaration is order of service."""

    HIGH = "high"
    NORMAL = "normal"
    LOW = "low"


class OnDisconnect(StrEnum):
    """What happens to a job when its last reader leaves."""

    CONTINUE = "continue"
    CANCEL = "cancel"


class ImageFormat(StrEnum):
    """An encoding of pixels."""

    PNG = "png"
    WEBP = "webp"
    JPEG = "jpeg"

    @property
    def media_type(self) -> str:
        return f"image/{self.value}"


@dataclass(frozen=True, slots=True)
class PreviewParams:
    """A preview after every `every` steps, its longest side `size` pixels."""

    every: int
    size: int
    format: ImageFormat


@dataclass(frozen=True, slots=True)
class OutputParams:
    """How the final pictures are encoded; `inline` also puts them into the `completed` event."""

    format: ImageFormat
    quality: int
    inline: bool
    metadata: bool


@dataclass(frozen=True, slots=True)
class JobParams:
    """Everything that decides a job's pictures, with every default filled in."""

    task: Task
    prompt: str
    negative_prompt: str | None
    width: int
    height: int
    steps: int
    guidance_scale: float
    seed: int
    num_images: int
    sampler: str
    preview: PreviewParams | None
    output: OutputParams
    priority: Priority
    on_disconnect: OnDisconnect
    timeout_s: float
    labels: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class EmbeddingFacts:
    """A textual-inversion embedding by its name, which prompts use as a word, and whether it fits the model."""

    name: str
    vectors: int
    fits: bool


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What can be known of a model from its configuration alone, before a weight is read.

    `multiple` is what width and height must be multiples of; `samplers` are the names it can be drawn with.
    """

    id: str
    family: str
    dtype: str
    width: int
    height: int
    multiple: int
    steps: int
    guidance_scale: float
    sampler: str
    samplers: tuple[str, ...]
    tasks: tuple[Task, ...]
    embeddings: tuple[EmbeddingFacts, ...] = ()


@dataclass(frozen=True, slots=True)
class Limits:
    """What the worker accepts at most (and at least), each by its name in `/v1/info`."""

    queue_capacity: int
    body_bytes: int = 10_000_000
    text_body_bytes: int = 65_536
    """Of a body that holds no picture."""
    prompt_characters: int = 4000
    min_side_px: int = 64
    max_side_px: int = 2048
    max_pixels: int = 2048 * 2048
    max_steps: int = 150
    max_guidance_scale: float = 30.0
    max_images: int = 8
    max_work: int = 8 * 150 * 1024 * 1024
    """Of width x height x steps x num_images."""
    max_labels: int = 8
    label_characters: int = 200
    preview_side_px: int = 1024
    timeout_s: float = 3600.0
    retained_jobs: int = 500
    retained_bytes: int = 512_000_000
    retained_s: float = 3600.0
