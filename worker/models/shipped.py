"""The configurations that ship with the project, for checkpoints in one file, which have none of their own.

A kind is a JSON file in `configs/`; `like` names the kind that it differs from.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from worker.errors import ModelUnusable

FOLDER = Path(__file__).parent / "configs"
KINDS = tuple(sorted(file.stem for file in FOLDER.glob("*.json")))


class ShippedConfigs:
    """One kind, read as a diffusers folder without weights would be."""

    def __init__(self, kind: str) -> None:
        """`kind` is one of `KINDS`."""
        self.kind = kind
        self._parts = _parts(kind)

    @property
    def index(self) -> Mapping[str, Any]:
        """What would stand in `model_index.json`."""
        return self._parts["index"]

    @property
    def pipeline(self) -> object:
        """The class in it."""
        return self.index["_class_name"]

    def has(self, name: str) -> bool:
        """Whether this kind has such a part."""
        return name in self._parts and name != "index"

    def json(self, name: str) -> Mapping[str, Any]:
        """There are no other files. Raises ModelUnusable."""
        raise ModelUnusable(f"the shipped configurations hold no {name}")

    def config(self, part: str) -> Mapping[str, Any]:
        """A part's configuration. Raises ModelUnusable."""
        try:
            return self._parts[part]
        except KeyError:
            raise ModelUnusable(f"a model of the kind {self.kind} has no {part}") from None

    def tokenizer(self, part: str) -> tuple[Path, Mapping[str, Any]]:
        """CLIP's, and what differs in this kind. Raises ModelUnusable."""
        return FOLDER / "tokenizer", self.config(part)


def _parts(kind: str) -> dict[str, dict[str, Any]]:
    own: dict[str, Any] = json.loads((FOLDER / f"{kind}.json").read_text(encoding="utf-8"))
    parts = _parts(own.pop("like")) if "like" in own else {}
    return parts | {part: parts.get(part, {}) | values for part, values in own.items()}
