"""A browser, a worker on the built-in model, and pages that must not complain."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, expect, sync_playwright

from tests import real
from tests.models.upscalers.files import compact, write
from tests.ui.line import Line

FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
]
PATIENCE_MS = 100_000
"""For whatever the worker draws; long, because the machine may be busy."""


# Of this folder alone: while Playwright is there, a loop runs in the main thread, and no async test can.
@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """Headless Chromium; each test has a context, and so a profile, of its own."""
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("no browser")
    expect.set_options(timeout=PATIENCE_MS)
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=found, args=FLAGS)
        yield chromium
        chromium.close()


UPSCALER = "twice"


@pytest.fixture(scope="package")
def worker_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A worker that is ready, with an upscaler of its operator's."""
    folder = tmp_path_factory.mktemp("upscalers")
    write(folder / f"{UPSCALER}.safetensors", compact(scale=2))
    worker = real.start("--upscaler-dir", str(folder))
    try:
        worker.wait_until_ready()
        yield worker.url
    finally:
        real.stop(worker)


@pytest.fixture
def line(worker_url: str) -> Iterator[Line]:
    """The way to the worker, which a test may cut."""
    with Line(int(worker_url.rpartition(":")[2])) as line:
        yield line


@pytest.fixture
def page(browser: Browser, worker_url: str) -> Iterator[Page]:
    """The studio, open; whatever its console called an error fails the test."""
    with opened(browser, worker_url) as page:
        yield page


@contextlib.contextmanager
def opened(browser: Browser, worker_url: str, *, console_too: bool = True) -> Iterator[Page]:
    """The studio; what nobody caught fails the test, and what its console called an error."""
    with browser.new_context(viewport={"width": 1280, "height": 820}, base_url=worker_url) as context:
        context.set_default_timeout(PATIENCE_MS)
        page = context.new_page()
        complaints: list[str] = []
        page.on("pageerror", lambda error: complaints.append(str(error)))
        if console_too:
            page.on("console", lambda message: complaints.extend(_complaint(message)))
        page.goto("/")
        yield page
        assert complaints == []


def _complaint(message: ConsoleMessage) -> list[str]:
    return [message.text] if message.type == "error" else []
