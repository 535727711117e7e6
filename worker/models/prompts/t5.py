"""A prompt as the tokens of a T5 text encoder, which takes one fixed length and knows no weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from worker.models.prompts.chunks import unused
from worker.models.prompts.syntax import parse

NO_WEIGHTS = "weights in the prompt have no effect on the model's T5 text encoder"


@dataclass(frozen=True, slots=True, eq=False)
class T5Tokens:
    """Tokens, on the CPU  # [1, length], and what a job that uses them must say."""

    ids: torch.Tensor
    warnings: tuple[str, ...] = ()


def t5_tokens(tokenizer: Any, text: str, length: int) -> T5Tokens:
    """The words of the prompt without its syntax, padded to `length`; what is longer is cut, and that is told.

    A prompt without syntax gives the tokens that the stock pipelines of Stable Diffusion 3 and FLUX make.
    """
    prompt = parse(text)
    tokens = tokenizer(prompt.text, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
    there = len(tokenizer(prompt.text, add_special_tokens=False, verbose=False).input_ids)
    cut = there - (length - tokenizer.num_special_tokens_to_add())
    warnings = [NO_WEIGHTS] if prompt.weighted else []
    warnings += [unused(there, cut)] if cut > 0 else []
    return T5Tokens(tokens.input_ids, tuple(warnings))
