"""Pictures made larger by a network of its own, a tile a step, beside everything that is denoised.

A runner like any other: the engine gives it turns between the denoiser's, so that nobody waits for more than a tile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

import numpy as np
import torch

from worker.engine import pictures
from worker.engine.cache import Cache
from worker.engine.device_errors import mapped_errors
from worker.engine.runner import Drawing, Pixels, Runner
from worker.errors import NanOutput
from worker.jobs.params import JobParams
from worker.jobs.tiling import NETWORK_SIDE, Tile, grid

if TYPE_CHECKING:
    from worker.models.base import Upscaler

KEPT = 2
"""Networks in memory, beside those in use."""


@dataclass(slots=True, weakref_slot=True, eq=False, kw_only=True)
class EnlargedDrawing(Drawing):
    """`canvas` is what there is of the larger picture; where no tile was yet, the pixels that came, made larger."""

    upscaler: Upscaler
    image: torch.Tensor  # [1, 3, H, W], from 0 to 1
    places: tuple[Tile, ...]
    canvas: Pixels


class Enlarger:
    """`load` gives a network by its name; it may raise InvalidInput."""

    def __init__(self, load: Callable[[str], Upscaler]) -> None:
        self._networks = Cache(load, capacity=KEPT)
        self._drawn: WeakSet[EnlargedDrawing] = WeakSet()

    def open(self, params: JobParams) -> list[EnlargedDrawing]:
        """One drawing, of as many steps as there are tiles. Shares no call: its bytes are the same in any company."""
        asked, picture = params.upscale, params.image
        assert asked is not None, "the runner was chosen by it"
        assert picture is not None, "the task asks for one"
        with mapped_errors():
            upscaler = self._networks.get(asked.upscaler)
            pixels = pictures.read_pixels(picture, picture.width, picture.height)
        places = grid(picture.width, picture.height, NETWORK_SIDE)
        drawing = EnlargedDrawing(
            key=object(),
            rows=1,
            pixels=(NETWORK_SIDE * upscaler.scale) ** 2,
            index=0,
            seed=params.seed,
            steps=len(places),
            own_pace=True,
            upscaler=upscaler,
            image=torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 255,
            places=places,
            canvas=pixels.repeat(upscaler.scale, axis=0).repeat(upscaler.scale, axis=1),
        )
        self._drawn.add(drawing)
        return [drawing]

    @torch.inference_mode()
    def step(self, batch: Sequence[EnlargedDrawing]) -> None:
        """One tile of each. Raises NanOutput, OutOfMemory."""
        with mapped_errors():
            tiles = [_enlarged(drawing, drawing.places[drawing.step]) for drawing in batch]
        for drawing, tile in zip(batch, tiles, strict=True):
            place, scale = drawing.places[drawing.step], drawing.upscaler.scale
            top, left = place.top * scale, place.left * scale
            drawing.canvas[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
            drawing.step += 1

    def let_go(self) -> bool:
        """Networks that no drawing uses."""
        used = {id(drawing.upscaler) for drawing in self._drawn}
        return self._networks.let_go(lambda network: id(network) in used)

    def preview(self, drawing: EnlargedDrawing) -> Pixels:
        """In the size of the picture that came."""
        scale = drawing.upscaler.scale
        seen: Pixels = drawing.canvas[scale // 2 :: scale, scale // 2 :: scale].copy()
        return seen

    def finish(self, drawing: EnlargedDrawing) -> Pixels:
        """All of it."""
        return drawing.canvas


def _enlarged(drawing: EnlargedDrawing, place: Tile) -> Pixels:
    """A tile without its margin.  # [height scale, width scale, 3]"""
    scale, margin, (height, width) = drawing.upscaler.scale, drawing.upscaler.margin, drawing.image.shape[2:]
    top, left = max(0, place.top - margin), max(0, place.left - margin)
    bottom, right = min(height, place.top + place.height + margin), min(width, place.left + place.width + margin)
    larger = drawing.upscaler.enlarge(drawing.image[:, :, top:bottom, left:right])[0]
    if not torch.isfinite(larger).all():
        raise NanOutput
    down, across = (place.top - top) * scale, (place.left - left) * scale
    own = larger[:, down : down + place.height * scale, across : across + place.width * scale]
    tile: Pixels = (own.float().clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    return np.ascontiguousarray(tile)


class WithUpscalers:
    """The runner of a model whose worker has upscalers too: each drawing goes to the one that opened it."""

    def __init__(self, denoiser: Runner[Any], enlarger: Enlarger) -> None:
        self._denoiser = denoiser
        self._enlarger = enlarger
        self.load, self.time_call, self.prepare = denoiser.load, denoiser.time_call, denoiser.prepare

    def open(self, params: JobParams) -> Iterable[Any]:
        """As `Runner` has it."""
        by_network = params.upscale is not None and params.upscale.by_network
        return (self._enlarger if by_network else self._denoiser).open(params)

    def step(self, batch: Sequence[Any]) -> None:
        """As `Runner` has it; drawings of one key are of one kind."""
        self._of(batch[0]).step(batch)

    def let_go(self) -> bool:
        """As `Runner` has it."""
        networks, others = self._enlarger.let_go(), self._denoiser.let_go()
        return networks or others

    def preview(self, drawing: Any) -> Pixels:
        """As `Runner` has it."""
        pixels: Pixels = self._of(drawing).preview(drawing)
        return pixels

    def finish(self, drawing: Any) -> Pixels:
        """As `Runner` has it."""
        pixels: Pixels = self._of(drawing).finish(drawing)
        return pixels

    def _of(self, drawing: Drawing) -> Any:
        return self._enlarger if isinstance(drawing, EnlargedDrawing) else self._denoiser
