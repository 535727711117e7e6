"""What a model takes in memory: its weights part by part, from headers alone, and a picture beside them."""

from __future__ import annotations

from collections.abc import Mapping

from worker.errors import ModelUnusable
from worker.jobs.facts import ModelFacts
from worker.models.casting import is_cast
from worker.models.safetensors_header import Tensor

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "float8_e4m3fn": 1}
OVERFLOWS = ".DenseReluDense.wo.weight"
"""A layer of T5 that transformers keeps in fp32 where all else is in float16."""
SAFETY_CHECKER = "safety checker"
"""A part that is not the model's own, in fp32 whatever that computes in."""
DECODER_CHANNELS = 256
"""Of a tensor at a decoder's full resolution; Rombach et al., 2022, and every family since."""
DECODER_TENSORS = 4
"""As many of them live at once."""


def part_bytes(
    weights: Mapping[str, Mapping[str, Tensor]], dtype: str, weights_dtype: str | None = None
) -> dict[str, int]:
    """What each part's weights take once loaded in `dtype`, those that are cast in `weights_dtype` if there is one."""

    def kept_in(part: str, tensor: str) -> str:
        if dtype == "float16" and tensor.endswith(OVERFLOWS):
            return "float32"
        return weights_dtype if weights_dtype is not None and is_cast(part, tensor) else dtype

    return {
        part: sum(one.elements * BYTES[kept_in(part, name)] for name, one in tensors.items())
        for part, tensors in weights.items()
    }


def picture_bytes(facts: ModelFacts) -> int:
    """What drawing a picture of the model's own size takes beside weights, about: most of it its decoding."""
    return facts.width * facts.height * DECODER_CHANNELS * DECODER_TENSORS * BYTES[facts.dtype]


def refuse_too_large(parts_bytes: Mapping[str, int], dtype: str, free_bytes: int | None) -> None:
    """Raises ModelUnusable where the weights of all parts do not fit into `free_bytes`."""
    needed = sum(parts_bytes.values())
    if free_bytes is not None and needed > free_bytes:
        beside = ", with the safety checker" if SAFETY_CHECKER in parts_bytes else ""
        raise ModelUnusable(
            f"not enough memory: the model's weights take {told(needed)} in {dtype}{beside}, "
            f"and {told(free_bytes)} are free"
        )


def refuse_too_large_a_part(parts_bytes: Mapping[str, int], dtype: str, free_bytes: int | None) -> None:
    """Raises ModelUnusable where the largest part alone does not fit."""
    largest = max(parts_bytes, key=parts_bytes.__getitem__)
    if free_bytes is not None and parts_bytes[largest] > free_bytes:
        takes, free = told(parts_bytes[largest]), told(free_bytes)
        part = (
            f"the {largest} takes {takes}"
            if largest == SAFETY_CHECKER
            else f"the model's {largest} takes {takes} in {dtype}"
        )
        raise ModelUnusable(f"not enough memory: {part}, and {free} are free on the device")


def told(size_bytes: int) -> str:
    """In GB."""
    return f"{size_bytes / 1e9:.1f} GB" if size_bytes >= 50_000_000 else f"{size_bytes / 1e9:.4f} GB"
