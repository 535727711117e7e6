"""axe on every page, light and dark, wide and narrow; nothing is wider than a phone."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

from tests.ui.node import MODULES, need_packages
from tests.ui.studio import CIRCLE, fill, generate

pytestmark = pytest.mark.guard(300)
PAGES = ("text", "image", "inpaint", "upscale", "gallery", "worker")


def faults(page: Page) -> list[str]:
    """What axe calls serious or critical."""
    found = page.evaluate("() => axe.run().then(({ violations }) => violations)")
    return [
        f"{page.url} {one['id']}: {node['html'][:120]}"
        for one in found
        if one["impact"] in ("serious", "critical")
        for node in one["nodes"]
    ]


def test_axe_finds_nothing_serious(page: Page) -> None:
    need_packages()
    axe = (MODULES / "axe-core" / "axe.min.js").read_text(encoding="utf-8")
    page.evaluate(axe)
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
