"""How many rows fit, by what a CUDA device would say of its memory."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from worker.engine.device_memory import DeviceMemory


class Card:
    """Torch's view of a device of `total` bytes, `held` of them by torch without being in use."""

    def __init__(self, total: int, weights: int, held: int = 0) -> None:
        self.total, self.allocated, self.held, self.peak = total, weights, held, weights

    def use(self, size: int) -> None:
        """For the length of a call."""
        self.peak = max(self.peak, self.allocated + size)

    def api(self) -> Any:
        return SimpleNamespace(
            synchronize=lambda device: None,
            reset_peak_memory_stats=lambda device: setattr(self, "peak", self.allocated),
            memory_allocated=lambda device: self.allocated,
            max_memory_allocated=lambda device: self.peak,
            memory_reserved=lambda device: self.allocated + self.held,
            mem_get_info=lambda device: (self.total - self.allocated - self.held, self.total),
        )


def test_room_is_what_is_left_beside_the_weights_and_the_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    card = Card(total=10_000, weights=2_000, held=500)
    monkeypatch.setattr(torch, "cuda", card.api())
    decodings: list[int] = []

    def decode() -> None:
        decodings.append(1)
        card.use(3_000)

    memory = DeviceMemory(torch.device("cuda"), decode)
    assert memory.rows_that_fit(2, lambda: card.use(200)) == (10_000 - 2_000 - 3_000) * 2 // 200
    assert memory.rows_that_fit(4, lambda: card.use(1_000)) == 20
    assert decodings == [1], "the decoder is measured once"


def test_a_full_device_holds_less_than_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    card = Card(total=5_000, weights=2_000)
    monkeypatch.setattr(torch, "cuda", card.api())
    memory = DeviceMemory(torch.device("cuda"), lambda: card.use(2_900))
    assert memory.rows_that_fit(2, lambda: card.use(1_000)) == 0


def test_elsewhere_nobody_tells() -> None:
    called: list[int] = []
    memory = DeviceMemory(torch.device("cpu"), lambda: called.append(1))
    assert memory.rows_that_fit(2, lambda: called.append(2)) is None
    assert called == [2]
