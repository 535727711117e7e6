"""Prompt encodings kept by text, the least recently used dropped first."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

V = TypeVar("V")


class PromptCache(Generic[V]):
    """At most `capacity` encodings, made by `encode` when they are not there."""

    def __init__(self, encode: Callable[[str], V], capacity: int = 128) -> None:
        self._encode = encode
        self._capacity = capacity
        self._kept: OrderedDict[str, V] = OrderedDict()

    def get(self, text: str) -> V:
        """The encoding of `text`."""
        if text in self._kept:
            self._kept.move_to_end(text)
            return self._kept[text]
        encoded = self._kept[text] = self._encode(text)
        if len(self._kept) > self._capacity:
            self._kept.popitem(last=False)
        return encoded
