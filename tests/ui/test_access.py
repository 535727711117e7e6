"""Who may use a worker from a page: whoever has its token, and pages of other origins where it says so."""

from __future__ import annotations

from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
from playwright.sync_api import Browser, BrowserContext, Locator, Page, expect

from tests import real
from tests.ui.conftest import PATIENCE_MS
from tests.ui.studio import CIRCLE, RED, fill, generate, pixels, share

pytestmark = pytest.mark.guard(300)
TOKEN = "a-token-of-the-test"
ASK = """async ([worker, token]) => {
    const headers = { "Content-Type": "application/json", Authorization: `Bearer ${token}` };
    const body = JSON.stringify({ prompt: "a red circle", steps: 1 });
    try {
        const posted = await fetch(worker + "/v1/jobs", { method: "POST", headers, body });
        const job = await posted.json();
        const stream = await fetch(worker + job.sse_url, { headers });
        return (await stream.text()).includes("event: completed");
    } catch (error) {
        return error.name;
    }
}"""


class Elsewhere(BaseHTTPRequestHandler):
    """An empty page."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, *told: object) -> None:
        """Nothing."""


@pytest.fixture(scope="module")
def origins() -> Iterator[tuple[str, str]]:
    """Two that serve an empty page."""
    servers = [ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere) for _ in range(2)]
    for server in servers:
        Thread(target=server.serve_forever, daemon=True).start()
    first, second = (f"http://127.0.0.1:{server.server_port}" for server in servers)
    yield first, second
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="module")
def guarded(origins: tuple[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A worker with a token, which pages of the first origin may use."""
    tokens = tmp_path_factory.mktemp("tokens") / "tokens"
    tokens.write_text(TOKEN)
    worker = real.start("--cors-origins", origins[0], "--token-file", str(tokens))
    try:
        worker.wait_until_ready()
        yield worker.url
    finally:
        real.stop(worker)


def asked_for_a_token(context: BrowserContext) -> tuple[Page, Locator]:
    """The studio as it opens there, and its dialog."""
    page = context.new_page()
    page.goto("/")
    return page, page.get_by_role("dialog", name="This worker asks for a token")


def test_the_studio_asks_for_the_token_and_says_when_it_is_wrong(browser: Browser, guarded: str) -> None:
    with browser.new_context(base_url=guarded) as context:
        context.set_default_timeout(PATIENCE_MS)
        page, prompt = asked_for_a_token(context)
        expect(prompt).to_be_visible()
        expect(prompt.get_by_role("alert")).to_have_count(0)
        for token in ("wrong", TOKEN):
            prompt.get_by_label("Token", exact=True).fill(token)
            prompt.get_by_role("button", name="Open the studio").click()
            if token == "wrong":
                expect(prompt.get_by_role("alert")).to_contain_text("does not take the token")
        expect(prompt).to_have_count(0)
        fill(page, CIRCLE, steps=8)
        generate(page)
        assert share(pixels(page.locator("img.finished")), RED) > 0.05


def test_a_token_that_no_request_can_carry_is_refused_and_forgotten(browser: Browser, guarded: str) -> None:
    with browser.new_context(base_url=guarded) as context:
        context.set_default_timeout(PATIENCE_MS)
        page, prompt = asked_for_a_token(context)
        prompt.get_by_label("Token", exact=True).fill(f"{TOKEN}\u200b")
        prompt.get_by_role("button", name="Open the studio").click()
        expect(prompt.get_by_role("alert")).to_contain_text("That is no token")
        page.evaluate("(token) => localStorage.setItem('sd-worker.token', token)", f"{TOKEN}\u200b")
        page.reload()
        expect(prompt).to_be_visible()
        expect(prompt.get_by_role("alert")).to_have_count(0)
        prompt.get_by_label("Token", exact=True).fill(TOKEN)
        prompt.get_by_role("button", name="Open the studio").click()
        expect(prompt).to_have_count(0)


@pytest.mark.parametrize(("place", "outcome"), [(0, True), (1, "TypeError")])
def test_pages_of_other_origins(
    browser: Browser, guarded: str, origins: tuple[str, str], place: int, outcome: object
) -> None:
    with browser.new_context() as context:
        page = context.new_page()
        page.goto(origins[place])
        assert page.evaluate(ASK, [guarded, TOKEN]) == outcome
