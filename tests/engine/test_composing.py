"""The edge of what was painted anew: it fades inwards, and what lies outside is not touched."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from tests.fakes import make_params
from worker.engine.composing import EDGE_PX, compose, soften
from worker.jobs.params import Picture, Task


def box(side: int, begin: int, end: int) -> np.ndarray:
    mask = np.zeros((side, side), np.float32)
    mask[begin:end, begin:end] = 1.0
    return mask


def sent(pixels: np.ndarray) -> Picture:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return Picture(pixels.shape[1], pixels.shape[0], buffer.tell(), buffer.getvalue())


def test_it_rises_from_the_edge_inwards_and_is_whole_behind_it() -> None:
    weight = soften(box(40, 10, 30))
    across = weight[20, 10:20]
    assert 0.0 < across[0] < 1.0, "the outermost pixel is a mixture"
    assert np.all(np.diff(across) >= 0.0)
    assert np.all(across[EDGE_PX:] == 1.0)
    assert np.all(weight[box(40, 10, 30) == 0.0] == 0.0)


def test_what_is_thinner_than_its_edge_counts_in_full_in_its_middle() -> None:
    weight = soften(box(40, 19, 22))
    assert weight[20, 20] == 1.0
    assert soften(box(40, 20, 21))[20, 20] == 1.0, "a single pixel too"


def test_a_mask_of_everything_or_nothing_has_no_edge() -> None:
    assert np.all(soften(np.ones((16, 16), np.float32)) == 1.0)
    assert np.all(soften(np.zeros((16, 16), np.float32)) == 0.0)


def test_a_grey_mask_is_no_more_than_its_grey() -> None:
    weight = soften(0.5 * box(40, 5, 35))
    assert weight[20, 20] == 0.5
    assert weight.max() <= 0.5


def test_pixels_are_mixed_by_it_at_full_resolution() -> None:
    """Drawn smaller than the picture is, and brought to its size before it is mixed in."""
    black, side = np.zeros((40, 40, 3), np.uint8), 40
    mask = (box(side, 10, 30) * 255).astype(np.uint8)
    asked = make_params(task=Task.INPAINTING, image=sent(black), mask=sent(mask), width=side, height=side, strength=1.0)
    finished = compose(np.full((32, 32, 3), 200, np.uint8), asked)
    expected = np.rint(200 * soften(box(side, 10, 30)))
    assert np.array_equal(finished[..., 0], expected.astype(np.uint8))
    assert set(np.unique(finished[mask == 0])) == {0}
