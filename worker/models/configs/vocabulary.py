"""Makes the tokenizer's files from the vocabulary that OpenAI published with CLIP, under the MIT licence.

`python -m worker.models.configs.vocabulary FILE`, where FILE is `bpe_simple_vocab_16e6.txt.gz` as it lies in OpenAI's
repository and in the packages `openai-clip` and `open_clip_torch`.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import sys
from pathlib import Path

SHA256 = "924691ac288e54409236115652ad4aa250f48203de50a9e4722a6ecd48d6804a"
SIZE = 49408
START, END = "<|startoftext|>", "<|endoftext|>"
FOLDER = Path(__file__).parent / "tokenizer"


def byte_letters() -> list[str]:
    """A printable letter for each of the 256 bytes, in the order of CLIP's vocabulary: printable bytes first.

    Source: `bytes_to_unicode` of GPT-2's encoder, which CLIP took over.
    """
    shown = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    return [chr(byte) for byte in shown] + [chr(256 + place) for place in range(256 - len(shown))]


def make(published: bytes, folder: Path) -> None:
    """Write `vocab.json`, `merges.txt` and the tokenizer's configuration. Raises ValueError for another file."""
    if hashlib.sha256(published).hexdigest() != SHA256:
        raise ValueError("this is not the vocabulary that CLIP was published with")
    letters = byte_letters()
    room = SIZE - 2 * len(letters) - 2
    # The published file holds more merges than CLIP's vocabulary has room for; its first line is a version.
    merges = gzip.decompress(published).decode("utf-8").split("\n")[1 : 1 + room]
    words = ["".join(merge.split()) for merge in merges]
    vocabulary = [*letters, *(f"{letter}</w>" for letter in letters), *words, START, END]
    if len(set(vocabulary)) != SIZE:
        raise ValueError(f"the vocabulary has {len(set(vocabulary))} tokens and not {SIZE}")
    folder.mkdir(parents=True, exist_ok=True)
    ids = {token: place for place, token in enumerate(vocabulary)}
    (folder / "vocab.json").write_text(json.dumps(ids, ensure_ascii=False) + "\n", encoding="utf-8")
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n", encoding="utf-8")
    special = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": END}
    config = special | {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "do_lower_case": True}
    (folder / "special_tokens_map.json").write_text(json.dumps(special, indent=2) + "\n", encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    make(Path(sys.argv[1]).read_bytes(), FOLDER)
