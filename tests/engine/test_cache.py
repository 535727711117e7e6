"""What is made once is kept as long as it is in use."""

from __future__ import annotations

import pytest

from worker.engine.cache import Cache


def test_the_same_text_is_encoded_once() -> None:
    encoded: list[str] = []
    cache = Cache(lambda text: encoded.append(text) or text.upper())
    assert [cache.get(text) for text in ("a", "b", "a", "")] == ["A", "B", "A", ""]
    assert encoded == ["a", "b", ""]


def test_the_least_recently_used_is_dropped_first() -> None:
    encoded: list[str] = []
    cache = Cache(lambda text: encoded.append(text), capacity=2)
    for text in ("a", "b", "a", "c", "a", "b"):
        cache.get(text)
    assert encoded == ["a", "b", "c", "b"]


def test_every_look_tells_whether_the_value_was_there() -> None:
    looks: list[bool] = []
    cache = Cache(str.upper, on_get=looks.append)
    for text in ("a", "b", "a"):
        cache.get(text)
    assert looks == [False, False, True]


def test_what_could_not_be_encoded_is_not_kept() -> None:
    answers = iter([MemoryError(), "fine"])

    def encode(text: str) -> str:
        if isinstance(answer := next(answers), Exception):
            raise answer
        return str(answer)

    cache = Cache(encode)
    with pytest.raises(MemoryError):
        cache.get("a")
    assert cache.get("a") == "fine"
