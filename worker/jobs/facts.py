"""What the loaded model offers and what the worker accepts: known before a weight is read, and told in `/v1/info`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from worker.jobs.params import LATENT, Task


class Guidance(StrEnum):
    """How a denoiser is told to keep to the prompt."""

    ROWS = "rows"
    """Classifier-free: a second row without the prompt, where the scale is above 1."""
    EMBEDDED = "embedded"
    """The scale is an input of the denoiser; there is no second row."""
    NONE = "none"
    """It knows no scale."""

    def rows(self, guidance_scale: float) -> int:
        """What an image takes up in a model call."""
        return 2 if self is Guidance.ROWS and guidance_scale > 1 else 1


@dataclass(frozen=True, slots=True)
class EmbeddingFacts:
    """A textual-inversion embedding by its name, which prompts use as a word, and whether it fits the model."""

    name: str
    vectors: int
    fits: bool


@dataclass(frozen=True, slots=True)
class LoraFacts:
    """An adapter of `--lora-dir` by its name, as its file's header tells it; a `reason` says why it does not fit.

    `base_model` is the family it was made for, or None where nothing tells.
    """

    name: str
    trigger_words: tuple[str, ...]
    base_model: str | None
    fits: bool
    reason: str | None
    size_bytes: int


@dataclass(frozen=True, slots=True)
class ControlFacts:
    """A ControlNet by its name, for which family of models it was made, and whether it fits this one.

    `reason` says why it does not, `family` is None where its configuration does not tell.
    """

    name: str
    family: str | None
    fits: bool
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class UpscalerFacts:
    """An upscaler of `--upscaler-dir` by its name; it makes sides `scale` times as long."""

    name: str
    scale: int

    def makes(self, factor: int) -> bool:
        """Whether pictures can have `factor` times their sides by it: smaller ones are made of larger ones."""
        return self.scale >= factor


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What can be known of a model from its configuration alone, before a weight is read.

    `multiple` is what width and height must be multiples of; `samplers` are the names it can be drawn with;
    `guidance` is what `guidance_scale` means to it. It computes in `dtype`; `weights_dtype` is what most of its weights
    are kept in, None for the same. `numerics` is `exact` where its pictures are the same bytes in any company;
    `compile` the mode of torch.compile that the calls made most often are compiled in, None for none. `most_steps` has
    the samplers that make only so many.
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
    guidance: Guidance = Guidance.ROWS
    weights_dtype: str | None = None
    numerics: str = "fast"
    compile: str | None = None
    most_steps: Mapping[str, int] = field(default_factory=dict)
    embeddings: tuple[EmbeddingFacts, ...] = ()

    loras: tuple[LoraFacts, ...] = ()
    controls: tuple[ControlFacts, ...] = ()
    enlargers: tuple[UpscalerFacts, ...] = ()

    @property
    def upscalers(self) -> tuple[str, ...]:
        """What makes pictures larger: the model itself, where it can begin with a picture, and networks for that."""
        own = (LATENT,) if Task.IMAGE_TO_IMAGE in self.tasks else ()
        return (*own, *(one.name for one in self.enlargers))


@dataclass(frozen=True, slots=True)
class Limits:
    """What the worker accepts at most (and at least), each by its name in `/v1/info`."""

    queue_capacity: int
    body_bytes: int = 10_000_000
    text_body_bytes: int = 200_000
    """Of a body that holds no picture: more than its fields can hold where every character is escaped."""
    prompt_characters: int = 4000
    min_side_px: int = 64
    max_side_px: int = 2048
    max_pixels: int = 2048 * 2048
    max_input_pixels: int = 4096 * 4096
    """Of each picture that comes with a job."""
    max_steps: int = 150
    max_guidance_scale: float = 30.0
    max_images: int = 8
    max_work: int = 8 * 150 * 1024 * 1024
    """Of width x height x steps x num_images."""
    max_adapters: int = 8
    """LoRAs in one job, and as many ControlNets."""
    max_labels: int = 8
    label_characters: int = 200
    preview_side_px: int = 1024
    timeout_s: float = 3600.0
    retained_jobs: int = 500
    retained_bytes: int = 512_000_000
    retained_s: float = 3600.0
