"""The vectors of textual-inversion embeddings, put in the place of tokens while a text encoder runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from safetensors import safe_open

from worker.errors import InvalidInput
from worker.models.prompts.chunks import Chunk
from worker.models.prompts.embeddings import Embedding


def read_vectors(embedding: Embedding, encoder: int) -> torch.Tensor:
    """Those for a model's text encoder of this number, from the file.  # [count, width] Raises InvalidInput."""
    expected = embedding.tensors[encoder]
    try:
        with safe_open(embedding.path, framework="pt") as file:
            tensor: torch.Tensor = file.get_tensor(expected.key)
        return tensor.reshape(expected.count, expected.width)
    except Exception:  # the library has a kind of error of its own for each thing that may be wrong
        raise InvalidInput(f"The embedding {embedding.name} cannot be read any more") from None


@contextmanager
def put_in_place(token_embedding: torch.nn.Module, chunks: Sequence[Chunk], encoder: int) -> Iterator[None]:
    """While it lasts, `token_embedding` of these chunks' tokens  # [chunks, 77, width] has the vectors in it."""
    if not any(chunk.embedded for chunk in chunks):
        yield
        return
    read = {one: read_vectors(one, encoder) for chunk in chunks for _, one in chunk.embedded}

    def replace(module: torch.nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        replaced = output.clone()
        for row, chunk in enumerate(chunks):
            for position, one in chunk.embedded:
                replaced[row, position : position + one.vectors] = read[one].to(output)
        return replaced

    handle = token_embedding.register_forward_hook(replace)
    try:
        yield
    finally:
        handle.remove()
