"""What a checkpoint or an adapter is, as plain values: gathered from headers and JSON, without reading a weight."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from worker.errors import ModelUnusable
from worker.models import checksum, contents
from worker.models.checkpoint import Source
from worker.models.controls.shapes import told_family
from worker.models.family import Family
from worker.models.file_kind import FileKind, kind_of
from worker.models.folder import DiffusersFolder, read_json
from worker.models.lora_file import printable, read_lora
from worker.models.prompts.embeddings import layout_of
from worker.models.registry import (
    ReadNoise,
    family_of,
    offered_samplers,
    open_source,
    own_defaults,
    refuse_unknown_noise,
    usual_defaults,
)
from worker.models.safetensors_header import Header, Tensor, read_header
from worker.models.single_file import SingleFile
from worker.models.upscalers import kinds

MODELSPEC = ("title", "author", "architecture", "prediction_type", "resolution", "license")
"""What is shown of a file's metadata, of the standard's keys."""


def report(
    path: Path, config: str | None = None, *, samplers: tuple[str, ...], read_noise: ReadNoise, sha256: bool = False
) -> dict[str, Any]:
    """What `path` is, to a worker that has these samplers. With `sha256` it reads all of it. Raises ModelUnusable where
    that cannot be told."""

    def checkpoint() -> dict[str, Any]:
        return _checkpoint(open_source(str(path), config), samplers, read_noise)

    if path.is_file():
        # Whatever it is called: a file of another format says so itself.
        header = read_header(path)
        kind = kind_of(header)
        told = checkpoint() if kind is FileKind.CHECKPOINT else _adapter(kind, header)
        if shown := {key: printable(header.metadata[f"modelspec.{key}"]) for key in MODELSPEC if _has(header, key)}:
            told["metadata"] = shown
        told["bytes"] = header.size_bytes
        if sha256:
            told["sha256"] = checksum.of_file(path)
        return told
    if (path / "config.json").is_file() and not (path / "model_index.json").exists():
        told = _controlnet_folder(path)
    else:
        told = checkpoint()
    told["bytes"] = sum(file.stat().st_size for file in path.rglob("*.safetensors"))
    if sha256:
        told["sha256"] = checksum.of_folder(path)
    return told


def _has(header: Header, key: str) -> bool:
    return f"modelspec.{key}" in header.metadata


def _checkpoint(source: Source, samplers: tuple[str, ...], read_noise: ReadNoise) -> dict[str, Any]:
    family = family_of(source)
    scheduler = source.config("scheduler")
    offered = offered_samplers(source, family, samplers)
    defaults = usual_defaults(source, family, offered)
    served, why_not = True, ""
    weights: dict[str, dict[str, Tensor]] = {}
    try:
        source.refuse_code()
        contents.refuse_foreign_classes(source)
        refuse_unknown_noise(source, read_noise)
        defaults |= own_defaults(source, family, offered)
        weights = contents.weights_of(source, family, "float32")
    except ModelUnusable as refused:
        served, why_not = False, refused.detail
    return {
        "kind": FileKind.CHECKPOINT.value,
        "family": family.name,
        "variant": family.variant,
        "layout": "one file" if isinstance(source, SingleFile) else "diffusers folder",
        **({"configuration": source.told} if source.told else {}),
        "prediction_type": _prediction(family, scheduler),
        **_counted(weights),
        "defaults": defaults,
        "tasks": [task.value for task in family.tasks],
        "served": served,
        **({"why_not": why_not} if why_not else {}),
    }


def _prediction(family: Family, scheduler: Mapping[str, Any]) -> str:
    return "flow" if family.flow else str(scheduler.get("prediction_type", "epsilon"))


def _counted(weights: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Any]:
    return {
        "parameters": {part: sum(one.elements for one in tensors.values()) for part, tensors in weights.items()},
        "types": _types(one for tensors in weights.values() for one in tensors.values()),
    }


def _types(tensors: Iterable[Tensor]) -> list[str]:
    """Those that occur, the one of most parameters first."""
    counts: Counter[str] = Counter()
    for tensor in tensors:
        counts[tensor.dtype] += tensor.elements
    return [name for name, _ in counts.most_common()]


def _adapter(kind: FileKind, header: Header) -> dict[str, Any]:
    told: dict[str, Any] = {"kind": kind.value, **_counted({"file": header.tensors})}
    if kind is FileKind.LORA:
        told |= dataclasses.asdict(read_lora(header))
    elif kind is FileKind.CONTROLNET:
        told["family"] = told_family(header.tensors)
    elif kind is FileKind.EMBEDDING:
        told["vectors"] = layout_of(header)[0].count
    elif kind is FileKind.UPSCALER:
        network = kinds.kind_of(header.shapes)
        told |= {"network": network.name, "scale": network.scale}
    elif kind is FileKind.UNKNOWN:
        raise ModelUnusable("a safetensors file, but of nothing that is known here")
    return told


def _controlnet_folder(path: Path) -> dict[str, Any]:
    config = read_json(path, "config.json")
    if (name := config.get("_class_name")) != "ControlNetModel":
        raise ModelUnusable(f"a folder with the configuration of {name!r}, which is not known here")
    tensors = DiffusersFolder(path.parent).tensors(path.name, "float32")
    return {
        "kind": FileKind.CONTROLNET.value,
        "family": told_family(tensors),
        "layout": "diffusers folder",
        **_counted({"file": tensors}),
    }
