"""What the process keeps of freed memory, and that it can be given back."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

TRIAL = """
import ctypes
from pathlib import Path
from worker.allocator import give_back_freed_memory, keep_freed_memory

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
keep_freed_memory()
pieces = [libc.malloc(1_000_000) for _ in range(100)]
for piece in pieces:
    ctypes.memset(piece, 1, 1_000_000)
last = libc.malloc(64)  # at the top: what lies below cannot be cut off
for piece in pieces:
    libc.free(piece)
kept = resident()
give_back_freed_memory()
print(kept - resident())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has it")
def test_what_was_freed_is_kept_until_it_is_given_back() -> None:
    trial = subprocess.run([sys.executable, "-c", TRIAL], capture_output=True, text=True, check=True)
    assert int(trial.stdout) > 90_000_000
