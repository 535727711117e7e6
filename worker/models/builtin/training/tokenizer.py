"""A byte-level CLIP tokenizer for the built-in model: every byte is a token, known words are one token.

Writes the files that `transformers.CLIPTokenizer` reads; no text can fall outside the vocabulary.
"""

from __future__ import annotations

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path

from tokenizers import pre_tokenizers

from worker.models.builtin.training import scenes
from worker.models.builtin.training.captions import LEAD_INS, TRIMMINGS

EVERYDAY_WORDS = (
    "and or of the a an in on at with to from by for is are this that it its no not very more less one two "
    "three four five picture image drawing painting photo illustration sketch shape figure thing object "
    "background side corner middle center centre left right top bottom upper lower above below beside next "
    "behind under over between small large big tiny little huge tall wide long short bright dark light pale "
    "deep colour color coloured colored simple flat clean minimal detailed beautiful nice pretty sharp soft "
    "high best low quality art vector digital style masterpiece please draw show make paint me my your cat "
    "dog horse bird fish tree house car sun moon sky sea flower man woman girl boy face person people city "
    "mountain river forest night day summer winter water fire grass snow old new young happy sad blurry ugly "
    "bad watermark text grey gray brown gold silver magenta violet turquoise circle circles round disc ball "
    "square squares box rectangle triangle star stars ring rings cross plus diamond heart hearts line lines"
)
"""Words worth a token of their own beside those of the captions."""

START, END = "<|startoftext|>", "<|endoftext|>"
MAX_LENGTH = 77


def write_tokenizer(folder: Path) -> int:
    """Write `vocab.json`, `merges.txt` and the configs into `folder`; returns the vocabulary's size."""
    caption_words = [*scenes.COLOURS, *scenes.SHAPES, *LEAD_INS, *TRIMMINGS]
    words = sorted(set(" ".join([*caption_words, *scenes.POSITIONS, EVERYDAY_WORDS]).split()))
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = learn_merges(words)

    # CLIP's order: the bytes, the bytes that end a word, the merges, then the two special tokens.
    vocabulary = [*alphabet, *(f"{byte}</w>" for byte in alphabet), *("".join(pair) for pair in merges), START, END]
    vocabulary = list(dict.fromkeys(vocabulary))
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "vocab.json", {token: index for index, token in enumerate(vocabulary)})
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    special = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": END}
    write_json(folder / "special_tokens_map.json", special)
    write_json(
        folder / "tokenizer_config.json",
        {**special, "tokenizer_class": "CLIPTokenizer", "model_max_length": MAX_LENGTH, "do_lower_case": True},
    )
    return len(vocabulary)


def learn_merges(words: list[str]) -> list[tuple[str, str]]:
    """Byte-pair encoding (Sennrich et al., 2016) until every one of `words` is one token, the same on every run.

    The libraries' trainers break ties by the order of a hash table, and a text encoder knows its own ids only.
    """
    pieces = [[*word[:-1], f"{word[-1]}</w>"] for word in words]
    merges = []
    while counts := Counter(pair for piece in pieces for pair in pairwise(piece)):
        best = max(counts, key=lambda pair: (counts[pair], pair))
        merges.append(best)
        pieces = [_merged(piece, best) for piece in pieces]
    return merges


def _merged(piece: list[str], pair: tuple[str, str]) -> list[str]:
    """`piece` with every `pair` in it made one, from the left."""
    merged: list[str] = []
    for token in piece:
        if merged and (merged[-1], token) == pair:
            merged[-1] += token
        else:
            merged.append(token)
    return merged


def write_json(path: Path, value: object) -> None:
    """Write `value` as readable JSON with a final newline."""
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
