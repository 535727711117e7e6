"""What was made for a key, kept in bounded number: prompts' encodings, samplers' plans."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Cache(Generic[K, V]):
    """At most `capacity` values, made by `make` when they are not there; the least recently used goes first.

    `on_get` hears of every `get` whether the value was there.
    """

    def __init__(
        self, make: Callable[[K], V], capacity: int = 128, on_get: Callable[[bool], None] = lambda hit: None
    ) -> None:
        self._make = make
        self._capacity = capacity
        self._on_get = on_get
        self._kept: OrderedDict[K, V] = OrderedDict()

    def values(self) -> Collection[V]:
        """What is kept now."""
        return self._kept.values()

    def let_go(self, but: Callable[[V], bool] = lambda value: False) -> bool:
        """Forget all values `but` some; whether there were any."""
        idle = [key for key, value in self._kept.items() if not but(value)]
        for key in idle:
            del self._kept[key]
        return bool(idle)

    def get(self, key: K) -> V:
        """The value for `key`."""
        self._on_get(key in self._kept)
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        made = self._kept[key] = self._make(key)
        if len(self._kept) > self._capacity:
            self._kept.popitem(last=False)
        return made
