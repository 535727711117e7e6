"""The header of a safetensors file: every tensor's name, type, shape and place. Reads no weight and no library.

The format: eight bytes of length, that much JSON, then the data that the JSON divides without gap or overlap
(https://github.com/huggingface/safetensors#format). Whatever differs from that is refused in one line.
"""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worker.errors import ModelUnusable

LONGEST_HEADER = 100_000_000
"""What the reference implementation reads at most."""
BITS = {
    "BOOL": 8,
    "U8": 8,
    "I8": 8,
    "U16": 16,
    "I16": 16,
    "U32": 32,
    "I32": 32,
    "U64": 64,
    "I64": 64,
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "F8_E4M3": 8,
    "F8_E5M2": 8,
    "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8,
    "F16": 16,
    "BF16": 16,
    "F32": 32,
    "F64": 64,
    "C64": 64,
}
COMPUTED_WITH = ("F16", "BF16", "F32", "F64")
OTHER_FORMATS = (
    (b"PK\x03\x04", "pickled weights in a zip file (PyTorch's format)"),
    *((bytes((0x80, protocol)), "pickled weights") for protocol in (2, 3, 4, 5)),
    (b"\x1f\x8b", "a gzip file"),
    (b"GGUF", "a GGUF file"),
    (b"version https://git-lfs", "a pointer of Git LFS, and not the file itself"),
    (b"<", "a web page"),
)
"""What a file of another format begins with, and what it is."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """One entry: type by its name in the format, shape, and its place in the file in bytes."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def elements(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Header:
    """What a safetensors file says of itself."""

    tensors: dict[str, Tensor]
    metadata: dict[str, str]
    size_bytes: int

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of all tensors, by their names."""
        return {name: tensor.shape for name, tensor in self.tensors.items()}

    def under(self, *prefixes: str) -> dict[str, Tensor]:
        """The tensors whose names begin so."""
        return {name: tensor for name, tensor in self.tensors.items() if name.startswith(prefixes)}


def read_header(file: Path, told: str = "the file") -> Header:
    """Read and check a header. Raises ModelUnusable, which calls the file `told` and does not name its place."""
    try:
        with file.open("rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            start = stream.read(32)
            refused = _refusal(start, size)
            text = b"" if refused else start[8:] + stream.read(max(0, _length(start) - 24))
    except OSError as error:
        raise ModelUnusable(f"{told} cannot be read ({type(error).__name__})") from None
    if refused:
        raise ModelUnusable(f"{told} {refused}")
    length = _length(start)
    try:
        tensors, metadata = _parse(text[:length])
        _check_places(tensors, size - 8 - length)
    except ValueError as wrong:
        raise ModelUnusable(f"{told} is a damaged safetensors file: {wrong}") from None
    except RecursionError:
        raise ModelUnusable(f"{told} is a damaged safetensors file: its header is nested too deeply") from None
    data = 8 + length
    placed = {name: Tensor(t.dtype, t.shape, data + t.begin, data + t.end) for name, t in tensors.items()}
    return Header(placed, metadata, size)


def refuse_types(tensors: Iterable[tuple[str, Tensor]], where: str) -> None:
    """Refuse weights in a type that nothing is computed in. Positions and counters are no weights."""
    for name, tensor in tensors:
        if tensor.dtype not in COMPUTED_WITH and tensor.elements > 1 and not name.endswith("position_ids"):
            raise ModelUnusable(
                f"the weights of {where} are of type {tensor.dtype} ({name}); "
                f"only {', '.join(COMPUTED_WITH)} can be computed with"
            )


def _length(start: bytes) -> int:
    return int(struct.unpack("<Q", start[:8])[0])


def _refusal(start: bytes, size: int) -> str:
    """Why a file that begins so is no safetensors file; empty if it may be one."""
    for magic, what in OTHER_FORMATS:
        # A length could begin with the same byte: then JSON follows.
        if start.startswith(magic) and start[8:9] != b"{":
            return f"is {what}; only safetensors is served"
    if size < 10:
        return "is no safetensors file: it is too short for one"
    if start[8:9] != b"{":
        return "is no safetensors file: its header is no JSON object"
    if (length := _length(start)) > min(size - 8, LONGEST_HEADER):
        return f"is a damaged safetensors file: its header of {length} bytes goes beyond {_bound(size)}"
    return ""


def _bound(size: int) -> str:
    return "what is allowed" if size - 8 > LONGEST_HEADER else "the end of the file"


def _parse(text: bytes) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors, placed from the start of the data; and the metadata. Raises ValueError with what is wrong."""
    try:
        header = json.loads(text.decode("utf-8"), object_pairs_hook=_once)
    except UnicodeDecodeError:
        raise ValueError("its header is no UTF-8") from None
    except json.JSONDecodeError:
        raise ValueError("its header is no JSON") from None
    metadata = header.pop("__metadata__", None) or {}
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError("its metadata is not text by name")
    return {name: _tensor(name, entry) for name, entry in header.items()}, metadata


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("its header names something twice")
    return found


def _tensor(name: str, entry: object) -> Tensor:
    match entry:
        case {"dtype": str(dtype), "shape": list(shape), "data_offsets": [int(begin), int(end)]}:
            if dtype not in BITS:
                raise ValueError(f"{name} is of the unknown type {dtype[:20]!r}")
            if not all(type(side) is int and side >= 0 for side in shape):
                raise ValueError(f"{name} has no usable shape")
            tensor = Tensor(dtype, tuple(shape), begin, end)
            if begin < 0 or (end - begin) * 8 != tensor.elements * BITS[dtype]:
                raise ValueError(f"{name} takes another number of bytes than its shape and type do")
            return tensor
        case _:
            raise ValueError(f"{name} lacks its type, shape or place")


def _check_places(tensors: dict[str, Tensor], data_bytes: int) -> None:
    """They divide the data without gap or overlap. Raises ValueError with what is wrong."""
    end = 0
    for name, tensor in sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].end)):
        if tensor.end > data_bytes:
            raise ValueError(f"{name} ends beyond the end of the file, which is cut short")
        if tensor.begin < end:
            raise ValueError(f"{name} overlaps what is before it")
        if tensor.begin > end:
            raise ValueError(f"there is a gap before {name}")
        end = tensor.end
    if end != data_bytes:
        raise ValueError("there is more in the file than its header tells of")
