"""Estimates against the engine's policy played through by hand."""

from __future__ import annotations

import pytest

from tests.fakes import make_params
from worker.jobs import estimates
from worker.jobs.engine import EngineState, Load, Pace, Snapshot
from worker.jobs.facts import Guidance

PACE = Pace(call_rows=4, base_s=0.1, row_s=0.05, decode_s=0.0)


def snapshot(*loads: Load, waiting: tuple[str, ...] = (), pace: Pace | None = PACE) -> Snapshot:
    return Snapshot(EngineState.READY, True, 1.0, waiting, loads, pace)


@pytest.mark.parametrize(
    ("loads", "ends"),
    [
        ([], []),
        ([Load(2, 10, 1)], [2.0]),  # 0.1 + 2 x 0.05 a step
        ([Load(2, 10, 1), Load(2, 4, 1)], [3.0, 1.2]),  # both in each call of 0.3 s
        ([Load(2, 4, 1), Load(2, 10, 1), Load(2, 5, 1)], [1.2, 3.0, 2.7]),  # the third takes the first one's rows
        ([Load(8, 5, 4)], [3.0]),  # more rows than a call has: two calls a step
        ([Load(0, 0, 0), Load(1, 4, 1)], [0.0, 0.6]),
    ],
)
def test_rows_are_given_in_order(loads: list[Load], ends: list[float]) -> None:
    assert estimates.ends_s(loads, PACE) == pytest.approx(ends)


def test_every_picture_that_is_decoded_before_holds_up_the_others() -> None:
    pace = Pace(8, 1.0, 0.0, 0.25)
    assert estimates.ends_s([Load(2, 2, 2), Load(2, 1, 1)], pace) == pytest.approx([2.75, 1.25])


def test_the_waiting_come_behind_the_running() -> None:
    params = {"a": make_params(steps=10), "b": make_params(steps=2, guidance_scale=1.0, num_images=2)}
    told = estimates.places(snapshot(Load(2, 20, 1), Load(2, 5, 1), waiting=("a", "b", "gone")), params.get)
    assert told == {"a": (0, pytest.approx(4.5)), "b": (1, pytest.approx(5.1)), "gone": (2, pytest.approx(0.0))}
    assert estimates.all_done_s(snapshot(Load(2, 20, 1), waiting=("a",)), params.get) == pytest.approx(6.0)


def test_guidance_without_a_second_row_costs_one() -> None:
    asked = {"a": make_params(steps=10, guidance_scale=3.5)}
    for guidance, rows in ((Guidance.ROWS, 2), (Guidance.EMBEDDED, 1), (Guidance.NONE, 1)):
        assert estimates.load_of(asked["a"], guidance) == Load(rows, 10, 1)
        told = estimates.places(snapshot(waiting=("a",)), asked.get, guidance)
        assert told["a"][1] == estimates.all_done_s(snapshot(waiting=("a",)), asked.get, guidance)
        assert told["a"][1] == pytest.approx(10 * PACE.step_s(rows))


def test_unknown_while_nothing_was_measured() -> None:
    unmeasured = snapshot(Load(2, 5, 1), waiting=("a",), pace=None)
    assert estimates.places(unmeasured, lambda job_id: make_params()) == {"a": (0, None)}
    assert estimates.all_done_s(unmeasured, lambda job_id: make_params()) is None
    assert estimates.retry_after_s(unmeasured) == estimates.UNKNOWN_RETRY_S


def test_a_place_is_free_when_the_next_job_ends() -> None:
    assert estimates.retry_after_s(snapshot(Load(2, 20, 1), Load(2, 9, 1))) == 3
    assert estimates.retry_after_s(snapshot(Load(2, 1, 1))) == 1
    assert estimates.retry_after_s(snapshot(Load(2, 1, 1), pace=Pace(2, 5000.0, 0.0, 0.0))) == 600
    assert estimates.retry_after_s(snapshot()) == estimates.UNKNOWN_RETRY_S
