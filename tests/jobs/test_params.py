"""What follows from a job's parameters."""

from __future__ import annotations

import pytest

from tests.fakes import make_params


@pytest.mark.parametrize(
    ("steps", "strength", "drawn", "drawn_as_a_flow"),
    [
        (7, 0.6, 4, 5),
        (5, 0.5, 2, 3),
        (28, 0.7, 19, 20),
        (8, 0.5, 4, 4),
        (10, 0.3, 3, 3),
        (6, 1.0, 6, 6),
        (6, 0.05, 1, 1),
        (150, 1e-30, 1, 1),
        (1, 0.8, 1, 1),
    ],
)
def test_how_many_steps_are_drawn(steps: int, strength: float, drawn: int, drawn_as_a_flow: int) -> None:
    assert make_params(steps=steps, strength=strength).steps_drawn == drawn
    assert make_params(steps=steps, strength=strength, sampler="flow_euler").steps_drawn == drawn_as_a_flow


def test_without_a_picture_all_steps_are_drawn() -> None:
    assert (make_params(steps=7).first_step, make_params(steps=7).steps_drawn) == (0, 7)
