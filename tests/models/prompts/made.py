"""A folder with a textual-inversion embedding in each layout that is in use, some that fit the tiny model, some not."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file

from tests.models.tiny import WIDTH


@dataclass(frozen=True)
class Made:
    folder: Path
    tensors: dict[str, torch.Tensor]
    """By the name of the file, of those with one tensor."""


def make_embeddings(folder: Path) -> Made:
    """Always the same."""
    generator = torch.Generator().manual_seed(11)

    def vectors(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    tensors = {
        "Crayon-Look": vectors(3, WIDTH),
        "one": vectors(1, WIDTH),
        "flat": vectors(WIDTH),
        "huge": vectors(75, WIDTH),
        "too-huge": vectors(76, WIDTH),
        "other model": vectors(2, WIDTH + 8),
    }
    (folder / "styles").mkdir()
    save_file({"emb_params": tensors["Crayon-Look"]}, folder / "styles" / "Crayon-Look.safetensors")
    save_file({"<one>": tensors["one"]}, folder / "one.safetensors")
    save_file({"<flat>": tensors["flat"].half()}, folder / "flat.safetensors")
    save_file({"emb_params": tensors["huge"]}, folder / "huge.safetensors", metadata={"name": "another"})
    save_file({"emb_params": tensors["too-huge"]}, folder / "too-huge.safetensors")
    save_file({"emb_params": tensors["other model"]}, folder / "other model.safetensors")
    save_file({"clip_l": vectors(2, WIDTH), "clip_g": vectors(2, WIDTH + 8)}, folder / "two.safetensors")
    return Made(folder, tensors)
