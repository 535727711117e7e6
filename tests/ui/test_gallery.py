"""What was drawn is found again, compared, downloaded with its settings, and its settings are read back."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from playwright.sync_api import Page, Route, expect

from tests.ui.conftest import UPSCALER
from tests.ui.studio import fill, generate

pytestmark = pytest.mark.guard(300)


def test_gallery(page: Page, tmp_path: Path) -> None:
    for prompt, seed in (("a red circle", 5), ("a green square", 6)):
        fill(page, prompt, steps=3, seed=seed)
        generate(page)
        expect(page.locator(".caption-prompt")).to_have_text(prompt)
    page.get_by_role("link", name="Gallery").click()
    thumbs = page.locator(".grid .thumb")
    expect(thumbs).to_have_count(2)
    expect(thumbs.first).to_have_accessible_name("a green square")
    page.get_by_role("combobox", name="Order").select_option("By prompt")
    page.get_by_role("combobox", name="Order").select_option("Oldest first")
    expect(thumbs.first).to_have_accessible_name("a red circle")

    page.get_by_role("button", name="Compare two").click()
    thumbs.first.click()
    thumbs.last.click()
    expect(page.get_by_role("row", name="prompt a red circle a green square")).to_be_visible()
    page.get_by_role("button", name="Compare two").click()

    page.get_by_role("searchbox").fill("CIRCLE")
    expect(thumbs).to_have_count(1)
    thumbs.first.click()
    with page.expect_download() as download:
        page.get_by_role("link", name="Download").click()
    path = tmp_path / "circle.png"
    download.value.save_as(path)
    with Image.open(path) as image:
        assert image.info["parameters"].startswith("a red circle\nSteps: 3,")

    page.get_by_label("Read settings from a PNG").set_input_files(path)
    expect(page.get_by_role("textbox", name="Prompt", exact=True)).to_have_value("a red circle")
    expect(page.get_by_role("textbox", name="Seed", exact=True)).to_have_value("5")

    page.get_by_role("link", name="Gallery").click()
    page.get_by_role("searchbox").fill("")
    page.get_by_role("button", name="Delete").press("Enter")
    expect(thumbs).to_have_count(1)
    expect(thumbs.first).to_be_focused()
    page.reload()
    expect(thumbs).to_have_count(1)


def test_settings_of_pictures_from_elsewhere(page: Page, tmp_path: Path) -> None:
    def with_loras(route: Route) -> None:
        lora = {"name": "ink", "trigger_words": [], "fits": True, "reason": None}
        route.fulfill(json=route.fetch().json() | {"loras": [lora]})

    def read(parameters: str | None) -> None:
        """Through the file field of the gallery."""
        text = PngInfo()
        if parameters is not None:
            text.add_text("parameters", parameters)
        path = tmp_path / "read.png"
        Image.new("RGB", (8, 8)).save(path, pnginfo=text)
        page.get_by_role("link", name="Gallery").click()
        page.get_by_label("Read settings from a PNG").set_input_files(path)

    page.route("**/v1/info", with_loras)
    page.reload()
    prompt = page.get_by_role("textbox", name="Prompt", exact=True)
    scale = page.get_by_role("textbox", name="ink", exact=True)
    read("a red circle <lora:ink:0.8> <lora:unknown:1>\nSteps: 3, Seed: 5")
    expect(prompt).to_have_value("a red circle")
    expect(scale).to_have_value("0.8")
    read("a blue circle\nSteps: 3, Seed: 5, Denoising strength: 0.3")
    expect(prompt).to_have_value("a blue circle")
    expect(scale).to_have_count(0)
    expect(page.get_by_role("link", name="Image to image")).to_have_attribute("aria-current", "page")
    expect(page.get_by_role("textbox", name="Strength", exact=True)).to_have_value("0.3")
    read(f"large\nSize: 256x256, Postprocess upscale by: 4, Postprocess upscaler: {UPSCALER}")
    expect(page.get_by_role("combobox", name="Upscaler")).to_have_value(UPSCALER)
    expect(page.get_by_role("combobox", name="Larger by")).to_have_value("4")

    read("a large seed\nSteps: 3, Seed: 9007199254740993")
    status = page.get_by_role("status")
    expect(status).to_have_text("read.png was read, but not its seed: this page cannot hold it.")
    page.get_by_role("link", name="Text to image").click()
    expect(prompt).to_have_value("a large seed")
    expect(page.get_by_role("textbox", name="Seed", exact=True)).not_to_have_value("9007199254740992")
    expect(page.get_by_role("button", name="Keep the seed")).to_have_attribute("aria-pressed", "false")

    read(None)
    expect(status).to_have_text("read.png holds no settings.")
    assert page.get_by_label("Read settings from a PNG").evaluate("(field) => field.files.length") == 0
    page.get_by_role("searchbox").fill("circle")
    expect(status).to_have_text("0 of 0")
