"""How memory is handed out to torch on the CPU; knows glibc and oneDNN, and leaves any other as it is."""

from __future__ import annotations

import contextlib
import ctypes
import os

# From glibc's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
KERNELS = 16_384
"""oneDNN makes a kernel for each shape of each layer and keeps 1,024 of them. Calls of many sizes and row counts need
several thousand: then kernels are made and thrown away for ever, and each one lies between large tensors, so that the
gaps there grow. Kept, they cost some ten kilobytes each."""


def keep_freed_memory() -> None:
    """Let freed memory stay with the process, in one arena, to be used again by the next model call.

    By default the tensors of each call are mapped and unmapped, and every page of them is faulted in anew. Call it
    before torch is imported.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", str(KERNELS))
    with contextlib.suppress(OSError, AttributeError, TypeError):  # no mallopt: musl, macOS, Windows
        mallopt = ctypes.CDLL(None).mallopt
        for option, value in ((M_ARENA_MAX, 1), (M_MMAP_THRESHOLD, 1 << 30), (M_TRIM_THRESHOLD, (1 << 31) - 1)):
            mallopt(option, value)
