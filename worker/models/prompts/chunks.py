"""A prompt of any length as chunks that a CLIP text encoder takes, each with its start, end and padding.

Knows tokens and no tensor. How a prompt is divided is what AUTOMATIC1111's stable-diffusion-webui does
(`sd_hijack_clip.py`): when a chunk is full, what stands behind its last comma goes into the next, if that is little.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count, takewhile
from typing import Any

from worker.models.prompts.embeddings import NO_EMBEDDINGS, Embedding, Embeddings
from worker.models.prompts.syntax import MAX_WEIGHT, Prompt, parse

COMMA_REACH = 20
"""So many tokens at most go into the next chunk, so that no phrase is torn."""
MAX_CHUNKS = 72
"""As many as 4000 characters of ASCII can take by themselves: one token each, and every chunk short of 19 for a comma.
There must be an end, since each chunk makes every step of the denoiser longer."""
PLACEHOLDER = 0
"""The token where an embedding's vector will be; never the end token, by which encoders pool."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """What the encoder takes in one row, all of the tokenizer's length. `embedded`: where vectors take the place of
    tokens, from which position on."""

    ids: tuple[int, ...]
    mask: tuple[int, ...]
    weights: tuple[float, ...]
    embedded: tuple[tuple[int, Embedding], ...] = ()


@dataclass(frozen=True, slots=True)
class Chunked:
    """A whole prompt, at least one chunk, and what a job that uses it must say."""

    chunks: tuple[Chunk, ...]
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Unit:
    """What is not divided: a token, or an embedding in as many places as it has vectors."""

    token: int
    weight: float
    embedding: Embedding | None = None

    @property
    def size(self) -> int:
        return 1 if self.embedding is None else self.embedding.vectors


@dataclass(slots=True)
class _Open:
    """A chunk that is being filled."""

    units: list[_Unit] = field(default_factory=list)
    size: int = 0
    comma: int | None = None
    """How many units there are up to the last comma, and with it."""

    def add(self, unit: _Unit, comma_token: int | None) -> None:
        self.units.append(unit)
        self.size += unit.size
        if unit.token == comma_token and unit.embedding is None:
            self.comma = len(self.units)


class Chunker:
    """For one tokenizer of `transformers`' CLIP kind. Without `keep_phrases` every chunk is filled, commas or not."""

    def __init__(self, tokenizer: Any, embeddings: Embeddings = NO_EMBEDDINGS, *, keep_phrases: bool = True) -> None:
        self._tokenizer = tokenizer
        self._embeddings = embeddings
        self._saved = _saved_embeddings(tokenizer)
        self._length = int(tokenizer.model_max_length)
        comma = self._tokens(",")
        self._comma = comma[0] if len(comma) == 1 and keep_phrases else None

    def chunks(self, text: str) -> Chunked:
        """BREAK ends a chunk, but makes no empty one; the empty prompt is one chunk."""
        prompt = parse(text)
        warnings: dict[str, None] = {}
        if prompt.bounded:
            warnings[f"a weight beyond {MAX_WEIGHT:g} was taken as {MAX_WEIGHT:g}"] = None
        filled: list[_Open] = []
        for units, told in self._parts(prompt):
            warnings |= dict.fromkeys(told)
            filled += self._fill(units)
        filled = filled or [_Open()]
        if cut := sum(one.size for one in filled[MAX_CHUNKS:]):
            warnings[unused(sum(one.size for one in filled), cut)] = None
        return Chunked(tuple(self._closed(one.units) for one in filled[:MAX_CHUNKS]), tuple(warnings))

    def _parts(self, prompt: Prompt) -> Iterator[tuple[list[_Unit], list[str]]]:
        """Each part's units, and its warnings."""
        for part in prompt.parts:
            units: list[_Unit] = []
            warnings = []
            for segment in part:
                for piece in self._embeddings.split(segment.text):
                    if isinstance(piece, Embedding) and self._embeddings.fit(piece):
                        units.append(_Unit(PLACEHOLDER, segment.weight, piece))
                        continue
                    if isinstance(piece, Embedding):
                        warnings.append(f"the embedding {piece.name} does not fit the model; its name was read as text")
                        piece = piece.name
                    units += [_Unit(token, segment.weight) for token in self._tokens(piece)]
            yield units, warnings

    def _tokens(self, text: str) -> list[int]:
        tokens: list[int] = self._tokenizer(text, add_special_tokens=False, verbose=False).input_ids
        return [one for token in tokens for one in self._saved.get(token, (token,))]

    def _fill(self, units: list[_Unit]) -> list[_Open]:
        room = self._length - 2
        filled: list[_Open] = []
        now = _Open()
        for unit in units:
            if now.size + unit.size > room:
                behind = now.units[now.comma :] if now.comma is not None else []
                is_comma = unit.token == self._comma and unit.embedding is None
                little = sum(one.size for one in behind)
                if is_comma or little >= COMMA_REACH or little + unit.size > room:
                    behind, little = [], 0
                now.units = now.units[: len(now.units) - len(behind)]
                now.size -= little
                filled.append(now)
                now = _Open()
                for one in behind:
                    now.add(one, self._comma)
            now.add(unit, self._comma)
        return [*filled, now] if now.units else filled

    def _closed(self, units: list[_Unit]) -> Chunk:
        start, end, padding = (getattr(self._tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad"))
        ids, weights, embedded = [start], [1.0], []
        for unit in units:
            if unit.embedding is not None:
                embedded.append((len(ids), unit.embedding))
            ids += [unit.token] * unit.size
            weights += [unit.weight] * unit.size
        used, rest = len(ids) + 1, self._length - len(ids) - 1
        return Chunk(
            ids=(*ids, end, *[padding] * rest),
            mask=(*[1] * used, *[0] * rest),
            weights=(*weights, *[1.0] * (rest + 1)),
            embedded=tuple(embedded),
        )


def _saved_embeddings(tokenizer: Any) -> dict[int, list[int]]:
    """Of every word that was added, the tokens that it stands for: embeddings of several vectors that were saved with
    a model are `word`, `word_1`, `word_2`, … (`maybe_convert_prompt` of the stock pipelines)."""
    added: dict[str, int] = tokenizer.added_tokens_encoder
    return {
        token: [token, *(added[one] for one in takewhile(added.__contains__, (f"{word}_{k}" for k in count(1))))]
        for word, token in added.items()
    }


def unused(tokens: int, cut: int) -> str:
    """The warning that a prompt was cut, without a word of it."""
    return f"{tokens} tokens are more than the text encoder takes; the last {cut} were not used"
