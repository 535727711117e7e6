"""What a job asks for: frozen words that every room understands."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

LATENT = "latent"
"""The upscaler that is the loaded model."""
FLOW = "flow_"
"""What the names of samplers of flow matching begin with."""


class Task(StrEnum):
    """What is drawn from what."""

    TEXT_TO_IMAGE = "text-to-image"
    IMAGE_TO_IMAGE = "image-to-image"
    INPAINTING = "inpainting"
    UPSCALE = "upscale"

    @property
    def takes_image(self) -> bool:
        """Whether it begins with a picture of the client's."""
        return self is not Task.TEXT_TO_IMAGE


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
class Picture:
    """A picture that came with a job, encoded as it came; `width` and `height` are those of the picture upright.

    `data` is let go of when the job has ended; `size_bytes` is what it was.
    """

    __pydantic_config__ = {"ser_json_bytes": "base64", "val_json_bytes": "base64"}  # noqa: RUF012
    # For whoever writes it down as JSON: bytes are not text.

    width: int
    height: int
    size_bytes: int
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class LoraParams:
    """An adapter by its name in `--lora-dir`; its weights count `scale` times."""

    name: str
    scale: float


class Preprocessor(StrEnum):
    """How a control picture is made from an ordinary one."""

    NONE = "none"
    CANNY = "canny"


@dataclass(frozen=True, slots=True)
class ControlParams:
    """A ControlNet by its name in `--control-dir`, with its picture, from the share `start` of all steps to `end`."""

    name: str
    image: Picture
    scale: float
    start: float
    end: float
    preprocessor: Preprocessor = Preprocessor.NONE


@dataclass(frozen=True, slots=True)
class UpscaleParams:
    """How often as wide and as high a picture becomes, by which upscaler, and in how many tiles it is drawn."""

    factor: int
    upscaler: str
    tiles: int

    @property
    def by_network(self) -> bool:
        """Whether a network of `--upscaler-dir` does it, a tile a step, and not the loaded model."""
        return self.upscaler != LATENT


@dataclass(frozen=True, slots=True)
class JobParams:
    """Everything that decides a job's pictures, with every default filled in.

    `width` and `height` are those of the finished picture. `image`, and `strength`, are there for the tasks that begin
    with a picture, `mask` for inpainting: white is painted anew; `upscale` is there for that task.
    """

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
    image: Picture | None = None
    mask: Picture | None = None
    strength: float | None = None
    loras: tuple[LoraParams, ...] = ()
    controls: tuple[ControlParams, ...] = ()
    upscale: UpscaleParams | None = None

    @property
    def first_step(self) -> int:
        """The step that drawing begins at: with a picture to begin with, those before it are not done.

        Where `strength` does not give whole steps, the stock pipelines of flow models round what is done up, all others
        down; one step is always done.
        """
        if self.strength is None:
            return 0
        asked = self.steps * self.strength
        done = self.steps - math.floor(self.steps - asked) if self.sampler.startswith(FLOW) else int(asked)
        return self.steps - min(self.steps, max(1, done))

    @property
    def steps_drawn(self) -> int:
        """How many steps are done."""
        return self.steps - self.first_step

    @property
    def has_pictures(self) -> bool:
        """Whether pictures came with it."""
        return self.image is not None or bool(self.controls)

    @property
    def reads_files(self) -> bool:
        """Whether it names weights beside the model's, which are read when they are not in memory."""
        return bool(self.loras or self.controls or (self.upscale and self.upscale.by_network))

    def without_pictures(self) -> JobParams:
        """The same with the bytes of its pictures let go of."""

        def emptied(picture: Picture | None) -> Picture | None:
            return picture and replace(picture, data=b"")

        controls = tuple(replace(one, image=replace(one.image, data=b"")) for one in self.controls)
        return replace(self, image=emptied(self.image), mask=emptied(self.mask), controls=controls)
