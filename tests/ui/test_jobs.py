"""Jobs that run: cancelled, several at once, left alone by a reload, and by a network that goes and comes."""

from __future__ import annotations

import pytest
from playwright.sync_api import Browser, Page, Route, expect

from tests.real import client_of
from tests.ui.conftest import PATIENCE_MS
from tests.ui.line import Line
from tests.ui.studio import CIRCLE, RED, enlarge, fill, generate, pixels, share

pytestmark = pytest.mark.guard(300)
STEP = "Step"


def jobs(worker_url: str) -> list[dict[str, object]]:
    """Newest first."""
    with client_of(worker_url) as client:
        listed: list[dict[str, object]] = client.get("/v1/jobs").json()["jobs"]
    return listed


def test_escape_cancels(page: Page, worker_url: str) -> None:
    enlarge(page)
    fill(page, CIRCLE, steps=150)
    generate(page)
    expect(page.get_by_role("status").filter(has_text=STEP)).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator(".job-card[data-status=cancelled]")).to_have_count(1)
    assert jobs(worker_url)[0]["status"] == "cancelled"
    page.get_by_role("button", name="Dismiss this job").click()
    expect(page.locator(".job-card")).to_have_count(0)


def test_the_keyboard_stays_with_what_is_next(page: Page) -> None:
    enlarge(page)
    fill(page, CIRCLE, steps=150)
    generate(page)
    page.get_by_role("button", name="Cancel Esc").press("Enter")
    expect(page.locator(".job-card[data-status=cancelled]")).to_have_count(1)
    dismiss = page.get_by_role("button", name="Dismiss", exact=True)
    expect(dismiss).to_be_focused()
    dismiss.press("Enter")
    expect(page.locator(".job-card")).to_have_count(0)
    expect(page.get_by_role("textbox", name="Prompt", exact=True)).to_be_focused()


def test_two_jobs_at_once_each_with_its_bar(page: Page) -> None:
    enlarge(page)
    fill(page, CIRCLE, steps=150)
    generate(page)
    expect(page.locator(".job-card")).to_have_count(1)
    fill(page, "a green square", steps=3)
    generate(page)
    expect(page.locator(".job-card")).to_have_count(2)
    expect(page.locator(".caption-prompt")).to_have_text("a green square")  # the short one overtook the long one
    page.get_by_role("button", name="Cancel this job").click()
    expect(page.locator(".job-card[data-status=cancelled]")).to_have_count(1)


def test_a_reload_loses_no_running_job(page: Page, worker_url: str) -> None:
    enlarge(page)
    fill(page, CIRCLE, steps=150)
    generate(page)
    page.locator("img.preview").wait_for()
    page.reload()
    page.locator("img.preview").wait_for()
    assert jobs(worker_url)[0]["status"] == "running"
    assert share(pixels(page.locator("img.finished")), RED) > 0.05
    assert len([job for job in jobs(worker_url) if job["status"] == "running"]) == 0
    page.reload()
    page.locator("img.finished").wait_for()  # now out of the gallery
    expect(page.locator(".job-card")).to_have_count(0)


def test_a_reload_before_the_post_is_answered_loses_and_doubles_no_job(page: Page, worker_url: str) -> None:
    before = len(jobs(worker_url))
    posted: list[str | None] = []

    def swallow(route: Route) -> None:
        """The worker gets it, and the page hears nothing."""
        route.fetch()
        posted.append(route.request.headers.get("idempotency-key"))

    page.route("**/v1/jobs", swallow)
    fill(page, CIRCLE, steps=40)
    generate(page)
    while not posted:
        page.wait_for_timeout(20)
    assert len(jobs(worker_url)) == before + 1
    page.unroute("**/v1/jobs", swallow)
    page.reload()
    assert share(pixels(page.locator("img.finished")), RED) > 0.05
    assert len(jobs(worker_url)) == before + 1
    assert page.locator(".job-card").count() <= 1


def test_a_network_that_goes_and_comes_loses_no_running_job(browser: Browser, line: Line) -> None:
    with browser.new_context(base_url=line.url) as context:
        context.set_default_timeout(PATIENCE_MS)
        page = context.new_page()
        page.goto("/")
        enlarge(page)
        fill(page, CIRCLE, steps=150)
        generate(page)
        page.locator("img.preview").wait_for()
        line.cut()
        expect(page.get_by_role("status").filter(has_text="Connection lost")).to_be_visible()
        expect(page.locator(".job-line")).not_to_contain_text("left")
        line.mend()
        assert share(pixels(page.locator("img.finished")), RED) > 0.05


@pytest.mark.parametrize(("script", "most"), [("", 4), ("delete Navigator.prototype.locks", 2)], ids=["locks", "none"])
def test_jobs_of_all_tabs_leave_connections_free(browser: Browser, worker_url: str, script: str, most: int) -> None:
    with browser.new_context(base_url=worker_url) as context:
        context.set_default_timeout(PATIENCE_MS)
        context.add_init_script(script)
        held: list[Route] = []
        context.route("**/stream", lambda route: held.append(route))  # so that a job that has a stream does not end
        first = context.new_page()
        first.goto("/")
        finished = first.locator(".filmstrip li:not([data-job])")
        for seed in range(7):
            fill(first, CIRCLE, steps=2, seed=seed)
            generate(first)
            expect(first.locator(".filmstrip li")).to_have_count(seed + 1)
        expect(finished).to_have_count(7 - most)  # the others are asked for
        assert len({route.request.url for route in held}) == most
        if not script:
            second = context.new_page()
            second.goto("/")
            expect(second.locator(".filmstrip li:not([data-job])")).to_have_count(7)
            assert {route.request.frame.page for route in held} == {first}
        context.unroute("**/stream")
        first.reload()
        expect(finished).to_have_count(7)
