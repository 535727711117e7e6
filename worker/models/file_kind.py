"""What a safetensors file is, told from the names in its header: a checkpoint, an adapter, or one part of a model."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum

from worker.errors import ModelUnusable
from worker.models.lora_file import DOWN, LYCORIS
from worker.models.prompts.embeddings import NoEmbedding, layout_of
from worker.models.safetensors_header import Header
from worker.models.upscalers import kinds

UNET = "model.diffusion_model."
"""What the names of the denoiser's tensors begin with, in files of the original layout."""
FIRST_CONVOLUTION = f"{UNET}input_blocks.0.0.weight"
REFINER_OPEN_CLIP = "conditioner.embedders.0.model."


class FileKind(StrEnum):
    """In the words that an operator reads."""

    CHECKPOINT = "checkpoint"
    LORA = "LoRA"
    CONTROLNET = "ControlNet"
    EMBEDDING = "textual inversion"
    REFINER = "refiner"
    SD3 = "SD 3 in one file"
    FLUX = "FLUX in one file"
    UNET = "UNet"
    TRANSFORMER = "transformer"
    VAE = "VAE"
    TEXT_ENCODER = "text encoder"
    UPSCALER = "upscaler"
    UNKNOWN = "unknown"


def kind_of(header: Header) -> FileKind:
    """The first of `SIGNS` that fits."""
    return next((kind for kind, fits in SIGNS if fits(header)), FileKind.UNKNOWN)


def _begins(*starts: str) -> Callable[[Header], bool]:
    return lambda header: any(name.startswith(starts) for name in header.tensors)


def _is_lora(header: Header) -> bool:
    return any(DOWN.search(name) or LYCORIS.search(name) for name in header.tensors)


def _has(*names: str) -> Callable[[Header], bool]:
    return lambda header: all(name in header.tensors for name in names)


def _is_embedding(header: Header) -> bool:
    try:
        layout_of(header)
    except NoEmbedding:
        return False
    return True


def _is_upscaler(header: Header) -> bool:
    try:
        kinds.kind_of(header.shapes)
    except ModelUnusable:
        return False
    return True


SIGNS: tuple[tuple[FileKind, Callable[[Header], bool]], ...] = (
    (FileKind.LORA, _is_lora),
    (FileKind.CONTROLNET, _begins("control_model.", "input_hint_block.", "controlnet_cond_embedding.")),
    (FileKind.REFINER, _begins(REFINER_OPEN_CLIP)),
    (FileKind.SD3, _begins("joint_blocks.", f"{UNET}joint_blocks.")),
    (FileKind.FLUX, _begins("double_blocks.", f"{UNET}double_blocks.")),
    (FileKind.CHECKPOINT, _has(FIRST_CONVOLUTION)),
    (FileKind.UNET, _has("conv_in.weight", "conv_out.weight", "time_embedding.linear_1.weight")),
    (FileKind.TRANSFORMER, _begins("transformer_blocks.", "single_transformer_blocks.")),
    (FileKind.VAE, _has("encoder.conv_in.weight", "decoder.conv_in.weight")),
    (FileKind.TEXT_ENCODER, _begins("text_model.encoder.", "encoder.layers.", "encoder.block.")),
    (FileKind.UPSCALER, _is_upscaler),
    (FileKind.EMBEDDING, _is_embedding),  # the last, since it may be one tensor of any name
)
