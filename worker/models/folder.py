"""A checkpoint as a diffusers folder: one folder a part, JSON beside safetensors, in shards and in halves or not.

Finds and checks files; reads no weight.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from worker.errors import ModelUnusable
from worker.models import checksum
from worker.models.safetensors_header import Header, Tensor, read_header, refuse_types

CODE_OR_PICKLE = (".py", ".pyc", ".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
WEIGHTS = ("diffusion_pytorch_model", "model")
"""How diffusers and transformers name a part's weights."""
VARIANTS = {
    "float32": ("", "bf16", "fp16"),
    "bfloat16": ("bf16", "", "fp16"),
    "float16": ("fp16", "", "bf16"),
}
"""Which files are read where a part is there in several precisions, best first; "" is the one without a mark."""


class DiffusersFolder:
    """What `save_pretrained` writes; as the configurations of a single file it needs no weights."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._read: dict[str, dict[str, Any]] = {}
        self._headers: dict[Path, Header] = {}

    @property
    def name(self) -> str:
        """The folder's own."""
        return self.folder.resolve().name

    @property
    def told(self) -> str:
        """Nothing: a folder describes itself."""
        return ""

    @property
    def index(self) -> Mapping[str, Any]:
        """The content of `model_index.json`."""
        return self.json("model_index.json")

    @property
    def pipeline(self) -> object:
        """The class that the folder was saved from."""
        return self.index.get("_class_name")

    def has(self, name: str) -> bool:
        """A part whose class is null in the index is not there, whatever lies in its folder."""
        if name in self.index and self.index[name] in (None, [None, None]):
            return False
        return (self.folder / name).exists()

    def json(self, name: str) -> Mapping[str, Any]:
        """A JSON file, read once. Raises ModelUnusable."""
        if name not in self._read:
            self._read[name] = read_json(self.folder, name)
        return self._read[name]

    def config(self, part: str) -> Mapping[str, Any]:
        """A part's configuration. Raises ModelUnusable."""
        return self.json("scheduler/scheduler_config.json" if part == "scheduler" else f"{part}/config.json")

    def files(self, part: str, dtype: str) -> tuple[Path, ...]:
        """The safetensors files of a part in the precision that fits `dtype` best. Raises ModelUnusable."""
        variant = self.variant(part, dtype)
        return self._files(self.folder / part, variant)

    def variant(self, part: str, dtype: str) -> str:
        """The mark of those files' names: "", or such as `fp16`. Raises ModelUnusable."""
        for variant in VARIANTS[dtype]:
            if self._files(self.folder / part, variant):
                return variant
        raise ModelUnusable(f"the model has no safetensors weights for its {part}")

    def tensors(self, part: str, dtype: str) -> Mapping[str, Tensor]:
        """A part's weights, from the headers of its files, each read once. Raises ModelUnusable."""
        found: dict[str, Tensor] = {}
        for file in self.files(part, dtype):
            if file not in self._headers:
                self._headers[file] = read_header(file, told=f"{part}/{file.name}")
                refuse_types(self._headers[file].tensors.items(), part)
            found |= self._headers[file].tensors
        return found

    def size_bytes(self, part: str, dtype: str) -> int:
        """What the files of a part take."""
        return sum(file.stat().st_size for file in self.files(part, dtype))

    def checksum(self) -> str:
        """Of every safetensors file, used or not."""
        return checksum.of_folder(self.folder)

    def tokenizer(self, part: str) -> tuple[Path, Mapping[str, Any]]:
        """The tokenizer's folder. Raises ModelUnusable."""
        if not (self.folder / part).is_dir():
            raise ModelUnusable(f"the model has no {part}")
        return self.folder / part, {}

    def refuse_code(self) -> None:
        """A model is safetensors and JSON: anything that could run is refused, used or not."""
        found = sorted(path.name for path in self.folder.rglob("*") if path.suffix.lower() in CODE_OR_PICKLE)
        if found:
            raise ModelUnusable(
                f"the model folder holds code or pickled weights ({found[0]}); only safetensors is served"
            )

    def _files(self, folder: Path, variant: str) -> tuple[Path, ...]:
        """One file, or those that an index names; none where neither is there. Refuses an index that lacks a file."""
        mark = f".{variant}" if variant else ""
        for stem in WEIGHTS:
            if (whole := folder / f"{stem}{mark}.safetensors").is_file():
                return (whole,)
            index = f"{stem}.safetensors.index{mark}.json"
            if (folder / index).is_file():
                return self._shards(folder, index)
        return ()

    def _shards(self, folder: Path, index: str) -> tuple[Path, ...]:
        named = self.json(f"{folder.name}/{index}").get("weight_map")
        if not isinstance(named, dict) or not named or not all(isinstance(name, str) for name in named.values()):
            raise ModelUnusable(f"{folder.name}/{index} does not say which file holds which weight")
        files = tuple(folder / name for name in sorted(set(named.values())))
        for file in files:
            if file.parent != folder or file.suffix != ".safetensors":
                raise ModelUnusable(f"{folder.name}/{index} names a file that is no safetensors file beside it")
            if not file.is_file():
                raise ModelUnusable(f"{folder.name}/{index} names {file.name}, which is not there")
        return files


def read_json(folder: Path, name: str) -> dict[str, Any]:
    """One JSON object of a model folder. Raises ModelUnusable."""
    try:
        value = json.loads((folder / name).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise ModelUnusable(f"no diffusers model folder: {name} is not there") from None
    except (OSError, ValueError, RecursionError):
        raise ModelUnusable(f"{name} cannot be read as JSON") from None
    if not isinstance(value, dict):
        raise ModelUnusable(f"{name} does not hold a JSON object")
    return value
