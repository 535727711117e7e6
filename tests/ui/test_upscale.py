"""The upscale page: with the model itself, and with a network, which needs neither prompt nor steps."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from tests.models.tiny import psnr_db
from tests.ui.conftest import UPSCALER
from tests.ui.studio import BLUE, CIRCLE, RED, fill, generate, pixels, share

pytestmark = pytest.mark.guard(300)


def enlarged(page: Page) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """The result, next to what it was made of."""
    page.locator(".before-after-line").wait_for()
    return pixels(page.locator(".before-after img").first)


@pytest.fixture
def circle(page: Page) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """A red circle, chosen to be made larger."""
    fill(page, CIRCLE, steps=8)
    generate(page)
    small = pixels(page.locator("img.finished"))
    page.get_by_role("button", name="Upscale").click()
    expect(page.get_by_role("combobox", name="Larger by")).to_be_visible()
    return small


def test_by_the_model(page: Page, circle: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> None:
    fill(page, CIRCLE, steps=6)
    generate(page)
    large = enlarged(page)
    assert large.shape == (256, 256, 3)
    assert abs(share(large, RED) - share(circle, RED)) < 0.1
    assert share(large[96:160, 96:160], RED) > 0.9
    assert share(large, BLUE) > 0.3


def test_by_a_network(page: Page, circle: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> None:
    page.get_by_role("textbox", name="Prompt", exact=True).fill("")
    page.get_by_role("combobox", name="Upscaler").select_option(UPSCALER)
    for unused in ("Prompt", "Steps", "Strength"):
        expect(page.get_by_role("textbox", name=unused, exact=True)).to_have_count(0)
    page.get_by_role("button", name="Generate").click()
    large = enlarged(page)
    assert large.shape == (256, 256, 3)
    expect(page.locator(".caption")).to_contain_text(f"256 × 256 · {UPSCALER}")
    for unused in ("seed", "steps"):
        expect(page.locator(".caption")).not_to_contain_text(unused)
    plain = np.asarray(Image.fromarray(circle).resize((256, 256), Image.Resampling.NEAREST))
    assert psnr_db(large, plain) > 15, "the picture's own pixels, and what the network adds"
    thumbs = page.locator(".filmstrip .thumb")
    expect(thumbs.first).to_have_accessible_name("No prompt")
    page.get_by_role("link", name="Gallery").click()
    expect(page.locator(".grid .thumb").first).to_have_accessible_name("No prompt")
    page.get_by_role("button", name="Compare two").click()
    for thumb in page.locator(".grid .thumb").all():
        thumb.click()
    expect(page.get_by_role("row", name="steps – 8")).to_be_visible()


def test_a_picture_that_would_become_too_large_is_made_smaller_first(page: Page) -> None:
    page.get_by_role("link", name="Upscale").click()
    file = io.BytesIO()
    Image.new("RGB", (1200, 800), "red").save(file, "png")
    picture = {"name": "red.png", "mimeType": "image/png", "buffer": file.getvalue()}
    page.locator(".source input[type=file]").set_input_files([picture])
    page.get_by_role("combobox", name="Upscaler").select_option(UPSCALER)
    expect(page.locator(".source label.field")).to_contain_text("1024 × 672")
    page.get_by_role("button", name="Generate").click()
    expect(page.locator(".job-card")).to_have_count(1)
    expect(page.get_by_role("alert")).to_have_count(0)
    page.keyboard.press("Escape")
    page.get_by_role("combobox", name="Larger by").select_option("4")
    expect(page.locator(".source label.field")).to_contain_text("512 × 352")
