"""The syntax of prompts that users of Stable Diffusion type: `(word)`, `(word:1.3)`, `[word]`, `\\(`, `BREAK`.

Knows text alone. Every text is a prompt: what does not fit the syntax stands for itself, and nothing raises.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

STRONGER = 1.1
"""What a pair of brackets makes of the weight, as in AUTOMATIC1111's stable-diffusion-webui (wiki, "Features",
"Attention/emphasis"), whose syntax this is."""
MAX_WEIGHT = 10.0
"""Either way. People write weights up to 2; what is far beyond overflows in half precision."""
_OVERFLOW = 1e30
_SIGN = re.compile(
    r"""(?<!\\)(?P<backslashes>\\*)(?P<bracket>[()\[\]])
      | :\s*(?P<number>[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+))\s*\)
      | \b(?P<new_chunk>BREAK)\b""",
    re.VERBOSE,
)
_PARTNER = {")": "(", "]": "["}


@dataclass(frozen=True, slots=True)
class Segment:
    """Some text, and how much it weighs; 1 is usual."""

    text: str
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Prompt:
    """What was read: the parts between the BREAKs, each of segments of different weight; `bounded` if one of them was
    beyond `MAX_WEIGHT`."""

    parts: tuple[tuple[Segment, ...], ...]
    bounded: bool = False

    @property
    def text(self) -> str:
        """The words alone, for a text encoder that weighs nothing."""
        return " ".join("".join(segment.text for segment in part) for part in self.parts)

    @property
    def weighted(self) -> bool:
        """Whether anything weighs other than usual."""
        return any(segment.weight != 1.0 for part in self.parts for segment in part)


@dataclass(slots=True)
class _Piece:
    """A stretch of the prompt. An opening bracket that has found its partner has the `factor` of what is between them,
    the partner `closes`; either has no text then."""

    text: str
    opens: str = ""
    factor: float | None = None
    closes: bool = False
    new_chunk: bool = False


def parse(text: str) -> Prompt:
    """A bracket without a partner is an ordinary character. Takes time in proportion to the text."""
    pieces = _paired(text)
    parts: list[list[Segment]] = [[]]
    weights, bounded = [1.0], False
    for piece in pieces:
        if piece.factor is not None:
            weights.append(_within(weights[-1] * _within(piece.factor, _OVERFLOW), _OVERFLOW))
        elif piece.closes:
            weights.pop()
        elif piece.new_chunk:
            parts.append([])
        elif piece.text:
            weight = _within(weights[-1], MAX_WEIGHT)
            bounded = bounded or weight != weights[-1]
            parts[-1].append(Segment(piece.text, weight))
    last = len(parts) - 1
    return Prompt(tuple(_tidied(part, k > 0, k < last) for k, part in enumerate(parts)), bounded)


def _within(weight: float, most: float) -> float:
    return min(max(weight, -most), most)


def _paired(text: str) -> list[_Piece]:
    """The prompt in pieces, with the brackets that belong together told so."""
    pieces: list[_Piece] = []
    open_brackets: list[_Piece] = []
    how_many = {"(": 0, "[": 0}

    def close(opening: str, factor: float) -> None:
        """Those opened since, and not closed, are ordinary characters."""
        while (inner := open_brackets.pop()).opens != opening:
            how_many[inner.opens] -= 1
        how_many[opening] -= 1
        inner.text, inner.factor = "", factor
        pieces.append(_Piece("", closes=True))

    end = 0
    for sign in _SIGN.finditer(text):
        pieces.append(_Piece(text[end : sign.start()]))
        end = sign.end()
        backslashes, bracket, number = sign["backslashes"], sign["bracket"], sign["number"]
        if sign["new_chunk"]:
            pieces.append(_Piece("", new_chunk=True))
        elif number is not None:
            if how_many["("]:
                close("(", float(number))
            else:
                pieces.append(_Piece(sign[0]))
        elif len(backslashes) % 2:
            pieces.append(_Piece(backslashes[: len(backslashes) // 2] + bracket))
        else:
            pieces.append(_Piece(backslashes[: len(backslashes) // 2]))
            if bracket in how_many:
                pieces.append(_Piece(bracket, opens=bracket))
                open_brackets.append(pieces[-1])
                how_many[bracket] += 1
            elif how_many[_PARTNER[bracket]]:
                close(_PARTNER[bracket], STRONGER if bracket == ")" else 1 / STRONGER)
            else:
                pieces.append(_Piece(bracket))
    pieces.append(_Piece(text[end:]))
    return pieces


def _tidied(part: Sequence[Segment], strip_start: bool, strip_end: bool) -> tuple[Segment, ...]:
    """Neighbours of one weight as one, without the white space around a BREAK."""
    merged: list[Segment] = []
    for segment in part:
        if merged and merged[-1].weight == segment.weight:
            merged[-1] = Segment(merged[-1].text + segment.text, segment.weight)
        else:
            merged.append(segment)
    if merged and strip_start:
        merged[0] = Segment(merged[0].text.lstrip(), merged[0].weight)
    if merged and strip_end:
        merged[-1] = Segment(merged[-1].text.rstrip(), merged[-1].weight)
    return tuple(segment for segment in merged if segment.text)
