"""ControlNets in the studio: what is posted of them, what is asked for, and what stays of them."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from playwright.sync_api import FilePayload, Locator, Page, Route, expect

from tests import real
from tests.models.controls.nets import lines, write_controlnet
from tests.ui.axe import faults, load_axe
from tests.ui.studio import CIRCLE, fill, generate
from worker.api.request import MAX_ADAPTERS
from worker.models.registry import BUILTIN

pytestmark = pytest.mark.guard(300)
EDGES = "edges"
ASKED_FOR = "Drop or choose a picture"
USUAL = {"name": EDGES, "preprocessor": "none", "scale": 1, "start": 0, "end": 1}
SIDE_PX = 128
"""Of what the built-in model draws."""


@pytest.fixture(scope="module")
def worker_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """In place of the others': with a ControlNet that fits the model, and one that does not."""
    nets = tmp_path_factory.mktemp("nets")
    write_controlnet(nets / EDGES, BUILTIN, conditioning_embedding_out_channels=(8, 8, 8, 8))
    write_controlnet(nets / "coarse", BUILTIN, conditioning_embedding_out_channels=(8, 8))
    with real.running("--control-dir", str(nets)) as worker:
        yield worker.url


def entries(page: Page) -> Locator:
    """Of the form, in its order."""
    return page.get_by_role("group", name=EDGES, exact=True)


def add(page: Page) -> Locator:
    """An entry more, which is the last one then."""
    count = entries(page).count()
    page.get_by_role("combobox", name="Add a ControlNet").select_option(EDGES)
    expect(entries(page)).to_have_count(count + 1)
    return entries(page).last


def give(entry: Locator, data: bytes) -> None:
    """The entry has this picture then."""
    file = FilePayload(name="picture.png", mimeType="image/png", buffer=data)
    shown = entry.locator("img")
    before = shown.get_attribute("src") if shown.count() else None
    entry.locator("input[type=file]").set_input_files(file)
    expect(shown).not_to_have_attribute("src", before or "")


def set_number(entry: Locator, name: str, value: float) -> None:
    field = entry.get_by_role("textbox", name=name, exact=True)
    field.fill(str(value))
    field.press("Tab")


def posted_bytes(page: Page) -> bytes:
    """The body of the job that is asked for now."""
    with page.expect_request(lambda request: request.method == "POST" and request.url.endswith("/v1/jobs")) as sent:
        generate(page)
    return sent.value.post_data_buffer or b""


def posted(page: Page) -> dict[str, Any]:
    """The same, read."""
    body: dict[str, Any] = json.loads(posted_bytes(page))
    return body


def pixels_of(control: dict[str, Any]) -> npt.NDArray[np.uint8]:
    with Image.open(io.BytesIO(base64.b64decode(control["image"]))) as image:
        return np.asarray(image.convert("RGB"))


def without_image(control: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in control.items() if name != "image"}


def read(data: bytes) -> npt.NDArray[np.uint8]:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image)


def noise(side: int) -> bytes:
    """A picture that no format makes small."""
    drawn = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(drawn).save(file, "PNG")
    return file.getvalue()


def test_a_job_has_exactly_the_controls_that_are_set(page: Page, worker_url: str) -> None:
    options = page.get_by_role("combobox", name="Add a ControlNet").get_by_role("option")
    expect(options).to_have_text(["Add a ControlNet…", EDGES])
    first, second = lines(SIDE_PX, SIDE_PX).data, lines(2 * SIDE_PX, SIDE_PX).data
    give(add(page), first)
    entry = add(page)
    give(entry, second)
    entry.get_by_role("combobox", name="Preprocessor").select_option("canny")
    for name, value in (("Strength", 2.5), ("Start", 0.25), ("End", 0.75)):
        set_number(entry, name, value)
    fill(page, CIRCLE, steps=4)
    controls = posted(page)["controls"]
    told = [USUAL, {"name": EDGES, "preprocessor": "canny", "scale": 2.5, "start": 0.25, "end": 0.75}]
    assert [without_image(one) for one in controls] == told
    assert np.array_equal(pixels_of(controls[0]), read(first))
    assert np.array_equal(pixels_of(controls[1]), read(second)[:, SIDE_PX // 2 : -SIDE_PX // 2]), "its middle"
    page.locator("img.finished").wait_for()
    with real.client_of(worker_url) as client:
        job = client.get("/v1/jobs").json()["jobs"][0]
        params = client.get(f"/v1/jobs/{job['job_id']}").json()["params"]
    assert [without_image(one) for one in params["controls"]] == told


def test_the_picture_is_as_large_as_what_is_begun_with(page: Page) -> None:
    page.get_by_role("link", name="Image to image").click()
    page.get_by_label("Drop, paste or choose a picture").set_input_files(
        FilePayload(name="wide.png", mimeType="image/png", buffer=lines(192, 96).data)
    )
    give(add(page), lines(64, 64).data)
    fill(page, CIRCLE, steps=2)
    expect(page.get_by_role("img", name="The picture to begin with")).to_be_visible()
    body = posted(page)
    assert pixels_of(body["controls"][0]).shape == pixels_of(body).shape
    page.locator(".before-after-line").wait_for()


def test_a_missing_picture_is_told_and_nothing_is_posted(page: Page) -> None:
    posts: list[str] = []
    page.on("request", lambda request: posts.append(request.url) if request.method == "POST" else None)
    fill(page, CIRCLE, steps=2)
    give(add(page), lines().data)
    entry = add(page)
    generate(page)
    alert = page.get_by_role("alert")
    expect(alert).to_have_text(f"This needs a picture for {EDGES}.")
    spoilt = FilePayload(name="spoilt.png", mimeType="image/png", buffer=b"no picture")
    entry.locator("input[type=file]").set_input_files(spoilt)
    expect(entry.get_by_role("alert")).to_have_text("That is no picture this browser can read.")
    assert posts == []
    give(entry, lines().data)
    expect(entry.get_by_role("alert")).to_have_count(0)
    assert len(posted(page)["controls"]) == 2
    expect(alert).to_have_count(0)


def test_a_file_that_is_written_over_is_sent_as_it_was_chosen(page: Page, tmp_path: Path) -> None:
    file = tmp_path / "lines.png"
    chosen = lines(SIDE_PX, SIDE_PX).data
    file.write_bytes(chosen)
    entry = add(page)
    entry.locator("input[type=file]").set_input_files(file)
    expect(entry.locator("img")).to_be_visible()
    file.write_bytes(noise(SIDE_PX))
    fill(page, CIRCLE, steps=2)
    assert np.array_equal(pixels_of(posted(page)["controls"][0]), read(chosen))


def test_an_entry_that_is_taken_out_is_gone_and_the_others_stay(page: Page) -> None:
    for strength in (0.5, 1.5):
        entry = add(page)
        give(entry, lines().data)
        set_number(entry, "Strength", strength)
    entries(page).first.get_by_role("button", name=f"Take {EDGES} out").click()
    expect(entries(page)).to_have_count(1)
    expect(page.get_by_role("group", name="ControlNets")).to_be_focused()
    fill(page, CIRCLE, steps=2)
    assert [without_image(one) for one in posted(page)["controls"]] == [USUAL | {"scale": 1.5}]
    page.locator("img.finished").wait_for()
    entries(page).get_by_role("button", name=f"Take {EDGES} out").click()
    assert "controls" not in posted(page)


def test_no_more_can_be_added_than_a_job_takes(page: Page) -> None:
    for _ in range(MAX_ADAPTERS):
        add(page)
    expect(page.get_by_role("combobox", name="Add a ControlNet")).to_have_count(0)
    entries(page).first.get_by_role("button", name=f"Take {EDGES} out").click()
    expect(page.get_by_role("combobox", name="Add a ControlNet")).to_be_visible()


def test_it_never_starts_after_its_end(page: Page) -> None:
    entry = add(page)
    for name, value in (("End", 0.4), ("Start", 0.6)):
        set_number(entry, name, value)
    expect(entry.get_by_role("textbox", name="Start", exact=True)).to_have_value("0.4")
    set_number(entry, "End", 0.1)
    expect(entry.get_by_role("textbox", name="End", exact=True)).to_have_value("0.4")


def test_a_reload_keeps_all_but_the_picture(page: Page) -> None:
    entry = add(page)
    give(entry, lines().data)
    set_number(entry, "Strength", 0.7)
    fill(page, CIRCLE, steps=2)
    page.reload()
    expect(entries(page).get_by_role("textbox", name="Strength", exact=True)).to_have_value("0.7")
    expect(entries(page).get_by_text(ASKED_FOR)).to_be_visible()
    generate(page)
    expect(page.get_by_role("alert")).to_have_text(f"This needs a picture for {EDGES}.")


def test_settings_are_reused_with_their_controls(page: Page) -> None:
    entry = add(page)
    give(entry, lines(SIDE_PX, SIDE_PX, every=8).data)
    set_number(entry, "Strength", 0.7)
    fill(page, CIRCLE, steps=2)
    drawn = posted(page)
    page.locator("img.finished").wait_for()
    give(entry, lines(SIDE_PX, SIDE_PX, every=20).data)
    set_number(entry, "Strength", 0.2)
    page.get_by_role("button", name="Reuse settings").click()
    expect(entries(page).get_by_role("textbox", name="Strength", exact=True)).to_have_value("0.7")
    assert posted(page)["controls"] == drawn["controls"], "with the picture that it was drawn by"
    page.locator("img.finished").wait_for()
    entries(page).get_by_role("button", name=f"Take {EDGES} out").click()
    page.reload()
    page.get_by_role("button", name="Reuse settings").click()
    expect(entries(page).get_by_role("textbox", name="Strength", exact=True)).to_have_value("0.7")
    expect(entries(page).get_by_text(ASKED_FOR)).to_be_visible()


def test_upscaling_goes_without(page: Page) -> None:
    give(add(page), lines().data)
    fill(page, CIRCLE, steps=2)
    generate(page)
    page.locator("img.finished").wait_for()
    page.get_by_role("button", name="Upscale").click()
    expect(page.get_by_role("combobox", name="Larger by")).to_be_visible()
    expect(page.get_by_role("group", name="ControlNets")).to_have_count(0)
    expect(page.get_by_role("img", name="The picture to begin with")).to_be_visible()
    assert "controls" not in posted(page)
    page.locator(".before-after-line").wait_for()


def test_pictures_are_made_smaller_where_a_body_would_be_too_large(page: Page) -> None:
    most = 60_000

    def narrow(route: Route) -> None:
        info = route.fetch().json()
        info["limits"]["body_bytes"] = most
        route.fulfill(json=info)

    page.route("**/v1/info", narrow)
    page.reload()
    for data in (noise(SIDE_PX), lines(SIDE_PX, SIDE_PX).data, noise(SIDE_PX)):
        give(add(page), data)
    fill(page, CIRCLE, steps=2)
    body = posted_bytes(page)
    assert len(body) <= most
    sides = [pixels_of(one).shape[0] for one in json.loads(body)["controls"]]
    assert sides[1] == SIDE_PX, "this one fits as it is"
    assert all(SIDE_PX // 4 < side < SIDE_PX for side in (sides[0], sides[2])), sides
    page.locator("img.finished").wait_for()


def test_axe_and_a_phone(page: Page) -> None:
    load_axe(page)
    for _ in range(2):
        give(add(page), lines().data)
    found = []
    for width in (1280, 375):
        page.set_viewport_size({"width": width, "height": 760})
        for colours in ("Dark colours", "Light colours"):
            page.get_by_role("button", name=colours).click()
            found += faults(page)
        last = page.get_by_role("combobox", name="Add a ControlNet")
        last.scroll_into_view_if_needed()
        expect(last).to_be_in_viewport()
        whole = page.evaluate("() => [document.documentElement.scrollWidth, document.documentElement.scrollHeight]")
        assert whole == [width, 760], "what is longer than the window scrolls within the page"
    assert found == []
