"""What torch raises when a device fails, told in the worker's own errors."""

from __future__ import annotations

import torch

from worker.engine.runner import DeviceLost
from worker.errors import OutOfMemory

OUT_OF_MEMORY = (
    "can't allocate memory",
    "MPS backend out of memory",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "unable to find an engine to execute this computation",  # cuDNN's, where none of its plans had the room
)
NO_ROOM_FOR_A_KERNEL = "could not create a primitive"
"""oneDNN's whole text, where a kernel that it has chosen finds no memory; it goes on where there is no such kernel."""
STICKY_CUDA_ERRORS = ("device-side assert", "illegal memory access", "unspecified launch failure", "ECC error")


class mapped_errors:  # noqa: N801 - reads as a statement
    """Raises OutOfMemory, DeviceLost for what happens inside."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        # Only CUDA has a class for it; the CPU's allocator and Metal's raise a plain RuntimeError.
        told = isinstance(error, RuntimeError) and (
            any(sign in str(error) for sign in OUT_OF_MEMORY) or str(error) == NO_ROOM_FOR_A_KERNEL
        )
        if told or isinstance(error, (torch.OutOfMemoryError, MemoryError)):
            raise OutOfMemory("The device's memory does not hold this job; fewer or smaller images may fit") from None
        if isinstance(error, RuntimeError) and (any(sign in str(error) for sign in STICKY_CUDA_ERRORS) or _is_lost()):
            raise DeviceLost("the device reported an error that it does not recover from") from error


def _is_lost() -> bool:
    """Whether this thread's CUDA device answers to nothing any more: such an error comes back from every later call,
    under many names."""
    if not torch.cuda.is_initialized():
        return False
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        return True
    return False
