"""The judge of the built-in model's pictures, on pictures that are known to be right or wrong."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benches.judge import default_guidance, main, render_asked
from benches.measure import Picture, figure_mask, lab, named_position, named_size, nearest_colour, read
from benches.prompts import Asked, make_prompts
from benches.sheet import COLUMNS, Tile, contact_sheet
from benches.verdict import FLOORS, Judgement, Rate, judge, misses, rates
from worker.models.builtin.training.scenes import (
    COLOURS,
    POSITIONS,
    RADII_PX,
    SHAPES,
    SIZE_PX,
    Figure,
    Scene,
    held_out,
    place,
    render,
)

HEART = Asked("a green heart on the left on a white background", "heart", "green", "white", None, "left", seed=5)


def picture_of(asked: Asked) -> Picture:
    return next(render_asked([asked]))


def flat(colour: str) -> Picture:
    return np.full((SIZE_PX, SIZE_PX, 3), COLOURS[colour], dtype=np.uint8)


# Reading


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", list(RADII_PX))
def test_every_outline_is_read_at_every_size(shape: str, size: str | None) -> None:
    reading = read(picture_of(replace(HEART, shape=shape, size=size)))
    assert (reading.shape, reading.size, reading.position) == (shape, size, "left")
    assert reading.overlap > 0.85


@pytest.mark.parametrize(("colour", "background"), [(c, b) for c in COLOURS for b in COLOURS if c != b])
def test_every_pair_of_colours_is_read(colour: str, background: str) -> None:
    reading = read(picture_of(replace(HEART, shape="ring", size="small", colour=colour, background=background)))
    assert (reading.colour, reading.background, reading.shape) == (colour, background, "ring")


def test_where_a_figure_stands_is_read_to_the_pixel() -> None:
    figure = Figure("star", "red", None, None, 50.0, 71.0, 30.0, COLOURS["red"])
    picture, _ = render(Scene((figure,), "cyan", COLOURS["cyan"]))
    reading = read(picture)
    assert (reading.x, reading.y, reading.radius) == pytest.approx((50.0, 71.0, 30.0), abs=1.0)


def test_an_empty_picture_shows_its_background_alone() -> None:
    reading = read(flat("cyan"))
    assert (reading.background, reading.colour, reading.shape, reading.area_px) == ("cyan", None, None, 0)


def test_noise_and_specks_are_no_figure() -> None:
    noise = np.random.default_rng(0).normal(0.0, 4.0, (SIZE_PX, SIZE_PX, 3))
    picture = np.clip(flat("yellow") + noise, 0, 255).astype(np.uint8)
    picture[40:46, 40:46] = COLOURS["black"]
    assert read(picture).area_px == 0


def test_a_figure_in_pieces_has_no_shape() -> None:
    picture = flat("white")
    picture[8:120:16, 8:120] = picture[9:120:16, 8:120] = picture[10:120:16, 8:120] = COLOURS["red"]
    reading = read(picture)
    assert (reading.colour, reading.shape) == ("red", None)


def test_a_second_figure_counts_against_the_overlap() -> None:
    figures = [Figure("square", "red", None, None, x, 64.0, 22.0, COLOURS["red"]) for x in (32.0, 96.0)]
    one, _ = render(Scene((figures[0],), "white", COLOURS["white"]))
    two, _ = render(Scene(tuple(figures), "white", COLOURS["white"]))
    assert read(one).overlap > 0.9 > 0.7 > read(two).overlap


def test_the_mask_covers_the_figure_and_no_more() -> None:
    figure = Figure("cross", "blue", None, None, 64.0, 64.0, 30.0, COLOURS["blue"])
    picture, (covered,) = render(Scene((figure,), "purple", COLOURS["purple"]))
    assert (figure_mask(picture, COLOURS["purple"]) ^ (covered > 0.5)).mean() < 0.005


def test_a_picture_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\[128, 128, 3\]"):
        read(np.zeros((64, 64, 3), dtype=np.uint8))


def test_lab_is_cie_lab() -> None:
    # Red of sRGB as tabulated by Lindbloom; white and black by definition.
    expected = [[53.24, 80.09, 67.20], [100.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
    assert lab([[255, 0, 0], [255, 255, 255], [0, 0, 0]]) == pytest.approx(np.array(expected), abs=0.05)


def test_a_shade_keeps_the_name_of_its_colour() -> None:
    for name, (r, g, b) in COLOURS.items():
        assert nearest_colour((max(0, r - 8), min(255, g + 8), max(0, b - 8))) == name


# Places


@pytest.mark.parametrize("position", list(POSITIONS))
def test_whatever_was_placed_there_stands_there(position: str) -> None:
    rng = random.Random(1)
    for size in RADII_PX:
        for _ in range(50):
            radius = rng.uniform(*RADII_PX[size])
            assert named_position(*place(position, radius, rng), radius) == position


@pytest.mark.parametrize(
    ("x", "y", "radius", "expected"),
    [
        (54, 64, 50, "left"),
        (54, 64, 18, None),  # ten pixels are all that a large figure has, and nothing to a small one
        (30, 45, 18, "left"),
        (30, 40, 18, "top left"),
        (38, 46, 30, "top left"),
        (44, 50, 18, None),
        (64, 96, 18, "bottom"),
        (70, 58, 18, "center"),
    ],
)
def test_a_place_has_bounds(x: float, y: float, radius: float, expected: str | None) -> None:
    assert named_position(x, y, radius) == expected


def test_sizes_between_the_ranges_go_to_the_nearest() -> None:
    assert [named_size(r) for r in (10, 21, 24, 35, 40, 60)] == ["small", "small", None, None, "large", "large"]


# Judging


def test_the_right_picture_has_no_fault() -> None:
    assert judge(HEART, picture_of(HEART)).faults == ()


@pytest.mark.parametrize(
    ("drawn", "faults"),
    [
        (replace(HEART, colour="red"), ("colour", "both colours")),
        (replace(HEART, background="pink"), ("background", "both colours")),
        (replace(HEART, colour="white", background="green"), ("background", "colour", "both colours")),
        (replace(HEART, shape="diamond"), ("shape",)),
        (replace(HEART, position="right"), ("position",)),
        (replace(HEART, position="center"), ("position",)),
        (replace(HEART, position="top left"), ("position",)),
    ],
)
def test_the_wrong_picture_has_that_fault(drawn: Asked, faults: tuple[str, ...]) -> None:
    assert judge(HEART, picture_of(drawn)).faults == faults


@pytest.mark.parametrize("asked", SHAPES)
def test_no_outline_passes_for_another(asked: str) -> None:
    for drawn in SHAPES:
        judgement = judge(replace(HEART, shape=asked), picture_of(replace(HEART, shape=drawn)))
        assert ("shape" in judgement.faults) == (asked != drawn)


def test_no_figure_is_wrong_in_everything_even_on_the_right_background() -> None:
    assert judge(HEART, flat("white")).faults == tuple(FLOORS)


def test_what_was_not_asked_is_not_judged() -> None:
    anywhere = replace(HEART, position=None)
    assert judge(anywhere, picture_of(replace(HEART, position="bottom"))).faults == ()
    assert rates([judge(anywhere, flat("white"))])["position"] == Rate(0, 0)


def test_a_rate_below_its_floor_is_missed_and_one_of_nothing_is_not() -> None:
    right, wrong = judge(HEART, picture_of(HEART)), judge(HEART, picture_of(replace(HEART, shape="circle")))
    assert misses([right] * 9 + [wrong], FLOORS) == []
    assert misses([right] * 8 + [wrong] * 2, FLOORS) == ["shape"]
    nowhere = Judgement(replace(HEART, position=None), right.reading, ())
    assert rates([nowhere])["position"].value is None
    assert misses([nowhere], FLOORS) == []


# Asking


def test_prompts_are_held_out_even_and_the_same_again() -> None:
    prompts = make_prompts(240, seed=0)
    assert prompts == make_prompts(240, seed=0)
    assert [p.text for p in prompts] != [p.text for p in make_prompts(240, seed=1)]
    assert all(held_out(p.colour, p.shape, p.background) and p.colour != p.background for p in prompts)
    assert Counter(p.position for p in prompts) == {
        None: 120, "center": 24, "left": 24, "right": 24, "top": 24, "bottom": 24
    }  # fmt: skip
    for counts in (Counter(p.shape for p in prompts), Counter(p.colour for p in prompts)):
        assert max(counts.values()) - min(counts.values()) <= 3


def test_prompts_say_what_they_ask_in_plain_words() -> None:
    prompts = make_prompts(400, seed=2)
    for p in prompts:
        assert f"{p.colour} {p.shape}" in p.text
        assert p.text.endswith(f"{p.background} background")
        assert all(said is None or said in p.text for said in (p.size, p.position))
        assert "a orange" not in p.text
    assert sum(p.text.startswith(("a picture of", "a drawing of")) for p in prompts) in range(60, 140)


# The command


def test_the_judge_judges_itself_and_writes_what_it_found(tmp_path: Path) -> None:
    sheet, told = tmp_path / "sheet.png", tmp_path / "told.json"
    assert main(["--self-check", "--prompts", "48", "--sheet", str(sheet), "--json", str(told)]) == 0
    found = json.loads(told.read_text(encoding="utf-8"))
    assert found["missed"] == []
    assert len(found["pictures"]) == 48
    assert all(rate["right"] == rate["of"] for rate in found["rates"].values())
    assert sheet.read_bytes().startswith(b"\x89PNG")


def test_a_folder_without_a_model_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--model", str(tmp_path)]) == 2
    assert str(tmp_path) in capsys.readouterr().err


def test_the_guidance_is_the_models_own_where_it_has_one(tmp_path: Path) -> None:
    assert default_guidance(tmp_path) == 4.0
    (tmp_path / "sd_worker.json").write_text('{"guidance_scale": 3.5}', encoding="utf-8")
    assert default_guidance(tmp_path) == 3.5


def test_a_fault_is_framed_in_red() -> None:
    picture = flat("white")
    sheet = contact_sheet([Tile(picture, "a fine one"), Tile(picture, "a bad one", "no heart")], "two")
    red = np.all(np.asarray(sheet) == (215, 0, 0), axis=-1).any(axis=0)  # [W]
    first_tile = sheet.width // COLUMNS
    assert not red[: first_tile - 8].any()
    assert red[first_tile : 2 * first_tile].any()


def test_importing_the_judge_imports_no_torch() -> None:
    code = "import sys, benches.judge; sys.exit('torch' in sys.modules or 'diffusers' in sys.modules)"
    root = Path(__file__).parents[1]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0
