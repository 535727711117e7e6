"""Safetensors files of any header, made without a library: what a test needs of a file that is never loaded."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from worker.models.safetensors_header import BITS

Shapes = Mapping[str, tuple[int, ...]]


def entries(shapes: Shapes, dtype: str = "F16", types: Mapping[str, str] | None = None) -> dict[str, dict[str, Any]]:
    """The header of tensors one behind the other; `types` are those of some of them, by name."""
    header: dict[str, dict[str, Any]] = {}
    end = 0
    for name, shape in shapes.items():
        own = (types or {}).get(name, dtype)
        begin, end = end, end + math.prod(shape) * BITS[own] // 8
        header[name] = {"dtype": own, "shape": list(shape), "data_offsets": [begin, end]}
    return header


def write_header(file: Path, header: Mapping[str, Any], data_bytes: int | None = None) -> Path:
    """A file of this header, and behind it as many zeros as it tells of, or `data_bytes`; they take no room on disk."""
    text = json.dumps(header).encode()
    told = max((entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"), default=0)
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("wb") as stream:
        stream.write(struct.pack("<Q", len(text)) + text)
        stream.truncate(8 + len(text) + (told if data_bytes is None else data_bytes))
    return file


def write_zeros(
    file: Path,
    shapes: Shapes,
    *,
    dtype: str = "F16",
    types: Mapping[str, str] | None = None,
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """A whole safetensors file whose weights are zero."""
    header = entries(shapes, dtype, types)
    return write_header(file, ({"__metadata__": dict(metadata)} if metadata else {}) | header)
