"""LoRA files of an operator's folder: which there are, what they tell of themselves, whether they fit the model.

Knows each file by its header alone, and so needs no torch. What only the weights' names under the model can tell is
told when one is loaded.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from worker.errors import ConfigurationError, InvalidInput, ModelUnusable
from worker.jobs.facts import LoraFacts
from worker.models.file_kind import FileKind, kind_of
from worker.models.lora_file import DOWN, TEXT_KEY, LoraFile, read_lora
from worker.models.safetensors_header import COMPUTED_WITH, Header, read_header

logger = logging.getLogger(__name__)

CACHE_BYTES = 1_000_000_000
"""Weights that are kept in memory beyond those in use: of SDXL about five of rank 32 in half precision."""
ENCODER = re.compile(r"(?:lora_te([123]?)_|text_encoder(?:_([23]))?\.).*(?:[qkv]_proj|mlp[._]fc1)[._]")
"""A layer of a text encoder that reads hidden states, and which encoder's."""
FORMS = (
    (re.compile(r"\.dora_scale$|lora_magnitude_vector"), "it is a DoRA, which is not served"),
    (re.compile(r"\.lora_mid\."), "it has convolutions in Tucker's form, which are not served"),
    (
        re.compile(r"\.lora_B\.(\w+\.)?bias$|\.diff(_b)?$|\.[wb]_norm$"),
        "it has whole weights beside the low ranks; not served",
    ),
)


@dataclass(frozen=True, slots=True)
class Fit:
    """What of a model an adapter must fit: its family, how wide the text is that its UNet reads (None: it has none),
    and how wide the hidden states of its CLIP text encoders are, by part."""

    family: str
    text_width: int | None
    encoder_widths: Mapping[str, int] = field(default_factory=dict)

    def reason(self, header: Header, told: LoraFile) -> str | None:
        """Why an adapter does not fit; None if it may."""
        if told.layout == "LyCORIS":
            return "it is a LoHa, LoKr or OFT of LyCORIS, which is not served"
        for form, reason in FORMS:
            if any(form.search(name) for name in header.tensors):
                return reason
        if told.family not in (None, self.family):
            return f"it was made for {told.family}, and the model is {self.family}"
        if self.family == "sd3" and told.layout == "kohya":
            return "kohya's layout is not served for sd3"
        for tensor in header.tensors.values():
            if tensor.dtype not in COMPUTED_WITH and tensor.elements > 1:  # a single number is read, not computed with
                return f"its weights are of type {tensor.dtype}, which is not served"
        return self._reason_of_widths(header)

    def _reason_of_widths(self, header: Header) -> str | None:
        for name, tensor in header.tensors.items():
            if DOWN.search(name) is None or len(tensor.shape) < 2:
                continue
            width = tensor.shape[1]
            if TEXT_KEY.search(name) and self.text_width not in (None, width):
                return f"it reads text {width} wide, and the model's is {self.text_width}"
            if found := ENCODER.match(name):
                number = found[1] or found[2] or "1"
                part = "text_encoder" if number == "1" else f"text_encoder_{number}"
                if self.encoder_widths.get(part, width) != width:
                    return f"its {part} is {width} wide, and the model's is {self.encoder_widths[part]}"
        return None


@dataclass(frozen=True, slots=True)
class Lora:
    """One file. `elements` is how many numbers it holds."""

    facts: LoraFacts
    path: Path
    elements: int
    metadata: Mapping[str, str] = field(repr=False)


class Loras:
    """Those of a folder, by their names: the file's without its ending, of one in a folder below as `folder/name`.

    `cache_bytes` of their weights may stay in memory.
    """

    def __init__(self, known: Iterable[Lora] = (), cache_bytes: int = CACHE_BYTES) -> None:
        self._known = {one.facts.name: one for one in known}
        self.cache_bytes = cache_bytes

    @classmethod
    def in_folder(cls, folder: Path, fit: Fit, cache_bytes: int = CACHE_BYTES) -> Loras:
        """Every safetensors file in it or below that is a LoRA. Raises ConfigurationError."""
        if not folder.is_dir():
            raise ConfigurationError("--lora-dir is no folder")
        try:
            paths = sorted(path for path in folder.rglob("*.safetensors") if path.is_file())
        except OSError as error:
            raise ConfigurationError(f"--lora-dir cannot be read: {error.strerror}") from None
        return cls(_read(folder, paths, fit), cache_bytes)

    @property
    def facts(self) -> tuple[LoraFacts, ...]:
        """As `/v1/info` lists them."""
        return tuple(self._known[name].facts for name in sorted(self._known))

    def get(self, name: str) -> Lora:
        """One that fits. Raises InvalidInput."""
        if (lora := self._known.get(name)) is None:
            raise InvalidInput(f"There is no LoRA of the name {name!r}")
        if not lora.facts.fits:
            raise InvalidInput(f"The LoRA {name} does not fit the model: {lora.facts.reason}")
        return lora


NO_LORAS = Loras()


def _read(folder: Path, paths: Iterable[Path], fit: Fit) -> Iterator[Lora]:
    for path in paths:
        name = path.relative_to(folder).with_suffix("").as_posix()
        if not name.isprintable():
            logger.warning("%r in --lora-dir is not used: its name cannot be told", name)
            continue
        try:
            header = read_header(path, told=name)
        except ModelUnusable as unusable:
            logger.warning("in --lora-dir, %s", unusable.detail)
            continue
        if kind_of(header) is not FileKind.LORA:
            logger.warning("%s in --lora-dir is not used: it is no LoRA", name)
            continue
        told = read_lora(header)
        reason = fit.reason(header, told)
        words = told.trigger_words or told.frequent_tags
        facts = LoraFacts(name, words, told.family, reason is None, reason, header.size_bytes)
        yield Lora(facts, path, sum(tensor.elements for tensor in header.tensors.values()), header.metadata)
