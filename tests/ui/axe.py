"""axe, which looks a page through for what keeps people from using it."""

from __future__ import annotations

from playwright.sync_api import Page

from tests.ui.node import MODULES, need_packages


def load_axe(page: Page) -> None:
    """Into the page, until it is loaded anew."""
    need_packages()
    page.evaluate((MODULES / "axe-core" / "axe.min.js").read_text(encoding="utf-8"))


def faults(page: Page) -> list[str]:
    """What axe calls serious or critical."""
    found = page.evaluate("() => axe.run().then(({ violations }) => violations)")
    return [
        f"{page.url} {one['id']}: {node['html'][:120]}"
        for one in found
        if one["impact"] in ("serious", "critical")
        for node in one["nodes"]
    ]
