"""How the C library hands out memory to torch on the CPU; knows glibc, and leaves any other as it is."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes

# From glibc's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
GIVE_BACK_EVERY_S = 600.0
"""Seldom, since what is given back and needed again is faulted in anew: one or two seconds for each gigabyte."""


def keep_freed_memory() -> None:
    """Let freed memory stay with the process, in one arena, to be used again by the next model call.

    By default the tensors of each call are mapped and unmapped, and every page of them is faulted in anew.
    """
    with contextlib.suppress(OSError, AttributeError):  # no mallopt: musl, macOS, Windows
        mallopt = ctypes.CDLL(None).mallopt
        for option, value in ((M_ARENA_MAX, 1), (M_MMAP_THRESHOLD, 1 << 30), (M_TRIM_THRESHOLD, (1 << 31) - 1)):
            mallopt(option, value)


def give_back_freed_memory() -> None:
    """Return every free page to the system: calls of many sizes leave gaps that no later call fits into."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


async def keep_memory_flat(every_s: float = GIVE_BACK_EVERY_S) -> None:
    """For ever: give back now and then what `keep_freed_memory` keeps."""
    while True:
        await asyncio.sleep(every_s)
        await asyncio.to_thread(give_back_freed_memory)
