"""What the engine does for pictures that guide: reads them, and tells the model of each call how much they count."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as PillowImage

from tests.engine.test_denoiser import Formula, loaded, run, small
from tests.fakes import PATIENCE_S
from tests.models.tiny import picture
from worker.engine.control import read_control
from worker.engine.latent_drawing import LatentDrawing
from worker.engine.run import JobRun
from worker.errors import InvalidInput
from worker.jobs.params import ControlParams, Picture, Preprocessor
from worker.jobs.queue import Work

WHITE = picture(PillowImage.new("RGB", (32, 32), "white"))


class Ready:
    """What a net is held by."""


class Guided(Formula):
    """Has every net but `absent`, and remembers what it was told of them at each call."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[dict[str, torch.Tensor]] = []
        self.held: dict[str, weakref.ref[Ready]] = {}

    def control(self, name: str) -> object:
        if name == "absent":
            raise InvalidInput("it is absent")
        ready = Ready()
        self.held[name] = weakref.ref(ready)
        return ready

    def predict(
        self, latents: torch.Tensor, timesteps: torch.Tensor, conditioning: Mapping[str, torch.Tensor]
    ) -> torch.Tensor:
        self.calls.append({name: one for name, one in conditioning.items() if name.startswith("control")})
        return super().predict(latents, timesteps, conditioning)


def by(name: str, **changes: Any) -> ControlParams:
    return ControlParams(name, **{"image": WHITE, "scale": 1.0, "start": 0.0, "end": 1.0} | changes)


@pytest.fixture
def model() -> Guided:
    return Guided()


def scales(model: Guided, name: str) -> list[list[float] | None]:
    """Of each call, row by row; None where the model was not told of the net."""
    told = (call.get(f"control_scale.{name}") for call in model.calls)
    return [None if one is None else [round(value, 3) for value in one.tolist()] for one in told]


def test_a_net_counts_from_its_start_to_its_end_and_is_not_run_otherwise(model: Guided) -> None:
    denoiser = loaded(model)
    run(
        denoiser, *denoiser.open(small(steps=5, guidance_scale=1.0, controls=(by("n", scale=0.5, start=0.2, end=0.8),)))
    )
    assert scales(model, "0.n") == [None, [0.5], [0.5], [0.5], None]
    assert [set(call) for call in model.calls][:2] == [set(), {"control.0.n", "control_scale.0.n"}]


def test_every_row_has_its_own_drawings_picture_and_scale(model: Guided) -> None:
    denoiser = loaded(model)
    black = picture(PillowImage.new("RGB", (32, 32)))
    (one,) = denoiser.open(small(steps=2, guidance_scale=3.0, controls=(by("n", end=0.5),)))
    (two,) = denoiser.open(small(steps=4, guidance_scale=1.0, controls=(by("n", image=black, scale=0.25, start=0.5),)))
    assert one.key == two.key
    run(denoiser, one, two)
    assert scales(model, "0.n") == [[1.0, 0.0, 1.0], None, [0.25], [0.25]]
    pictures = model.calls[0]["control.0.n"]
    assert pictures.shape == (3, 3, 32, 32)
    assert pictures.mean(dim=(1, 2, 3)).tolist() == [1.0, 0.0, 1.0]


def test_drawings_of_the_same_nets_share_a_key_whatever_their_order(model: Guided) -> None:
    denoiser = loaded(model)
    wanted = [(), (by("a"),), (by("b"),), (by("a"), by("b")), (by("b"), by("a", scale=0.1)), (by("a"), by("a"))]
    keys = [next(denoiser.open(small(controls=controls))).key for controls in wanted]
    assert keys[3] == keys[4]
    assert len(set(keys)) == 5


def test_one_net_can_be_there_twice(model: Guided) -> None:
    denoiser = loaded(model)
    run(denoiser, *denoiser.open(small(steps=1, guidance_scale=1.0, controls=(by("a", scale=0.3), by("a", scale=0.6)))))
    assert (scales(model, "0.a"), scales(model, "1.a")) == ([[0.3]], [[0.6]])


def test_a_job_without_controls_asks_the_model_for_none(model: Guided) -> None:
    denoiser = loaded(model)
    run(denoiser, *denoiser.open(small()))
    assert (model.held, set().union(*model.calls)) == ({}, set())


def test_a_net_is_held_for_as_long_as_a_drawing_has_it(model: Guided) -> None:
    denoiser = loaded(model)
    drawings = list(denoiser.open(small(num_images=2, controls=(by("n"),))))
    drawings.pop()
    assert model.held["n"]() is not None
    drawings.pop()
    # At once, and without a collection, which would end what other tests left behind and have their warnings here.
    assert model.held["n"]() is None


def test_a_drawing_holds_its_net_to_its_last_step_and_not_while_it_is_decoded(model: Guided) -> None:
    denoiser = loaded(model)
    job: JobRun[LatentDrawing] = JobRun(Work("job", small(steps=2, controls=(by("n"),))))
    assert job.open_on(denoiser.open, PATIENCE_S)
    denoiser.step(job.drawings)
    assert model.held["n"]() is not None
    denoiser.step(job.drawings)
    assert job.drawings[0].done
    assert model.held["n"]() is None
    denoiser.finish(job.drawings[0])


def test_a_net_that_cannot_be_had_fails_the_job(model: Guided) -> None:
    with pytest.raises(InvalidInput, match="it is absent"):
        list(loaded(model).open(small(controls=(by("absent"),))))


def test_a_control_that_no_step_lies_in_is_told_of(model: Guided) -> None:
    denoiser = loaded(model)
    (drawing,) = denoiser.open(small(steps=4, controls=(by("n", start=0.3, end=0.4), by("off", scale=0.0), by("on"))))
    assert drawing.warnings == ("controls: no step lies between the start and the end of n, which had no part",)


def test_control_pictures_are_upright_in_the_size_that_is_drawn() -> None:
    clear = PillowImage.new("RGBA", (64, 16), (255, 255, 255, 0))
    clear.paste((255, 255, 255, 255), (32, 0, 64, 16))
    pixels = read_control(by("n", image=picture(clear)), 32, 32)
    assert pixels.shape == (32, 32, 3)
    assert (pixels[:, :10] == 0).all(), "what is transparent says nothing"
    assert (pixels[:, 22:] == 255).all()


def test_edges_are_made_of_an_ordinary_picture() -> None:
    halves = PillowImage.new("RGB", (64, 64), "black")
    halves.paste((255, 255, 255), (32, 0, 64, 64))
    edges = read_control(by("n", image=picture(halves), preprocessor=Preprocessor.CANNY), 32, 32)
    assert np.array_equal(np.unique(edges), [0, 255])
    columns = np.flatnonzero(edges.any(axis=(0, 2)))
    assert columns.size == 1
    assert 14 <= columns[0] <= 17


@pytest.mark.parametrize("preprocessor", Preprocessor)
def test_a_control_picture_that_cannot_be_decoded(preprocessor: Preprocessor) -> None:
    cut = Picture(32, 32, 60, WHITE.data[:60])
    with pytest.raises(InvalidInput, match=r"^The control picture cannot be decoded: the file is damaged or cut off$"):
        read_control(by("n", image=cut, preprocessor=preprocessor), 32, 32)
