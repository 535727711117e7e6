"""A network makes a picture larger tile by tile, as it would in one piece."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.fakes import make_params
from worker.engine.enlarging import EnlargedDrawing, Enlarger, WithUpscalers
from worker.errors import InvalidInput, NanOutput
from worker.jobs.params import Picture, Task, UpscaleParams
from worker.jobs.tiling import NETWORK_SIDE


class Blur:
    """Looks `margin` pixels far, and as far as the picture goes."""

    margin = 16

    def __init__(self, scale: int) -> None:
        self.scale = scale
        self.seen: list[tuple[int, ...]] = []

    def enlarge(self, pixels: torch.Tensor) -> torch.Tensor:
        self.seen.append(tuple(pixels.shape[2:]))
        side = 2 * self.margin + 1
        blurred = torch.nn.functional.avg_pool2d(pixels, side, stride=1, padding=self.margin, count_include_pad=False)
        return blurred.repeat_interleave(self.scale, dim=2).repeat_interleave(self.scale, dim=3)


class NoNumber(Blur):
    def enlarge(self, pixels: torch.Tensor) -> torch.Tensor:
        return super().enlarge(pixels) * float("nan")


def picture(width: int, height: int) -> Picture:
    pixels = np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return Picture(width, height, len(buffer.getvalue()), buffer.getvalue())


def job(width: int, height: int, upscaler: str = "blur", **changes: object) -> Any:
    return replace(
        make_params(task=Task.UPSCALE, image=picture(width, height)),
        width=2 * width,
        height=2 * height,
        upscale=UpscaleParams(2, upscaler, 1),
        **changes,  # type: ignore[arg-type]
    )


def whole(network: Blur, asked: Any) -> Any:
    pixels = np.asarray(Image.open(io.BytesIO(asked.image.data)))
    larger = network.enlarge(torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 255)[0]
    return (larger.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()


@pytest.mark.parametrize(("width", "height", "tiles"), [(300, 200, 6), (128, 128, 1), (40, 129, 2), (1, 1, 1)])
@pytest.mark.parametrize("scale", [2, 4])
def test_tiles_are_the_whole_picture(width: int, height: int, tiles: int, scale: int) -> None:
    enlarger = Enlarger(lambda name: network)
    network, asked = Blur(scale), job(width, height)
    (drawing,) = enlarger.open(asked)
    assert drawing.steps == tiles
    for done in range(tiles):
        assert drawing.step == done
        assert not drawing.done
        assert enlarger.preview(drawing).shape == (height, width, 3)
        enlarger.step([drawing])
    assert drawing.done
    assert max(max(shape) for shape in network.seen) <= NETWORK_SIDE + 2 * Blur.margin, "memory is that of a tile"
    finished = enlarger.finish(drawing)
    difference = np.abs(finished.astype(int) - whole(Blur(scale), asked).astype(int))
    assert finished.shape == (height * scale, width * scale, 3)
    assert difference.max() <= 1


def test_what_is_no_number_fails_the_job_and_leaves_others() -> None:
    networks = {"blur": Blur(2), "broken": NoNumber(2)}
    enlarger = Enlarger(networks.__getitem__)
    (good,), (bad,) = enlarger.open(job(64, 64)), enlarger.open(job(64, 64, "broken"))
    with pytest.raises(NanOutput):
        enlarger.step([bad])
    assert bad.step == 0
    enlarger.step([good])
    assert good.done


def test_no_two_share_a_call() -> None:
    enlarger = Enlarger(lambda name: Blur(2))
    (one,), (other,) = enlarger.open(job(64, 64)), enlarger.open(job(64, 64))
    assert one.key != other.key


def test_networks_are_loaded_once_and_kept_in_bounded_number() -> None:
    loaded: list[str] = []

    def load(name: str) -> Blur:
        loaded.append(name)
        return Blur(2)

    enlarger = Enlarger(load)
    for name in ("a", "a", "b", "c", "a"):
        enlarger.open(job(8, 8, name))
    assert loaded == ["a", "b", "c", "a"]


def test_a_damaged_picture_is_refused() -> None:
    asked = job(64, 64)
    cut = replace(asked.image, data=asked.image.data[:100])
    with pytest.raises(InvalidInput, match="The image cannot be decoded"):
        Enlarger(lambda name: Blur(2)).open(replace(asked, image=cut))


class Denoiser:
    """Notes what it is asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __getattr__(self, name: str) -> Any:
        def note(*arguments: object) -> list[str]:
            self.asked.append(name)
            return [name]

        return note


def test_each_drawing_goes_to_the_runner_that_opened_it() -> None:
    denoiser = Denoiser()
    both: Any = WithUpscalers(denoiser, Enlarger(lambda name: Blur(2)))  # type: ignore[arg-type]
    (drawing,) = both.open(job(64, 64))
    assert isinstance(drawing, EnlargedDrawing)
    both.preview(drawing)
    both.step([drawing])
    both.finish(drawing)
    assert denoiser.asked == []
    both.open(make_params())
    both.open(job(64, 64, "latent"))
    for call in (both.step, both.preview, both.finish):
        call(["theirs"])
    both.load(None)
    both.time_call(2)
    both.prepare()
    assert denoiser.asked == ["open", "open", "step", "preview", "finish", "load", "time_call", "prepare"]


def test_networks_that_nobody_uses_are_let_go_of() -> None:
    loaded: list[str] = []

    def load(name: str) -> Blur:
        loaded.append(name)
        return Blur(2)

    enlarger = Enlarger(load)  # type: ignore[arg-type]
    (drawing,) = enlarger.open(job(64, 64))
    assert not enlarger.let_go(), "it is in use"
    enlarger.open(job(64, 64))
    del drawing
    assert enlarger.let_go()
    enlarger.open(job(64, 64))
    assert len(loaded) == 2
