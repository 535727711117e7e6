"""Pieces of a picture give the picture, whatever its size and however they overlap."""

from __future__ import annotations

import numpy as np
import pytest

from tests.fakes import paint
from worker.engine.assembling import assemble
from worker.engine.runner import Pixels
from worker.jobs.tiling import Tile, cut


def pieces_of(whole: Pixels, side: int, scale: int = 1) -> list[tuple[Tile | None, Pixels]]:
    """Cut at `side`; each piece `scale` times smaller than its tile."""
    height, width = whole.shape[0] * scale, whole.shape[1] * scale
    return [
        (
            tile,
            whole[tile.top // scale : (tile.top + tile.height) // scale][
                :, tile.left // scale : (tile.left + tile.width) // scale
            ],
        )
        for tile in cut(width, height, side, side, 8)
    ]


@pytest.mark.parametrize("side", [16, 24, 64, 80, 200])
@pytest.mark.parametrize("size", [(128, 128), (200, 72), (64, 136)])
def test_what_was_cut_is_whole_again(size: tuple[int, int], side: int) -> None:
    whole = paint(7, *size)
    pieces = pieces_of(whole, side)
    assert np.array_equal(assemble(pieces), whole)
    assert np.array_equal(assemble(pieces[::-1]), whole), "in whatever order they come"


def test_previews_are_smaller_than_their_tiles() -> None:
    whole = paint(7, 16, 24)
    assert np.array_equal(assemble(pieces_of(whole, 64, scale=8)), whole)


def test_a_piece_without_a_tile_is_the_picture() -> None:
    whole = paint(7, 16, 24)
    assert assemble([(None, whole)]) is whole


def test_one_fades_into_the_other() -> None:
    black, white = np.zeros((64, 64, 3), np.uint8), np.full((64, 64, 3), 255, np.uint8)
    assembled = assemble([(Tile(0, 0, 64, 64), black), (Tile(48, 0, 64, 64), white)])
    line = assembled[5, :, 0].astype(int)
    assert assembled.shape == (64, 112, 3)
    assert (line[:48] == 0).all()
    assert (line[64:] == 255).all()
    assert 0 < np.diff(line[47:65]).max() <= 16, "no step anywhere is larger than an even fade's"
