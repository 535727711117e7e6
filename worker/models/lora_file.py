"""What a LoRA file says of itself: which family it changes, its rank, the words that call it up.

From names, shapes and metadata in the header; reads no weight.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from worker.models.safetensors_header import Header, Tensor

FACTORS = (
    *(("lora_down", "lora_up"), ("lora_A", "lora_B"), ("lora_A.default", "lora_B.default")),
    *(("lora.down", "lora.up"), ("lora_linear_layer.down", "lora_linear_layer.up")),
    *(("lora1.down", "lora1.up"), ("lora2.down", "lora2.up")),
)
"""What stands behind a layer's name and before `.weight`, of both factors: kohya's, peft's, diffusers', XLabs'."""
DOWN = re.compile(rf"({'|'.join(re.escape(down) for down, _ in FACTORS)})\.weight$")
"""The factor whose second side is what the changed layer takes in; its first is the rank."""
FACTOR = re.compile(rf"({'|'.join(re.escape(one) for pair in FACTORS for one in pair)})\.weight$")
"""Either."""
LYCORIS = re.compile(r"\.(hada_w1_a|lokr_w1|lokr_w1_a|oft_blocks)$")
"""What the methods of LyCORIS have in their place."""
RANKED_FIRST = re.compile(r"\.(hada_w[12]_b|lokr_w[12]_b)$")
XLABS = re.compile(r"(double|single)_blocks\.\d+\.processor\.")
TEXT_KEY = re.compile(r"attn2[._]to_k[._]|attn2[._]processor[._]to_k_lora")
TEXT_WIDTHS = {768: "sd", 1024: "sd", 2048: "sdxl"}
"""Of the hidden states that a UNet's second attention reads."""
FLUX_WIDTH = 3072
BASES = (
    (re.compile(r"xl"), "sdxl"),
    (re.compile(r"sd_?3|stable-diffusion-v?3"), "sd3"),
    (re.compile(r"flux"), "flux"),
    (re.compile(r"^sd|stable-diffusion-v[12]"), "sd"),
)
"""What `ss_base_model_version` and `modelspec.architecture` hold, and the family; the first that fits."""
TAGS_SHOWN = 10


@dataclass(frozen=True)
class LoraFile:
    """`family` is None where nothing tells; `ranks` are those that occur, in rising order."""

    family: str | None
    layout: str
    ranks: tuple[int, ...]
    text_encoder: bool
    trigger_words: tuple[str, ...]
    frequent_tags: tuple[str, ...]
    """Of its training pictures, most frequent first: what calls it up where its maker names no words."""


def read_lora(header: Header) -> LoraFile:
    """What there is to know of a LoRA, from its header."""
    names = header.tensors
    ranks = {tensor.shape[0] for name, tensor in names.items() if tensor.shape and _is_ranked(name)}
    return LoraFile(
        family=_family(header),
        layout=_layout(header),
        ranks=tuple(sorted(ranks)),
        text_encoder=any(name.startswith(("lora_te", "text_encoder", "te1.", "te2.")) for name in names),
        trigger_words=_words(header.metadata.get("modelspec.trigger_phrase", "")),
        frequent_tags=_tags(header.metadata.get("ss_tag_frequency", "")),
    )


def _is_ranked(name: str) -> bool:
    return DOWN.search(name) is not None or RANKED_FIRST.search(name) is not None


def _layout(header: Header) -> str:
    if any(".hada_" in name or ".lokr_" in name or ".oft_" in name for name in header.tensors):
        return "LyCORIS"
    if any(name.startswith("lora_") for name in header.tensors):
        return "kohya"
    if any(XLABS.search(name) for name in header.tensors):
        return "XLabs"
    return "diffusers"


def _family(header: Header) -> str | None:
    """Told by shapes; by what its trainer wrote down where the shapes do not tell."""
    return _family_by_names(header) or _family_by_widths(header) or _family_by_metadata(header)


def _family_by_names(header: Header) -> str | None:
    joined = "\n".join(header.tensors)
    if "double_blocks" in joined or "single_transformer_blocks" in joined:
        return "flux"
    if "joint_blocks" in joined:
        return "sd3"
    if any(name.startswith(("transformer.", "lora_transformer_")) for name in header.tensors):
        return None
    return "sdxl" if "lora_te2_" in joined or "text_encoder_2." in joined else None


def _family_by_widths(header: Header) -> str | None:
    for name, tensor in _downs(header):
        if TEXT_KEY.search(name):
            return TEXT_WIDTHS.get(tensor.shape[1])
    for name, tensor in _downs(header):
        if name.startswith(("transformer.", "lora_transformer_")) and "to_q" in name:
            return "flux" if tensor.shape[1] == FLUX_WIDTH else "sd3"
    return None


def _downs(header: Header) -> Iterator[tuple[str, Tensor]]:
    return ((name, one) for name, one in header.tensors.items() if DOWN.search(name) and len(one.shape) >= 2)


def _family_by_metadata(header: Header) -> str | None:
    for key in ("ss_base_model_version", "modelspec.architecture"):
        told = header.metadata.get(key, "").lower()
        for mark, family in BASES:
            if mark.search(told):
                return family
    return None


def _words(phrase: str) -> tuple[str, ...]:
    return tuple(word for part in phrase.split(",") if (word := printable(part)))


def _tags(text: str) -> tuple[str, ...]:
    """`{folder: {tag: count}}`, as kohya's trainer writes it."""
    counts: Counter[str] = Counter()
    try:
        folders = json.loads(text) if text else {}
        for tags in folders.values():
            counts.update({printable(tag): int(count) for tag, count in tags.items()})
    except (ValueError, TypeError, AttributeError, RecursionError, OverflowError):
        return ()
    return tuple(tag for tag, _ in counts.most_common(TAGS_SHOWN) if tag)


def printable(text: str) -> str:
    """Without what would move a terminal's cursor, and of sensible length."""
    return "".join(letter for letter in text if letter.isprintable()).strip()[:100]
