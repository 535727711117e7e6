"""Adapters in half precision: as near to the stock picture at full precision as the stock pipeline in half of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.models import families
from tests.models.lora_files import ATTENTION, TEXT, adapted, make_factors, write_diffusers
from tests.models.test_lora import FAMILIES, load, parts_of, wearing
from tests.models.test_sd import ALONE_DB, draw, one_thread
from tests.models.tiny import by_stock, psnr_db, write_tiny

__all__ = ["one_thread"]

MODELS: dict[str, tuple[Callable[[Path], Path], tuple[str, ...]]] = {
    "sd": (write_tiny, ("unet", "text_encoder")),
    **FAMILIES,
}
TWICE_DB = 6.0
"""What an error of twice the size costs."""


@pytest.fixture(scope="module", params=MODELS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with the same adapter in `loras`, once in each type."""
    write, names = MODELS[request.param]
    root = tmp_path_factory.mktemp(request.param)
    folder = write(root / "model")
    factors = make_factors(parts_of(families.load_stock(folder), *names), 1, ATTENTION[:4] + TEXT, strength=0.5)
    for name in ("float32", "bfloat16", "float16"):
        dtype = getattr(torch, name)
        halves = {layer: (down.to(dtype), up.to(dtype)) for layer, (down, up) in factors.items()}
        write_diffusers(root / f"loras/{name}.safetensors", halves)
    return folder


@pytest.mark.filterwarnings("ignore:.*upcast_vae:FutureWarning")  # the stock pipeline's own
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_half_adapter_on_a_half_model(model: Path, dtype: str) -> None:
    loras = model.parent / "loras"
    worker = load(model, loras, dtype=dtype)
    facts = worker._model.facts
    length = {"max_sequence_length": 512 if facts.family == "flux" else 256}
    for file in ("bfloat16", "float16"):
        asked = wearing((file, 0.7), sampler=facts.sampler)
        precise = by_stock(adapted(families.load_stock(model), loras, asked), asked, **length)
        half = by_stock(adapted(families.load_stock(model, dtype=getattr(torch, dtype)), loras, asked), asked, **length)
        [[drawn]] = draw(worker, asked)
        assert psnr_db(drawn, precise) >= psnr_db(half, precise) - TWICE_DB
        [[plain]] = draw(worker, wearing(sampler=facts.sampler))
        assert psnr_db(plain, precise) < psnr_db(drawn, precise) - 3.0, "the adapter shows"


@pytest.mark.parametrize("file", ["bfloat16", "float16"])
def test_a_half_adapter_on_a_whole_model(model: Path, file: str) -> None:
    loras = model.parent / "loras"
    worker = load(model, loras)
    facts = worker._model.facts
    asked = wearing((file, 0.7), sampler=facts.sampler)
    length = {"max_sequence_length": 512 if facts.family == "flux" else 256}
    expected = by_stock(adapted(families.load_stock(model), loras, asked), asked, **length)
    assert psnr_db(draw(worker, asked)[0][0], expected) >= ALONE_DB
