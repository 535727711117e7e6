"""axe on every page, light and dark, wide and narrow; nothing is wider than a phone."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

from tests.ui.axe import faults, load_axe
from tests.ui.studio import CIRCLE, fill, generate

pytestmark = pytest.mark.guard(300)
PAGES = ("text", "image", "inpaint", "upscale", "gallery", "worker")


@pytest.mark.parametrize("name", ["Upscale", "Gallery", "Worker"])
def test_the_tab_of_the_open_page_is_in_sight_on_a_phone(page: Page, name: str) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    page.goto(f"/#/{name.lower()}")
    tab = page.get_by_role("link", name=name, exact=True)
    expect(tab).to_be_in_viewport(ratio=0.99)
    page.reload()
    expect(tab).to_be_in_viewport(ratio=0.99)


def test_axe_finds_nothing_serious(page: Page) -> None:
    load_axe(page)
    fill(page, CIRCLE, steps=3)
    found = faults(page)
    generate(page)
    page.locator("img.finished").wait_for()
    page.get_by_role("button", name="Inpaint").click()
    page.get_by_role("application").press("Space")
    for width in (1280, 375):
        page.set_viewport_size({"width": width, "height": 760})
        for colours in ("Dark colours", "Light colours"):
            page.get_by_role("button", name=colours).click()
            for name in PAGES:
                page.evaluate(f"() => location.hash = '/{name}'")
                expect(page.locator(f"nav a[href='#/{name}']")).to_have_attribute("aria-current", "page")
                found += faults(page)
                assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth"), (name, width)
    assert found == []
