"""Large pictures go through the VAE in tiles, and look the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL

from shared_worker.device import find_device
from tests.models import families
from tests.models.test_sd import one_thread
from tests.models.tiny import psnr_db, write_tiny
from worker.engine.sampling import SAMPLERS
from worker.models.registry import BUILTIN, identify
from worker.models.schedulers import SCHEDULERS
from worker.models.vae import Vae

__all__ = ["one_thread"]
TILED_DB = 25
"""Each tile has statistics of its own in the group norms, so colours shift a little; small tiles most."""


@pytest.fixture(scope="module")
def vae() -> AutoencoderKL:
    return AutoencoderKL.from_pretrained(Path(BUILTIN) / "vae", low_cpu_mem_usage=False).eval()


@pytest.fixture(scope="module")
def pixels() -> torch.Tensor:
    """Soft patches of colours, twice the model's size.  # [1, 3, 256, 256]"""
    patches = 2 * torch.rand((1, 3, 5, 5), generator=torch.Generator().manual_seed(0)) - 1
    return torch.nn.functional.interpolate(patches, size=(256, 256), mode="bilinear")


def seen(decoded: torch.Tensor) -> object:
    return ((decoded[0].permute(1, 2, 0).clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).numpy()


def test_a_tiled_picture_is_about_the_whole_one(vae: AutoencoderKL, pixels: torch.Tensor) -> None:
    whole, tiled = Vae(vae, torch.float32), Vae(vae, torch.float32, tiled_above_px=256 * 256 - 1)
    mean, _ = whole.encode(pixels)
    expected = whole.decode(mean)
    drawn = tiled.decode(mean)
    assert drawn.shape == expected.shape
    assert not torch.equal(drawn, expected)
    assert psnr_db(seen(drawn), seen(expected)) >= TILED_DB
    assert psnr_db(seen(whole.decode(tiled.encode(pixels)[0])), seen(expected)) >= TILED_DB


def test_up_to_the_threshold_nothing_changes(vae: AutoencoderKL, pixels: torch.Tensor) -> None:
    usual, at_it = Vae(vae, torch.float32), Vae(vae, torch.float32, tiled_above_px=256 * 256)
    mean, _ = usual.encode(pixels)
    assert torch.equal(at_it.decode(mean), usual.decode(mean))


@pytest.mark.parametrize("precise", [False, True])
def test_what_is_decoded_precisely_is_not_rounded_to_tf32(
    vae: AutoencoderKL, pixels: torch.Tensor, precise: bool
) -> None:
    during: list[bool] = []
    hook = vae.decoder.register_forward_pre_hook(lambda *_: during.append(torch.backends.cudnn.allow_tf32))
    ours = Vae(vae, torch.float32)
    mean, _ = ours.encode(pixels)
    ours.decode(mean, precise=precise)
    hook.remove()
    assert during == [not precise]
    assert torch.backends.cudnn.allow_tf32


@pytest.mark.parametrize("write", [write_tiny, families.write_sd3, families.write_flux])
def test_half_precision_is_kept_where_the_familys_pipelines_keep_it(
    write: Callable[[Path], Path], tmp_path: Path
) -> None:
    checkpoint = identify(str(write(tmp_path / "tiny")), dtype="float16", samplers=(*SAMPLERS, *SCHEDULERS))
    model: Any = checkpoint.load(find_device("cpu"), lambda share: None)
    assert model._vae._vae.config.force_upcast, "which diffusers says of every one"
    mean, _ = model.encode(torch.zeros(1, 3, 32, 32))
    assert model.decode(mean).dtype == torch.float16
    assert model.decode(mean, precise=True).dtype == torch.float32


def test_an_encoding_that_overflows_is_made_again_in_full_precision(
    pixels: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    half = AutoencoderKL.from_pretrained(Path(BUILTIN) / "vae", torch_dtype=torch.float16, low_cpu_mem_usage=False)
    ours, encode, seen = Vae(half.eval(), torch.float16), half.encode, []

    def overflows(images: torch.Tensor) -> Any:
        seen.append(images.dtype)
        told = encode(images)
        if images.dtype == torch.float16:
            told.latent_dist.mean.fill_(torch.inf)
        return told

    monkeypatch.setattr(half, "encode", overflows)
    mean, _ = ours.encode(pixels)
    assert mean.isfinite().all()
    assert seen == [torch.float16, torch.float32]
    assert half.dtype == torch.float16


def test_a_cast_that_breaks_off_leaves_no_mixture(
    vae: AutoencoderKL, pixels: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = Vae(vae, torch.float32)
    mean, _ = ours.encode(pixels)
    before = ours.decode(mean)

    def breaks_off(model: torch.nn.Module, dtype: torch.dtype) -> None:
        monkeypatch.undo()
        model.encoder.to(dtype)
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("worker.models.vae.to_dtype", breaks_off)
    with pytest.raises(torch.OutOfMemoryError), ours._in(torch.float64, 1):
        pass
    assert {parameter.dtype for parameter in vae.parameters()} == {torch.float32}
    assert torch.equal(ours.decode(mean), before)
