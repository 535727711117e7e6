"""How the C library hands out memory to torch on the CPU; knows glibc, and leaves any other as it is."""

from __future__ import annotations

import contextlib
import ctypes

# From glibc's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8


def keep_freed_memory() -> None:
    """Let freed memory stay with the process, in one arena, to be used again by the next model call.

    By default the tensors of each call are mapped and unmapped, and every page of them is faulted in anew.
    """
    with contextlib.suppress(OSError, AttributeError):  # no mallopt: musl, macOS, Windows
        mallopt = ctypes.CDLL(None).mallopt
        for option, value in ((M_ARENA_MAX, 1), (M_MMAP_THRESHOLD, 1 << 30), (M_TRIM_THRESHOLD, (1 << 31) - 1)):
            mallopt(option, value)
