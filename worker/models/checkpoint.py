"""A checkpoint that can be served: where its parts are, which family it is of, what clients may know of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from worker.jobs.facts import ModelFacts
from worker.jobs.params import Task
from worker.models.controls.catalogue import NO_CONTROLS, Catalogue, Controlled
from worker.models.family import Family
from worker.models.loras.folder import NO_LORAS, Fit, Loras
from worker.models.offload import OnDevice, Placement
from worker.models.prompts.embeddings import NO_EMBEDDINGS, Embeddings, clip_widths
from worker.models.safetensors_header import Tensor
from worker.models.upscalers.catalogue import NO_UPSCALERS, Upscalers

if TYPE_CHECKING:
    from shared_worker.device import Device
    from worker.models.base import Model, Upscaler

TEXT_ENCODERS = {
    "text_encoder": "tokenizer",
    "text_encoder_2": "tokenizer_2",
    "text_encoder_3": "tokenizer_3",
}
"""Each with the tokenizer that goes with it."""
DTYPES = ("float32", "bfloat16", "float16")


class Source(Protocol):
    """Where a checkpoint's parts come from; a part has the name that diffusers gives it, e.g. `text_encoder_2`.

    Everything here reads JSON and headers alone, and raises ModelUnusable.
    """

    @property
    def name(self) -> str:
        """What it is called, without its place."""

    @property
    def pipeline(self) -> object:
        """The class in `model_index.json`, or the one that it would be."""

    @property
    def index(self) -> Mapping[str, Any]:
        """The content of `model_index.json`."""

    def has(self, name: str) -> bool:
        """Whether there is such a part, or such a JSON file."""

    def json(self, name: str) -> Mapping[str, Any]:
        """A JSON file by its place below the model."""

    def config(self, part: str) -> Mapping[str, Any]:
        """A part's configuration."""

    def tokenizer(self, part: str) -> tuple[Path, Mapping[str, Any]]:
        """A folder that a tokenizer is read from, and what differs from its configuration."""

    def tensors(self, part: str, dtype: str) -> Mapping[str, Tensor]:
        """A part's weights, where there are several precisions of those that fit `dtype` best; none is read."""

    def size_bytes(self, part: str, dtype: str) -> int:
        """What they take where they lie."""

    def checksum(self) -> str:
        """Of all weights, in hexadecimal. Slow: reads them all."""

    def refuse_code(self) -> None:
        """Refuse anything that could run, used or not."""

    @property
    def told(self) -> str:
        """Where the configurations come from, for the operator; empty where that goes without saying."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that has been recognised; nothing of its weights is read."""

    source: Source
    family: Family
    facts: ModelFacts
    embeddings: Embeddings = NO_EMBEDDINGS
    loras: Loras = NO_LORAS
    controls: Catalogue = NO_CONTROLS
    upscalers: Upscalers = NO_UPSCALERS
    weights_bytes: int = 0
    """What the weights take once they are loaded, with what is loaded beside them."""
    placement: Placement = field(default_factory=OnDevice)
    """Where its parts lie then."""

    def with_embeddings(self, folder: Path) -> Checkpoint:
        """With the textual-inversion embeddings of `folder`. Raises ConfigurationError."""
        widths = clip_widths(self.config(part) for part in TEXT_ENCODERS if self.has(part))
        embeddings = Embeddings.in_folder(folder, widths)
        return replace(self, facts=replace(self.facts, embeddings=embeddings.facts), embeddings=embeddings)

    def with_loras(self, folder: Path, cache_bytes: int) -> Checkpoint:
        """With the LoRA adapters of `folder`, of which so many bytes may stay in memory. Raises ConfigurationError."""
        loras = Loras.in_folder(folder, self._fit(), cache_bytes)
        return replace(self, facts=replace(self.facts, loras=loras.facts), loras=loras)

    def _fit(self) -> Fit:
        width = self.config(self.family.denoiser).get("cross_attention_dim")
        clips = {part: clip_widths([self.config(part)]) for part in TEXT_ENCODERS if self.has(part)}
        widths = {part: found[0] for part, found in clips.items() if found}
        return Fit(self.family.name, width if type(width) is int else None, widths)

    def with_controls(self, folder: Path) -> Checkpoint:
        """With the ControlNets of `folder`. Raises ConfigurationError."""
        unet = self.config("unet") if self.family.denoiser == "unet" else {}
        controls = Catalogue.in_folder(folder, Controlled(self.family.name, unet, self.config("vae"), self.facts.dtype))
        return replace(self, facts=replace(self.facts, controls=controls.facts), controls=controls)

    def with_upscalers(self, folder: Path) -> Checkpoint:
        """With the upscalers of `folder`, which need nothing of the model. Raises ConfigurationError."""
        upscalers = Upscalers.in_folder(folder)
        tasks = tuple(dict.fromkeys((*self.facts.tasks, Task.UPSCALE))) if upscalers.facts else self.facts.tasks
        return replace(self, facts=replace(self.facts, enlargers=upscalers.facts, tasks=tasks), upscalers=upscalers)

    def alone(self) -> Checkpoint:
        """Without all that can be loaded beside the model; for another process, which has its own."""
        return replace(self, loras=NO_LORAS, controls=NO_CONTROLS, upscalers=NO_UPSCALERS, placement=OnDevice())

    def config(self, part: str) -> Mapping[str, Any]:
        """The configuration of a part, e.g. `unet` or `scheduler`. Raises ModelUnusable."""
        return self.source.config(part)

    def has(self, part: str) -> bool:
        """Whether the checkpoint has such a part: SD 3 may come without its third text encoder."""
        return self.source.has(part)

    @property
    def index(self) -> Mapping[str, Any]:
        """The content of `model_index.json`."""
        return self.source.index

    @property
    def device_bytes(self) -> int:
        """What its weights take on the device at this moment, once it is loaded; from any thread."""
        return self.placement.weights_bytes(self.weights_bytes)

    @property
    def packed(self) -> bool:
        """Whether weights may be laid out as the processor wants them. Nothing reads them then; a compiler would."""
        return self.facts.compile is None and self.facts.weights_dtype is None

    @property
    def fingerprint(self) -> str:
        """Tells this model from others of its name by the size of its denoiser, and by what its weights are kept in."""
        told = f"{self.facts.id}, {self.source.size_bytes(self.family.denoiser, self.facts.dtype)} bytes"
        return told if self.facts.weights_dtype is None else f"{told} as {self.facts.weights_dtype}"

    def load(self, device: Device, report: Callable[[float], None]) -> Model:
        """Read the weights onto `device`. Slow; imports torch. Raises ModelUnusable."""
        module, _, function = self.family.loader.partition(":")
        load: Callable[[Checkpoint, Device, Callable[[float], None]], Model] = getattr(import_module(module), function)
        return load(self, device, report)

    def load_upscaler(self, name: str, device: Device) -> Upscaler:
        """One of its networks, as if on `device`. Slow; imports torch. Raises InvalidInput."""
        return self.upscalers.load(name, device, self.placement, self.family.denoiser)
