"""The tiny model's text side, and embeddings made for it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import CLIPTextModel, CLIPTokenizer

from tests.models.prompts.made import Made, make_embeddings


@pytest.fixture(scope="package", autouse=True)
def one_thread() -> Iterator[None]:
    """Several only get into each other's way at this size."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tokenizer(tiny: Path) -> CLIPTokenizer:
    return CLIPTokenizer.from_pretrained(tiny / "tokenizer")


@pytest.fixture(scope="session")
def text_encoder(tiny: Path) -> CLIPTextModel:
    return CLIPTextModel.from_pretrained(tiny / "text_encoder", dtype=torch.float32).eval()


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Nobody changes it."""
    return make_embeddings(tmp_path_factory.mktemp("embeddings"))
