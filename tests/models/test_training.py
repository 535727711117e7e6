"""What the built-in model is trained on: latents that are given, and a tokenizer that is the same on every run."""

from __future__ import annotations

import random
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from transformers import CLIPTokenizer

from worker.models.builtin.training import codes
from worker.models.builtin.training.scenes import COLOURS, SHAPES, Figure, Scene, draw_scene, held_out, render
from worker.models.builtin.training.tokenizer import learn_merges, write_tokenizer

COLOUR = dict(COLOURS)


def test_the_ten_colours_lie_far_apart_and_have_the_codes_they_were_given() -> None:
    assert np.allclose(codes.code(list(COLOURS.values())), [codes.CODES[name] for name in COLOURS], atol=1e-9)
    points = np.asarray(list(codes.CODES.values()))
    assert min(np.linalg.norm(a - b) for a, b in combinations(points, 2)) > 2.4
    assert np.allclose(points.mean(axis=0), 0, atol=0.02)
    assert np.allclose(np.cov(points.T, bias=True), np.eye(4), atol=0.02)


def test_a_linear_map_of_the_codes_tells_nearly_all_of_red_green_and_blue() -> None:
    rgb = np.asarray(list(COLOURS.values())) / 127.5 - 1
    known = np.hstack([list(codes.CODES.values()), np.ones((10, 1))])
    missed = rgb - known @ np.linalg.lstsq(known, rgb, rcond=None)[0]
    assert 1 - (missed**2).sum() / ((rgb - rgb.mean(axis=0)) ** 2).sum() > 0.98


def test_colours_near_each_other_have_codes_near_each_other() -> None:
    chance = np.random.default_rng(0)
    rgb = chance.uniform(0, 255, (500, 3))
    near = np.clip(rgb + chance.uniform(-2, 2, rgb.shape), 0, 255)
    assert np.abs(codes.code(rgb) - codes.code(near)).max() < 0.5


def test_a_place_has_the_mean_code_of_its_pixels() -> None:
    figure = Figure("square", "red", None, None, 64.0, 64.0, 32 / 0.86, COLOUR["red"])
    scene = Scene((figure,), "blue", COLOUR["blue"])
    _, masks = render(scene)
    latent = codes.encode(scene, masks).astype(float)
    assert latent.shape == (4, 16, 16)
    assert np.allclose(latent[:, 8, 8], codes.CODES["red"], atol=2e-3)
    assert np.allclose(latent[:, 0, 0], codes.CODES["blue"], atol=2e-3)
    covered = masks[0][24:32, 64:72].mean()
    mixed = covered * np.asarray(codes.CODES["red"]) + (1 - covered) * np.asarray(codes.CODES["blue"])
    assert np.allclose(latent[:, 3, 8], mixed, atol=2e-3)


def test_the_figure_drawn_last_covers_the_others() -> None:
    figures = tuple(Figure("circle", name, None, None, 64.0, 64.0, 30.0, COLOUR[name]) for name in ("red", "green"))
    scene = Scene(figures, "white", COLOUR["white"])
    picture, masks = render(scene)
    assert tuple(picture[64, 64]) == COLOUR["green"]
    assert np.allclose(codes.encode(scene, masks)[:, 8, 8].astype(float), codes.CODES["green"], atol=2e-3)


def test_a_linear_map_between_latents_is_found() -> None:
    chance = torch.Generator().manual_seed(0)
    known = torch.randn((8, 4, 16, 16), generator=chance)
    matrix, shift = torch.randn((4, 4), generator=chance).double(), torch.randn(4, generator=chance).double()
    wanted = torch.einsum("ij,njhw->nihw", matrix, known.double()) + shift[:, None, None]
    found, moved = codes.linear_map(known, wanted)
    assert torch.allclose(found, matrix, atol=1e-5)
    assert torch.allclose(moved, shift, atol=1e-5)


def test_scenes_kept_for_the_judge_are_never_drawn_for_training() -> None:
    rng = random.Random(0)
    single = [scene for scene in (draw_scene(rng) for _ in range(400)) if len(scene.figures) == 1]
    assert len(single) > 300
    for scene in single:
        assert not held_out(scene.figures[0].colour, scene.figures[0].shape, scene.background)


def test_the_tokenizer_is_the_same_on_every_run_and_knows_its_words_whole(tmp_path: Path) -> None:
    assert learn_merges(["aba", "ab"]) == [("b", "a</w>"), ("a", "ba</w>"), ("a", "b</w>")]
    write_tokenizer(tmp_path / "one")
    write_tokenizer(tmp_path / "two")
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    tokenizer = CLIPTokenizer.from_pretrained(tmp_path / "one")
    for word in (*COLOURS, *SHAPES, "background"):
        assert len(tokenizer(word).input_ids) == 3, "the word between start and end"
