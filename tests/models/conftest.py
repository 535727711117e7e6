"""The tiny model, written once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.models.tiny import write_tiny


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its folder; nobody changes it."""
    return write_tiny(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def tiny_inpainting(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with a UNet that takes the mask."""
    return write_tiny(tmp_path_factory.mktemp("models") / "tiny-inpainting", takes_mask=True)
