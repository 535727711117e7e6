"""The benches' pure parts: figures, claims, selection of rows, tables, pages, events; nothing is measured here."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import pytest

from benches.speed.bench import Bench
from benches.speed.charts import BEST_SHOWN, margin
from benches.speed.claims import CLAIMS, ROWS, claims_of
from benches.speed.cli import main
from benches.speed.job import stream_of_jobs
from benches.speed.outcome import Group, Outcome
from benches.speed.results import append_section, as_json, section, write_json
from benches.speed.rows import MODULES, ON_A_GPU, run
from benches.speed.selection import parse_rows, why_not
from benches.speed.serving.mixed_shapes import weighted
from benches.speed.serving.mixed_steps import STEPS, make_arrivals
from benches.speed.serving.wire import read_stamps
from benches.speed.spread import Spread, lost_percent, middle, once, quantile, quartiles, ratios, tail, worst
from benches.speed.table import HEADING, align, claim_rows, number, shown, verdict

ROOT = Path(__file__).parents[1]
MACHINE = {"date": "2026-01-01 00:00 UTC", "processor": "one core"}
NOTHING = frozenset[str]()


# Figures


@pytest.mark.parametrize(
    ("samples", "share", "value"),
    [([3.0], 0.99, 3.0), ([1, 2, 3], 0.5, 2.0), ([3, 1], 0.25, 1.5), ([0, 10], 1.0, 10.0), ([5, 0, 10], 0.0, 0.0)],
)
def test_a_quantile_is_linear_between_neighbours(samples: Sequence[float], share: float, value: float) -> None:
    assert quantile(samples, share) == pytest.approx(value)


def test_no_samples_have_no_quantile() -> None:
    with pytest.raises(ValueError, match="no samples"):
        quantile([], 0.5)


def test_every_kind_of_figure_says_how_its_samples_lie() -> None:
    samples = [4.0, 1.0, 2.0, 3.0, 100.0]
    kinds = {make.__name__: make(samples) for make in (middle, quartiles, tail, worst)}
    assert {name: (one.value, one.low, one.high) for name, one in kinds.items()} == {
        "middle": (3.0, 1.0, 100.0),
        "quartiles": (3.0, 2.0, 4.0),
        "tail": (pytest.approx(96.16), 3.0, 100.0),
        "worst": (100.0, 1.0, 100.0),
    }
    assert {one.count for one in kinds.values()} == {5}
    assert once(2.0) == Spread(2.0, 2.0, 2.0, 1, "once")


def test_ratios_are_taken_round_by_round() -> None:
    assert ratios([2.0, 9.0], [1.0, 3.0]) == [2.0, 3.0]
    with pytest.raises(ValueError, match="shorter"):
        ratios([1.0, 2.0], [1.0])


def test_throughput_lost_is_zero_where_the_same_work_takes_as_long() -> None:
    assert lost_percent([1.0, 2.0], [1.0, 1.0]) == [0.0, 50.0]


def test_mixed_work_is_weighted_by_what_it_takes_alone() -> None:
    assert weighted({"small": 2.0, "large": 0.5}, {"small": 4.0, "large": 1.0}) == 1.0


# Claims


def test_every_row_has_claims_and_a_place() -> None:
    assert tuple(range(1, 15)) == ROWS
    assert set(MODULES) == set(ON_A_GPU) == set(ROWS)
    places = [ROOT / f"{module.replace('.', '/')}.py" for module in (*MODULES.values(), *ON_A_GPU.values())]
    assert all(place.is_file() for place in places)
    assert len({claim.key for claim in CLAIMS}) == len(CLAIMS)


def test_an_aim_is_never_easier_than_its_floor() -> None:
    assert [claim.key for claim in CLAIMS if claim.aim is not None and not claim.holds(claim.aim)] == []


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("1.b0", 1.9, "NO"),
        ("1.b0", 2.0, "yes"),
        ("1.b0", 3.0, "yes, aim too"),
        ("2.b2", 0.71, "NO"),
        ("2.b2", 0.7, "yes"),
        ("2.b2", 0.4, "yes, aim too"),
        ("6.freed", 1.0, "yes"),
    ],
)
def test_a_verdict_knows_which_way_is_better(key: str, value: float, said: str) -> None:
    assert verdict(next(claim for claim in CLAIMS if claim.key == key), value) == said


def test_a_chart_shows_better_to_the_right_whatever_the_unit() -> None:
    more, less = claims_of(1)[0], claims_of(2)[0]
    assert margin(more, 4.0) == pytest.approx(2.0)
    assert margin(less, 0.35) == pytest.approx(2.0)
    assert margin(less, 0.0) == margin(less, -3.0) == BEST_SHOWN


# Selection


@pytest.mark.parametrize(
    ("text", "rows"), [("1", (1,)), ("8,1, 5", (1, 5, 8)), ("1-4,3", (1, 2, 3, 4)), ("12-14", (12, 13, 14))]
)
def test_rows_are_numbers_and_ranges(text: str, rows: tuple[int, ...]) -> None:
    assert parse_rows(text) == rows


@pytest.mark.parametrize("text", ["", "0", "15", "1,,2", "4-2", "1-99", "one", "-3", "3-"])
def test_what_is_no_row_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="row"):
        parse_rows(text)


def test_a_row_is_measured_where_it_can_be() -> None:
    cpu, gpu = Bench(), Bench(backend="cuda")
    assert [row for row in ROWS if why_not(row, cpu, flags=NOTHING, cuda=False)] == [10, 12, 13]
    assert [row for row in ROWS if why_not(row, cpu, flags=frozenset({"amx_bf16"}), cuda=True)] == [12, 13]
    assert [row for row in ROWS if not why_not(row, gpu, flags=NOTHING, cuda=True)] == [12, 13, 14]
    assert "no CUDA device" in str(why_not(12, gpu, flags=NOTHING, cuda=False))


def test_a_row_that_cannot_be_measured_says_why_for_each_claim() -> None:
    (outcome,) = run([13], Bench())
    assert set(outcome.missing) == {"13.b0", "13.b1", "13.limit"}
    assert "--backend cuda" in outcome.missing["13.limit"]


def test_a_bad_row_is_bad_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exited:
        main(["--rows", "15"])
    assert exited.value.code == 2
    assert "rows go from 1 to 14" in capsys.readouterr().err


# Tables and pages


def outcome() -> Outcome:
    """Of row 1: one figure that holds, one that does not, one that is not there."""
    group = Group("8 clients", "images/s", {"worker": middle([2.0, 3.0, 4.0]), "B0": once(1.0)})
    figures = {"1.b0": middle([3.1, 2.9, 3.3]), "1.b2": middle([0.9, 0.8])}
    return Outcome(1, figures, (group,), ("a note",), {"1.litserve": "it is not installed"})


def test_a_claims_row_has_figure_verdict_and_spread() -> None:
    over_b0, over_b2, over_litserve = claim_rows([outcome()])
    assert over_b0[2:] == ("3.10x", "≥ 2.00x", "≥ 3.00x", "yes, aim too", "2.90 to 3.30 (median, min to max; n = 3)")
    assert (over_b2[2], over_b2[5]) == ("0.850x", "NO")
    assert (over_litserve[2], over_litserve[5]) == ("", "")
    assert over_litserve[6] == "not measured: it is not installed"
    assert {len(row) for row in claim_rows([outcome()])} == {len(HEADING)}


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (0.0123, "0.012"), (1.234, "1.23"), (99.5, "99.50"), (1234.5, "1234")]
)
def test_numbers_are_short(value: float, text: str) -> None:
    assert number(value) == text


def test_one_sample_has_no_spread() -> None:
    assert shown(once(1.0)) == "one sample"


def test_columns_are_aligned() -> None:
    assert align([("a", "bbb"), ("cc", "d")]) == "a   bbb\n--  ---\ncc  d"


def test_a_page_gets_its_title_once(tmp_path: Path) -> None:
    page = tmp_path / "RESULTS.md"
    for _ in range(2):
        append_section(page, section(MACHINE, [outcome()]))
    text = page.read_text(encoding="utf-8")
    assert text.startswith("# Results\n")
    assert text.count("# Results\n") == 1
    assert text.count("## Run of 2026-01-01 00:00 UTC") == 2
    assert text.count("- processor: one core") == 2
    assert "| 1 | equal jobs, 8 clients: images/s over B0 | 3.10x |" in text
    assert "**Row 1: 8 clients**" in text
    assert "- Row 1: a note" in text
    assert text.endswith("\n")


def test_json_holds_figures_claims_and_reasons(tmp_path: Path) -> None:
    target = tmp_path / "bench.json"
    write_json(target, as_json(MACHINE, [outcome()]))
    (row,) = json.loads(target.read_text(encoding="utf-8"))["rows"]
    assert row["figures"]["1.b0"]["value"] == 3.1
    assert row["missing"] == {"1.litserve": "it is not installed"}
    assert [claim["key"] for claim in row["claims"]] == ["1.b0", "1.b2", "1.litserve"]


# Work


def test_every_job_has_a_seed_of_its_own() -> None:
    jobs = list(islice(stream_of_jobs(12, width=192), 100))
    assert len({job.seed for job in jobs}) == 100
    assert {(job.steps, job.width, job.height) for job in jobs} == {(12, 192, 128)}


def test_arrivals_are_the_same_for_both_arms() -> None:
    arrivals = make_arrivals(24, STEPS, rate=2.0, seed=3)
    moments = [at_s for at_s, _ in arrivals]
    steps = [job.steps for _, job in arrivals]
    assert arrivals == make_arrivals(24, STEPS, rate=2.0, seed=3)
    assert moments == sorted(moments)
    assert moments[0] == 0.0
    assert sorted(steps) == sorted([*STEPS] * 4)
    assert steps != sorted(steps)


def test_stamps_are_found_by_seed_and_step() -> None:
    assert read_stamps("[7, 1, 0.5]\n[8, 1, 0.5]\n[7, 2, 0.75]\n") == {(7, 1): 0.5, (8, 1): 0.5, (7, 2): 0.75}
