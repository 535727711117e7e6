"""What calls need of a CUDA device's memory, and how much there is; elsewhere nobody tells."""

from __future__ import annotations

from collections.abc import Callable

import torch

from worker.engine.device_waiting import wait_for


class DeviceMemory:
    """`reserve` is called once, for what must stay free beside the calls; its own need is what is kept."""

    def __init__(self, device: torch.device, reserve: Callable[[], object]) -> None:
        self._device = device
        self._reserve = reserve
        self._reserved_bytes: int | None = None

    def rows_that_fit(self, rows: int, call: Callable[[], object]) -> int | None:
        """Make `call`, which has `rows` rows: how many a call could have. None where memory is not measured."""
        needed = self._needed_bytes(call)
        if needed is None:
            return None
        room = self._room_bytes()  # before the reserve, which may move weights
        if self._reserved_bytes is None:
            self._reserved_bytes = self._needed_bytes(self._reserve) or 0
        return int((room - self._reserved_bytes) * rows // max(1, needed))

    def free_bytes(self) -> int | None:
        """Free on the device when torch holds nothing back; None where memory is not measured."""
        if self._device.type != "cuda":
            return None
        wait_for(self._device)
        torch.cuda.empty_cache()  # not the pools of captured graphs, which stay theirs
        return torch.cuda.mem_get_info(self._device)[0]

    def _needed_bytes(self, call: Callable[[], object]) -> int | None:
        """At its peak, beyond what was there before."""
        if self._device.type != "cuda":
            call()
            return None
        torch.cuda.reset_peak_memory_stats(self._device)
        before = torch.cuda.memory_allocated(self._device)
        call()  # torch counts what it hands out while it is told what to do, not when that is done
        return torch.cuda.max_memory_allocated(self._device) - before

    def _room_bytes(self) -> int:
        """Free on the device, and held by torch without being in use."""
        free, _ = torch.cuda.mem_get_info(self._device)
        return free + torch.cuda.memory_reserved(self._device) - torch.cuda.memory_allocated(self._device)
