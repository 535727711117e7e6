"""Tokens for a T5 encoder: the stock pipelines', and a word about what they leave out."""

from __future__ import annotations

import pytest
import torch
from transformers import T5Tokenizer

from worker.models.prompts.t5 import NO_WEIGHTS, t5_tokens

WORDS = ("a", "red", "circle", "blue", "star")


@pytest.fixture(scope="module")
def tokenizer() -> T5Tokenizer:
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *((f"▁{word}", -2.0) for word in WORDS), ("▁", -4.0)]
    pieces += [(letter, -6.0) for letter in "abcdefghijklmnopqrstuvwxyz,."]
    return T5Tokenizer(vocab=pieces, extra_ids=0)


@pytest.mark.parametrize("text", ["", "a red circle", "a red circle, " * 3, "red " * 50])
def test_a_plain_prompts_tokens_are_the_stock_pipelines(tokenizer: T5Tokenizer, text: str) -> None:
    stock = tokenizer(
        text, padding="max_length", max_length=32, truncation=True, add_special_tokens=True, return_tensors="pt"
    )
    tokens = t5_tokens(tokenizer, text, 32)
    assert torch.equal(tokens.ids, stock.input_ids)
    assert tokens.ids.shape == (1, 32)


@pytest.mark.parametrize(("words", "warnings"), [
    (31, ()),
    (32, ("32 tokens are more than the text encoder takes; the last 1 were not used",)),
    (812, ("812 tokens are more than the text encoder takes; the last 781 were not used",)),
])  # fmt: skip
def test_what_is_cut_is_told(tokenizer: T5Tokenizer, words: int, warnings: tuple[str, ...]) -> None:
    assert t5_tokens(tokenizer, "red " * words, 32).warnings == warnings


def test_the_syntax_is_left_out_and_that_is_told(tokenizer: T5Tokenizer) -> None:
    tokens = t5_tokens(tokenizer, "a (red:1.3) circle BREAK blue", 32)
    assert torch.equal(tokens.ids, t5_tokens(tokenizer, "a red circle blue", 32).ids)
    assert tokens.warnings == (NO_WEIGHTS,)
