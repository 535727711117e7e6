"""What was drawn is found again, compared, downloaded with its settings, and its settings are read back."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Page, expect

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
    page.get_by_role("button", name="Delete").click()
    expect(thumbs).to_have_count(1)
    page.reload()
    expect(thumbs).to_have_count(1)
