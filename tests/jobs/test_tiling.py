"""Tiles cover their picture, are of one size, and overlap."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from worker.jobs.tiling import SHARED, Tile, cut, drawn_size


def test_what_fits_into_a_tile_is_one() -> None:
    assert cut(64, 48, 64, 64, 8) == (Tile(0, 0, 64, 48),)


def test_tiles_are_spread_evenly() -> None:
    tiles = cut(1024, 512, 512, 512, 64)
    assert [tile.left for tile in tiles] == [0, 256, 512]
    assert {(tile.top, tile.width, tile.height) for tile in tiles} == {(0, 512, 512)}


@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 20), st.integers(1, 20), st.sampled_from([8, 16, 64]))
def test_every_pixel_is_in_a_tile_and_neighbours_share(
    columns: int, rows: int, across: int, down: int, multiple: int
) -> None:
    width, height = columns * multiple, rows * multiple
    tiles = cut(width, height, across * multiple, down * multiple, multiple)
    for sides in (
        (width, {(tile.left, tile.width) for tile in tiles}),
        (height, {(tile.top, tile.height) for tile in tiles}),
    ):
        whole, parts = sides
        end, shared = 0, 0
        for start, side in sorted(parts):
            assert start % multiple == side % multiple == 0
            shared = 0 if start == 0 or side == multiple else max(1, side // multiple // SHARED) * multiple
            assert start <= end - shared
            end = start + side
        assert end == whole
    assert len(set(tiles)) == len(tiles)


def test_a_size_is_the_nearest_that_can_be_drawn() -> None:
    assert drawn_size(100, 3, 8) == (104, 8)
    assert drawn_size(99, 64, 8) == (96, 64)
