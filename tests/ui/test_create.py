"""Each page's main path, to the pixel."""

from __future__ import annotations

import numpy as np
import pytest
from playwright.sync_api import Locator, Page, Route, expect

from tests.ui.axe import faults, load_axe
from tests.ui.line import Line
from tests.ui.studio import BLUE, CIRCLE, GREEN, RED, drop, fill, generate, pixels, png, press, share

pytestmark = pytest.mark.guard(300)


def draw_circle(page: Page) -> None:
    """The newest picture is then a red circle."""
    fill(page, CIRCLE, steps=8)
    generate(page)
    page.locator("img.finished").wait_for()


def test_text_to_image(page: Page, line: Line) -> None:
    page.goto(line.url)
    fill(page, CIRCLE, steps=8)
    line.hold_at("preview")
    generate(page)
    page.locator("img.preview").wait_for()
    expect(page.get_by_role("status").filter(has_text="Step")).to_be_visible()
    expect(page.get_by_role("status").get_by_role("button")).to_have_count(0)
    line.let_go()
    picture = pixels(page.locator("img.finished"))
    expect(page.get_by_role("status")).to_have_text("Done")
    assert picture.shape == (128, 128, 3)
    assert 0.05 < share(picture, RED) < 0.6
    assert share(picture, BLUE) > 0.3
    assert share(picture[48:80, 48:80], RED) > 0.9
    expect(page.locator(".caption")).to_contain_text("seed 7")


def test_image_to_image_and_inpainting(page: Page) -> None:
    draw_circle(page)
    before = pixels(page.locator("img.finished"))

    page.get_by_role("button", name="To image").click()
    fill(page, "a green circle on a blue background", steps=8)
    strength = page.get_by_role("textbox", name="Strength", exact=True)
    strength.fill("0,95")
    strength.press("Tab")
    expect(strength).to_have_value("0.95")
    generate(page)
    page.locator(".before-after-line").wait_for()
    assert np.array_equal(pixels(page.get_by_role("img", name="Before")), before)
    assert share(pixels(page.locator(".before-after img").first), GREEN) > 0.03

    page.get_by_role("link", name="Inpainting").click()
    canvas = page.get_by_role("application")
    box = canvas.bounding_box()
    assert box is not None
    scale = box["width"] / 128
    page.mouse.move(box["x"] + 20 * scale, box["y"] + 24 * scale)
    page.mouse.down()
    page.mouse.move(box["x"] + 60 * scale, box["y"] + 24 * scale, steps=8)
    page.mouse.up()
    fill(page, "a yellow star on a red background", steps=6)
    generate(page)
    page.locator(".before-after-line").wait_for()
    after = pixels(page.locator(".before-after img").first).astype(int)
    changed = np.abs(after - before).max(axis=2) > 0
    rows, columns = np.nonzero(changed)
    assert changed.sum() > 300  # something was repainted
    radius = 128 / 6 / 2 + 2
    assert (24 - radius <= rows.min(), rows.max() <= 24 + radius) == (True, True)
    assert (20 - radius <= columns.min(), columns.max() <= 60 + radius) == (True, True)


def test_a_mask_is_undone_inverted_and_cleared(page: Page) -> None:
    draw_circle(page)
    page.get_by_role("button", name="Inpaint").click()
    canvas = page.get_by_role("application")

    def painted() -> int:
        """Pixels that are at least half painted, once the page has drawn what it was told."""
        count: int = canvas.evaluate(
            """async (canvas) => {
                await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
                const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
                return data.filter((value, index) => index % 4 === 3 && value > 127).length;
            }"""
        )
        return count

    def tool(name: str) -> Locator:
        return page.get_by_role("toolbar").get_by_role("button", name=name)

    assert painted() == 0
    canvas.press("Space")
    dot = painted()
    assert 200 < dot < 600
    tool("Invert").click()
    assert abs(painted() + dot - 128 * 128) < 200  # but for the edge, which is half of each
    tool("Undo").click()
    assert painted() == dot
    tool("Redo").click()
    tool("Undo").click()
    tool("Eraser").click()
    canvas.press("Space")
    assert painted() < dot / 10
    tool("Undo").click()
    tool("Clear").click()
    assert painted() == 0


def test_what_is_missing_is_said_and_nothing_is_posted(page: Page) -> None:
    posts: list[str] = []
    page.on("request", lambda request: posts.append(request.url) if request.method == "POST" else None)
    page.get_by_role("textbox", name="Prompt", exact=True).fill("")
    for held in ("isComposing", "repeat"):
        press(page, key="Enter", ctrlKey=True, **{held: True})
    expect(page.get_by_role("alert")).to_have_count(0)
    generate(page)
    expect(page.get_by_role("alert")).to_have_text("This needs a prompt.")
    assert posts == []


def test_an_emptied_number_goes_back_to_its_value(page: Page) -> None:
    for name in ("Steps", "Guidance", "Seed"):
        field = page.get_by_role("textbox", name=name, exact=True)
        value = field.input_value()
        field.fill("")
        expect(field).to_have_value("")
        field.press("Tab")
        expect(field).to_have_value(value)
    expect(page.get_by_role("button", name="Keep the seed")).to_have_attribute("aria-pressed", "false")


def test_adapters_are_not_asked_for_where_the_worker_has_none(page: Page) -> None:
    expect(page.get_by_role("combobox", name="Sampler")).to_be_visible()
    for adapter in ("LoRA", "ControlNet"):
        expect(page.get_by_role("combobox", name=f"Add a {adapter}")).to_have_count(0)


def test_what_the_worker_did_not_do_is_said_by_the_picture(page: Page) -> None:
    fill(page, CIRCLE, steps=3)
    page.get_by_role("textbox", name="Negative prompt").fill("green")
    guidance = page.get_by_role("textbox", name="Guidance", exact=True)
    guidance.fill("1")
    guidance.press("Tab")
    generate(page)
    warnings = page.get_by_role("list", name="Warnings of the worker").get_by_role("listitem")
    told = "negative_prompt: it has no effect without guidance by a second row"
    expect(warnings).to_have_text([told])
    load_axe(page)
    assert faults(page) == []
    page.reload()
    expect(warnings).to_have_text([told])  # now out of the gallery
    fill(page, CIRCLE, steps=4)
    page.get_by_role("textbox", name="Negative prompt").fill("")
    generate(page)
    expect(page.locator(".caption")).to_contain_text("4 steps")
    expect(warnings).to_have_count(0)


def test_the_studio_opens_on_what_the_model_does(page: Page) -> None:
    def alone(route: Route) -> None:
        route.fulfill(json=route.fetch().json() | {"tasks": ["inpainting"]})

    page.route("**/v1/info", alone)
    for address in ("/", "/#/text"):
        page.goto(address)
        page.reload()
        expect(page.get_by_role("link", name="Inpainting")).to_have_attribute("aria-current", "page")
        expect(page.get_by_text("Drop, paste or choose a picture to begin with.")).to_be_visible()
        expect(page.get_by_role("link", name="Text to image")).to_have_count(0)


def test_settings_are_reused_on_the_page_of_their_task(page: Page) -> None:
    draw_circle(page)
    page.get_by_role("button", name="To image").click()
    fill(page, CIRCLE, steps=3)
    generate(page)
    page.locator(".before-after-line").wait_for()
    for thumb, current in ((0, "Image to image"), (1, "Text to image")):
        page.get_by_role("link", name="Gallery").click()
        page.locator(".grid .thumb").nth(thumb).click()
        page.get_by_role("button", name="Reuse settings").click()
        expect(page.get_by_role("link", name=current)).to_have_attribute("aria-current", "page")


def test_the_worker_says_when_its_queue_is_done(page: Page) -> None:
    page.get_by_role("link", name="Worker").click()
    expect(page.get_by_role("region", name="Queue")).to_contain_text("All of it done in")


def test_a_picture_is_dropped_anywhere_on_its_page(page: Page) -> None:
    page.get_by_role("link", name="Image to image").click()
    assert drop(page, ".stage", "noise.png", "image/png", png(128, 128))
    expect(page.get_by_role("img", name="The picture to begin with")).to_be_visible()
    assert drop(page, ".drop", "words.txt", "text/plain", b"words")
    expect(page.get_by_role("img", name="The picture to begin with")).to_be_visible()
