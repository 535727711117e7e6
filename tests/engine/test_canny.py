"""Edges are those that OpenCV finds, to the last pixel."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from worker.engine.canny import canny
from worker.engine.runner import Pixels

SIDES = st.integers(1, 24)


def expected(pixels: Pixels) -> Pixels:
    return np.repeat(cv2.Canny(pixels, 100, 200)[..., None], 3, axis=2)


@pytest.mark.parametrize("size", [(64, 64), (37, 51), (5, 200), (1, 1)])
@pytest.mark.parametrize("blur", [0.0, 1.0, 2.5])
def test_of_noise_coarse_or_fine(size: tuple[int, int], blur: float) -> None:
    pixels = np.random.default_rng(7).integers(0, 256, (*size, 3), dtype=np.uint8)
    if blur:
        pixels = cv2.normalize(cv2.GaussianBlur(pixels, (0, 0), blur), None, 0, 255, cv2.NORM_MINMAX)
    assert np.array_equal(canny(pixels), expected(pixels))


def test_of_shapes_and_slopes() -> None:
    pixels = np.zeros((120, 160, 3), np.uint8)
    cv2.circle(pixels, (60, 60), 40, (255, 40, 90), -1, cv2.LINE_AA)
    cv2.rectangle(pixels, (90, 20), (150, 70), (30, 200, 60), -1)
    cv2.line(pixels, (5, 110), (155, 80), (90, 90, 90), 1, cv2.LINE_AA)
    pixels[:, 130:] += np.linspace(0, 60, 30).astype(np.uint8)[:, None]
    drawn = canny(pixels)
    assert np.array_equal(drawn, expected(pixels))
    assert 200 < (drawn[..., 0] == 255).sum() < 1500


def test_weak_edges_count_where_they_hang_on_strong_ones() -> None:
    """Along a wedge whose contrast falls to nothing, and along an edge that is never strong."""
    pixels = np.zeros((40, 200, 3), np.uint8)
    pixels[10:] = np.linspace(80, 0, 200).astype(np.uint8)[:, None]
    fading = canny(pixels)
    assert np.array_equal(fading, expected(pixels))
    pixels[10:] = 40
    assert np.array_equal(canny(pixels), expected(pixels))
    assert not canny(pixels).any()
    assert 100 < (fading[..., 0] == 255).sum() < 200


@settings(max_examples=60, deadline=None)
@given(st.tuples(SIDES, SIDES, st.just(3)).flatmap(lambda shape: arrays(np.uint8, shape)))
def test_of_anything(pixels: Pixels) -> None:
    assert np.array_equal(canny(pixels), expected(pixels))
