"""A prompt of any length through one CLIP text encoder. Which of its hidden states count, the family says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

from worker.models.prompts.chunks import Chunker
from worker.models.prompts.embeddings import NO_EMBEDDINGS, Embeddings
from worker.models.prompts.vectors import put_in_place
from worker.models.prompts.weighting import weigh

Forward = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor | None]]
"""From tokens and their mask, both on the CPU  # [n, 77], to hidden states  # [n, 77, width], and what is pooled from
them  # [n, projection] if the family wants that."""


@dataclass(frozen=True, slots=True, eq=False)
class Encoded:
    """Hidden states of all chunks behind one another  # [1, 77 chunks, width]; pooled of the first  # [1, projection].

    `warnings` are what a job that uses it must say.
    """

    hidden: torch.Tensor
    pooled: torch.Tensor | None
    warnings: tuple[str, ...] = ()


class ClipEncoder:
    """`forward` calls `text_encoder`, which is the model's CLIP text encoder of this `number`, from 0.

    A prompt of one chunk and without weights gives what the stock pipelines give, to the last bit. With `first_alone`
    there is only the first chunk, cut where it is full: all that a model takes which needs what is pooled alone.
    """

    def __init__(
        self,
        tokenizer: Any,
        text_encoder: Any,
        forward: Forward,
        *,
        number: int = 0,
        embeddings: Embeddings = NO_EMBEDDINGS,
        first_alone: bool = False,
    ) -> None:
        self._chunker = Chunker(tokenizer, embeddings, keep_phrases=not first_alone)
        self._first_alone = first_alone
        self._text_encoder = text_encoder
        self._forward = forward
        self._number = number

    @torch.inference_mode()
    def encode(self, text: str) -> Encoded:
        """All chunks in one call of the encoder. Raises InvalidInput."""
        chunked = self._chunker.chunks(text)
        chunks = chunked.chunks[:1] if self._first_alone else chunked.chunks
        ids, mask = (torch.tensor([getattr(chunk, name) for chunk in chunks]) for name in ("ids", "mask"))
        with put_in_place(self._text_encoder.get_input_embeddings(), chunks, self._number):
            hidden, pooled = self._forward(ids, mask)
        weights = torch.tensor([chunk.weights for chunk in chunks])
        if bool((weights != 1.0).any()):
            hidden = weigh(hidden, weights)
        return Encoded(hidden.flatten(0, 1)[None], None if pooled is None else pooled[:1], chunked.warnings)


def encode_side_by_side(text: str, *encoders: ClipEncoder) -> Encoded:
    """What several encoders make of one prompt. Their tokenizers may count differently: one that fills fewer chunks
    goes on with the empty prompt. Raises InvalidInput."""
    encoded = [one.encode(text) for one in encoders]
    most = max(one.hidden.shape[1] for one in encoded)
    for number, one in enumerate(encoded):
        if one.hidden.shape[1] < most:
            empty = encoders[number].encode("").hidden
            missing = (most - one.hidden.shape[1]) // empty.shape[1]
            encoded[number] = replace(one, hidden=torch.cat([one.hidden, *[empty] * missing], dim=1))
    return side_by_side(*encoded)


def side_by_side(*encoded: Encoded) -> Encoded:
    """What several encoders made of one prompt, feature by feature: hidden states, and of those that pool, pooled."""
    pooled = [one.pooled for one in encoded if one.pooled is not None]
    return Encoded(
        torch.cat([one.hidden for one in encoded], dim=-1),
        torch.cat(pooled, dim=-1) if pooled else None,
        tuple(dict.fromkeys(warning for one in encoded for warning in one.warnings)),
    )
