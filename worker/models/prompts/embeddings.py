"""Textual-inversion embeddings of an operator's folder: which there are, how large, and where a prompt names them.

Knows each file by its header alone, and so needs no torch; safetensors only. `vectors` reads what is in them.
Gal et al., "An Image is Worth One Word", 2022.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worker.errors import ConfigurationError, ModelUnusable
from worker.jobs.facts import EmbeddingFacts
from worker.models.safetensors_header import COMPUTED_WITH, Header, Tensor, read_header

logger = logging.getLogger(__name__)

MAX_VECTORS = 75
"""What one chunk of a CLIP text encoder holds beside its two special tokens."""
KEYS = (("clip_l", "clip_g"), ("emb_params",))
"""Tensors by name in the layouts that have fixed ones: for the two encoders of SDXL, and what AUTOMATIC1111 and kohya
write. Diffusers names its one tensor after the word."""


class NoEmbedding(ValueError):
    """A file that holds something else, or is broken."""


@dataclass(frozen=True, slots=True)
class Vectors:
    """The tensor for one text encoder: its name in the file, and its shape.  # [count, width]"""

    key: str
    count: int
    width: int


@dataclass(frozen=True, slots=True)
class Embedding:
    """One file; `tensors` in the order of a model's CLIP text encoders."""

    name: str
    path: Path
    tensors: tuple[Vectors, ...]

    @property
    def vectors(self) -> int:
        """How many tokens it takes the place of."""
        return self.tensors[0].count

    def fits(self, widths: Sequence[int]) -> bool:
        """Whether it is for text encoders of these widths."""
        counts = {tensor.count for tensor in self.tensors}
        fit_into_chunk = len(counts) == 1 and 1 <= self.vectors <= MAX_VECTORS
        return fit_into_chunk and tuple(tensor.width for tensor in self.tensors) == tuple(widths)


class Embeddings:
    """Those of a folder, for a model whose CLIP text encoders have these widths; nothing is kept of the files."""

    def __init__(self, known: Iterable[Embedding] = (), widths: Sequence[int] = ()) -> None:
        self._widths = tuple(widths)
        self._known: dict[str, Embedding] = {}
        for one in known:
            if self._known.setdefault(one.name.casefold(), one) is not one:
                logger.warning("the embedding %s is there twice; the first one is used", one.name)
        # The longest first, so that no name hides one that begins with it.
        names = sorted((re.escape(one.name) for one in self._known.values()), key=len, reverse=True)
        self._pattern = re.compile(rf"(?<![\w-])(?:{'|'.join(names)})(?![\w-])", re.IGNORECASE) if names else None

    @classmethod
    def in_folder(cls, folder: Path, widths: Sequence[int]) -> Embeddings:
        """Every safetensors file in it or below that is an embedding. Raises ConfigurationError."""
        if not folder.is_dir():
            raise ConfigurationError("--embedding-dir is no folder")
        known = []
        try:
            paths = sorted(path for path in folder.rglob("*.safetensors") if path.is_file())
        except OSError as error:
            raise ConfigurationError(f"--embedding-dir cannot be read: {error.strerror}") from None
        for path in paths:
            try:
                known.append(Embedding(path.stem, path, read_layout(path)))
            except NoEmbedding as reason:
                logger.warning("%s in --embedding-dir is not used: %s", path.name, reason)
        return cls(known, widths)

    @property
    def facts(self) -> tuple[EmbeddingFacts, ...]:
        """As `/v1/info` lists them."""
        known = sorted(self._known.values(), key=lambda one: one.name)
        return tuple(EmbeddingFacts(one.name, one.vectors, self.fit(one)) for one in known)

    def fit(self, embedding: Embedding) -> bool:
        """Whether the model can use it."""
        return embedding.fits(self._widths)

    def split(self, text: str) -> Iterator[str | Embedding]:
        """The text, with each word that names an embedding, in capitals or not, as that."""
        end = 0
        for found in self._pattern.finditer(text) if self._pattern else ():
            embedding = self._known.get(found[0].casefold())
            if embedding is not None:  # a few letters have more capital forms than one
                yield text[end : found.start()]
                yield embedding
                end = found.end()
        yield text[end:]


NO_EMBEDDINGS = Embeddings()


def clip_widths(configs: Iterable[Mapping[str, Any]]) -> tuple[int, ...]:
    """Of those of a model's text encoders that are CLIP's, by their configurations; those that ship name no type."""
    clip = [config for config in configs if "clip" in str(config.get("model_type", "clip"))]
    return tuple(width for config in clip if type(width := config.get("hidden_size")) is int)


def read_layout(path: Path) -> tuple[Vectors, ...]:
    """A file's tensors, in the order of a model's CLIP text encoders. Raises NoEmbedding."""
    try:
        return layout_of(read_header(path, "it"))
    except ModelUnusable as reason:
        raise NoEmbedding(reason.detail) from None


def layout_of(header: Header) -> tuple[Vectors, ...]:
    """As `read_layout`."""
    tensors = header.tensors
    keys = next((keys for keys in KEYS if set(keys) <= set(tensors)), tuple(tensors))
    # One tensor has the name of a word, which a layer's is not.
    if keys not in KEYS and (len(keys) != 1 or keys[0].endswith((".weight", ".bias"))):
        raise NoEmbedding("its tensors are not those of an embedding")
    return tuple(_vectors(key, tensors[key]) for key in keys)


def _vectors(key: str, tensor: Tensor) -> Vectors:
    if tensor.dtype not in COMPUTED_WITH or len(tensor.shape) not in (1, 2) or not tensor.elements:
        raise NoEmbedding("its tensors are not those of an embedding")
    return Vectors(key, 1 if len(tensor.shape) == 1 else tensor.shape[0], tensor.shape[-1])
