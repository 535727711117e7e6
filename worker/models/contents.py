"""The parts that a checkpoint must have: of which classes they may be, whether all are there, what they take.

Looks at configurations and headers; what is missing or foreign is refused before a weight is read.
"""

from __future__ import annotations

from worker.errors import ModelUnusable
from worker.models.checkpoint import TEXT_ENCODERS, Source
from worker.models.family import Family
from worker.models.safetensors_header import Tensor

CLIP = ("CLIPTextModel", "CLIPTextModelWithProjection")
CLASSES: dict[str, tuple[str, ...]] = {
    "text_encoder": CLIP,
    "text_encoder_2": (*CLIP, "T5EncoderModel"),
    "text_encoder_3": ("T5EncoderModel",),
    "tokenizer": ("CLIPTokenizer", "CLIPTokenizerFast"),
    "tokenizer_2": ("CLIPTokenizer", "CLIPTokenizerFast", "T5Tokenizer", "T5TokenizerFast"),
    "tokenizer_3": ("T5Tokenizer", "T5TokenizerFast"),
    "unet": ("UNet2DConditionModel",),
    "transformer": ("SD3Transformer2DModel", "FluxTransformer2DModel"),
    "vae": ("AutoencoderKL",),
}
"""What is loaded as these classes and no other; a folder's own code never is."""


def parts_of(source: Source, family: Family) -> tuple[str, ...]:
    """The parts that hold weights: text encoders, denoiser, VAE."""
    needed = tuple(TEXT_ENCODERS)[: family.encoders]
    encoders = (part for part in TEXT_ENCODERS if part in needed or _is_named(source, part) or source.has(part))
    return (*encoders, family.denoiser, "vae")


def refuse_foreign_classes(source: Source) -> None:
    """Raises ModelUnusable for a part of a class that is not loaded."""
    for part, classes in CLASSES.items():
        match source.index.get(part):
            case [str(), str(name)] if name not in classes:
                raise ModelUnusable(f"the model's {part} is of the class {name!r}, which is not served")
            case _:
                pass


def weights_of(source: Source, family: Family, dtype: str) -> dict[str, dict[str, Tensor]]:
    """Every part's weights by their names, from headers alone. Raises ModelUnusable for a part that is not there."""
    parts = parts_of(source, family)
    for part in parts:
        if "quantization_config" in source.config(part):
            raise ModelUnusable(f"the model's {part} is quantised, which is not served")
        if part in TEXT_ENCODERS:
            source.tokenizer(TEXT_ENCODERS[part])
    return {part: dict(source.tensors(part, dtype)) for part in parts}


def _is_named(source: Source, part: str) -> bool:
    return source.index.get(part) not in (None, [None, None])
