"""A network and a worker that do not answer, and a browser that keeps nothing: no job is lost, doubled or stuck."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, Route, expect

from tests.ui.conftest import PATIENCE_MS, opened
from tests.ui.studio import CIRCLE, RED, enlarge, fill, generate, pixels, png, press, share
from tests.ui.test_jobs import jobs

pytestmark = pytest.mark.guard(300)
NOT_SENT = "Not sent yet"
NOT_KEPT = "This browser could not keep the picture."
NOTHING_OPENS = """IDBFactory.prototype.open = () => { throw new DOMException("forbidden", "SecurityError"); };"""
FULL = """IDBObjectStore.prototype.put = () => { throw new DOMException("full", "QuotaExceededError"); };"""
FORBIDDEN = """for (const name of ["localStorage", "sessionStorage"])
    Object.defineProperty(window, name, { get() { throw new DOMException("forbidden", "SecurityError"); } });"""
OPENS_LATER = """const open = IDBFactory.prototype.open;
IDBFactory.prototype.open = function (...told) {
    if (sessionStorage.getItem("failed")) return open.apply(this, told);
    sessionStorage.setItem("failed", "once");
    throw new DOMException("busy", "UnknownError");
};"""


@pytest.fixture
def page(browser: Browser, worker_url: str) -> Iterator[Page]:
    """The studio, open. Its console may tell of the trouble."""
    with opened(browser, worker_url, console_too=False) as page:
        yield page


class Posts:
    """What becomes of the posts of a page, and with which keys they came."""

    def __init__(self, page: Page, answer: Callable[[Route], None]) -> None:
        self.answer = answer
        self.keys: list[str] = []
        page.route("**/v1/jobs", self._take)

    def _take(self, route: Route) -> None:
        self.keys.append(route.request.headers["idempotency-key"])
        self.answer(route)


def lose(route: Route) -> None:
    """The worker does not get it."""
    route.abort()


def lose_answer(route: Route) -> None:
    """The worker gets it, and the page hears nothing."""
    route.fetch()
    route.abort()


def let_through(route: Route) -> None:
    """As if there were no trouble."""
    route.fallback()


def refuse(status: int, **headers: str) -> Callable[[Route], None]:
    """In the worker's place."""
    body = json.dumps({"code": "refused", "detail": "No such model here"})
    return lambda route: route.fulfill(status=status, headers=headers, body=body)


def stop_clock(page: Page) -> None:
    """No answer is late from now on, however long it takes."""
    page.clock.install(time=0)
    page.clock.pause_at(1000)


def eventually(page: Page, holds: Callable[[], bool]) -> None:
    """Within the time that a busy machine may take."""
    deadline = time.monotonic() + PATIENCE_MS / 1000
    while not holds():
        assert time.monotonic() < deadline
        page.wait_for_timeout(50)


@pytest.mark.parametrize("trouble", [lose_answer, lose, refuse(503)], ids=["answer lost", "lost", "not now"])
def test_a_post_without_an_answer_waits_and_is_drawn_once(
    page: Page, worker_url: str, trouble: Callable[[Route], None]
) -> None:
    before = len(jobs(worker_url))
    posts = Posts(page, trouble)
    fill(page, CIRCLE, steps=8)
    generate(page)
    expect(page.get_by_role("status").filter(has_text=NOT_SENT)).to_be_visible()
    expect(page.locator(".job-card")).to_have_count(1)
    expect(page.get_by_role("alert")).to_have_count(0)
    posts.answer = let_through
    assert share(pixels(page.locator("img.finished")), RED) > 0.05
    assert len(set(posts.keys)) == 1
    page.reload()
    page.locator("img.finished").wait_for()
    expect(page.locator(".job-card")).to_have_count(0)
    assert len(jobs(worker_url)) == before + 1


def test_a_reload_loses_no_post_that_waits(page: Page, worker_url: str) -> None:
    before = len(jobs(worker_url))
    posts = Posts(page, lose)
    fill(page, CIRCLE, steps=8)
    generate(page)
    expect(page.get_by_role("status").filter(has_text=NOT_SENT)).to_be_visible()
    page.reload()
    expect(page.get_by_role("status").filter(has_text=NOT_SENT)).to_be_visible()
    posts.answer = let_through
    assert share(pixels(page.locator("img.finished")), RED) > 0.05
    assert len(set(posts.keys)) == 1
    assert len(jobs(worker_url)) == before + 1


def test_a_post_that_waits_can_be_called_off(page: Page, worker_url: str) -> None:
    before = len(jobs(worker_url))
    posts = Posts(page, lose)
    fill(page, CIRCLE, steps=150)
    generate(page)
    expect(page.get_by_role("status").filter(has_text=NOT_SENT)).to_be_visible()
    for held in ("isComposing", "repeat"):
        press(page, key="Escape", **{held: True})
    expect(page.locator(".job-card[data-status=queued]")).to_have_count(1)
    page.keyboard.press("Escape")
    expect(page.locator(".job-card[data-status=cancelled]")).to_have_count(1)
    page.get_by_role("button", name="Dismiss this job").click()
    expect(page.locator(".job-card")).to_have_count(0)
    posts.answer = let_through
    # It might have arrived, so it is sent once more to be found, and cancelled.
    eventually(page, lambda: len(jobs(worker_url)) > before and jobs(worker_url)[0]["status"] == "cancelled")
    assert len(jobs(worker_url)) == before + 1
    expect(page.locator("img.finished")).to_have_count(0)


def test_a_post_that_waited_and_is_refused_says_why(page: Page) -> None:
    posts = Posts(page, lose)
    fill(page, CIRCLE, steps=8)
    generate(page)
    expect(page.get_by_role("status").filter(has_text=NOT_SENT)).to_be_visible()
    posts.answer = refuse(409)
    expect(page.get_by_role("status").filter(has_text="No such model here")).to_be_visible()
    sent = len(posts.keys)
    page.reload()
    page.get_by_role("button", name="Generate").wait_for()
    page.wait_for_timeout(300)
    assert len(posts.keys) == sent


@pytest.mark.parametrize(("side", "mark"), [(128, "iVBORw"), (2048, "/9j/")], ids=["PNG", "JPEG"])
def test_a_picture_is_sent_as_png_where_a_body_holds_it(page: Page, side: int, mark: str) -> None:
    limit = page.request.get("/v1/info").json()["limits"]["body_bytes"]
    bodies: list[bytes] = []

    def keep(route: Route) -> None:
        bodies.append(route.request.post_data_buffer or b"")
        route.fulfill(status=409, json={"detail": "seen"})

    page.get_by_role("link", name="Image to image").click()
    picture = {"name": "noise.png", "mimeType": "image/png", "buffer": png(side, side)}
    page.locator(".source input[type=file]").set_input_files([picture])
    page.get_by_role("combobox", name="Size").select_option("own")
    expect(page.locator(".source label.field")).to_contain_text(f"{side} × {side}")
    fill(page, CIRCLE, steps=2)
    page.route("**/v1/jobs", keep)
    stop_clock(page)
    page.get_by_role("button", name="Generate").click()
    expect(page.get_by_role("alert")).to_have_text("seen")
    assert len(bodies[0]) <= limit
    assert json.loads(bodies[0])["image"].startswith(mark)


def test_a_full_queue_is_told_and_not_waited_for(page: Page) -> None:
    posts = Posts(page, refuse(429, **{"Retry-After": "30"}))
    fill(page, CIRCLE, steps=8)
    stop_clock(page)
    generate(page)
    expect(page.get_by_role("alert")).to_have_text("The queue is full; there may be room in 30 s.")
    expect(page.locator(".job-card")).to_have_count(0)
    page.clock.resume()
    page.reload()
    page.get_by_role("button", name="Generate").wait_for()
    page.wait_for_timeout(300)
    assert len(posts.keys) == 1


def test_a_full_queue_that_is_told_late_is_told_on_the_card(page: Page) -> None:
    held: list[Route] = []
    posts = Posts(page, held.append)
    fill(page, CIRCLE, steps=8)
    generate(page)
    expect(page.get_by_role("status").filter(has_text=NOT_SENT)).to_be_visible()
    refuse(429)(held[0])
    expect(page.locator(".job-card[data-status=failed]")).to_have_count(1)
    assert len(posts.keys) == 1


def test_a_picture_is_asked_for_until_the_worker_gives_it(page: Page) -> None:
    refusals = [refuse(503), lose]
    page.route("**/images/0", lambda route: (refusals.pop() if refusals else let_through)(route))
    fill(page, CIRCLE, steps=8)
    generate(page)
    assert share(pixels(page.locator("img.finished")), RED) > 0.05
    assert refusals == []


def test_a_picture_that_the_worker_no_longer_has_is_told(page: Page) -> None:
    page.route("**/images/0", refuse(410))
    fill(page, CIRCLE, steps=2)
    generate(page)
    expect(page.locator(".job-card[data-status=failed]")).to_have_count(1)
    expect(page.locator(".job-line")).to_contain_text("No such model here")
    page.reload()
    page.get_by_role("button", name="Generate").wait_for()
    expect(page.locator(".job-card")).to_have_count(0)


def test_a_post_on_a_silent_line_gets_a_card_and_goes_out_again(page: Page) -> None:
    page.clock.install()
    posts = Posts(page, lambda route: None)
    fill(page, CIRCLE, steps=8)
    generate(page)
    eventually(page, lambda: len(posts.keys) == 1)
    expect(page.get_by_role("status").filter(has_text=NOT_SENT)).to_be_visible()
    expect(page.get_by_role("button", name="Generate")).to_be_enabled()
    assert len(posts.keys) == 1
    posts.answer = lose
    page.clock.fast_forward(80_000)
    expect(page.get_by_role("status").filter(has_text=NOT_SENT)).to_be_visible()
    posts.answer = let_through
    page.locator("img.finished").wait_for()
    assert len(set(posts.keys)) == 1


def test_a_post_that_is_called_off_on_a_silent_line_is_cancelled_when_it_arrives(page: Page, worker_url: str) -> None:
    before = len(jobs(worker_url))
    held: list[Route] = []
    Posts(page, held.append)
    enlarge(page)
    fill(page, CIRCLE, steps=150)
    generate(page)
    expect(page.get_by_role("status").filter(has_text=NOT_SENT)).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator(".job-card[data-status=cancelled]")).to_have_count(1)
    held[0].fallback()
    eventually(page, lambda: len(jobs(worker_url)) > before and jobs(worker_url)[0]["status"] == "cancelled")
    assert len(jobs(worker_url)) == before + 1


@pytest.mark.parametrize("left", [False, True], ids=["stays", "left"])
def test_a_cancel_without_an_answer_is_seen_and_asked_for_again(page: Page, worker_url: str, left: bool) -> None:
    lost = [True]
    page.route(
        "**/v1/jobs/*",
        lambda route: (lose if lost and route.request.method == "DELETE" else let_through)(route),
    )
    enlarge(page)
    fill(page, CIRCLE, steps=150)
    generate(page)
    expect(page.get_by_role("status").filter(has_text="Step")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("status")).to_have_text("Cancelling…")
    assert jobs(worker_url)[0]["status"] == "running"
    if left:
        page.reload()
    lost.clear()
    expect(page.locator(".job-card[data-status=cancelled]")).to_have_count(1)
    assert jobs(worker_url)[0]["status"] == "cancelled"


def test_a_job_that_the_worker_lost_says_so(page: Page) -> None:
    answers = [refuse(404), lose]
    page.route("**/stream", lambda route: (answers.pop() if answers else refuse(404))(route))
    fill(page, CIRCLE, steps=2)
    generate(page)
    expect(page.locator(".blank")).to_have_text("Failed")
    expect(page.get_by_role("status")).to_have_text("No such model here")
    expect(page.locator(".job-line")).to_contain_text("No such model here")
    expect(page.locator(".job-card .thumb")).to_have_accessible_name(f"{CIRCLE}: Failed")


def test_a_job_that_the_worker_ended_says_why(page: Page) -> None:
    ended = {"code": "timeout", "message": "The job took too long", "retriable": True}
    page.route("**/stream", lambda route: route.fulfill(status=204))
    page.route(
        "**/v1/jobs/*", lambda route: route.fulfill(json=route.fetch().json() | {"status": "cancelled", "error": ended})
    )
    fill(page, CIRCLE, steps=2)
    generate(page)
    expect(page.locator(".job-card[data-status=cancelled]")).to_have_count(1)
    expect(page.locator(".job-line")).to_contain_text("The job took too long")
    expect(page.locator(".blank")).to_have_text("Cancelled")
    expect(page.get_by_role("alert")).to_have_count(0)


@pytest.mark.parametrize("status", [502, 504])
def test_a_proxy_that_does_not_reach_the_worker_is_told(page: Page, status: int) -> None:
    told = page.locator(".header-status")
    expect(told).to_have_attribute("data-status", "ready")
    page.route("**/v1/info", refuse(status))
    expect(told).to_have_attribute("data-status", "unreachable")
    page.unroute("**/v1/info")
    expect(told).to_have_attribute("data-status", "ready")


def test_a_job_is_picked_up_once_there_is_a_token(page: Page) -> None:
    locked = [True]
    fill(page, CIRCLE, steps=8)
    for path in ("**/images/0", "**/v1/info"):
        page.route(path, lambda route: (refuse(401) if locked else let_through)(route))
    generate(page)
    prompt = page.get_by_role("dialog", name="This worker asks for a token")
    prompt.get_by_label("Token", exact=True).fill("one that is taken")
    locked.clear()
    prompt.get_by_role("button", name="Open the studio").click()
    assert share(pixels(page.locator("img.finished")), RED) > 0.05


def test_a_failed_job_says_why(page: Page) -> None:
    failed = {"type": "failed", "job_id": "", "code": "nan_output", "message": "It overflowed", "retriable": False}
    stream = f"id: 1\nevent: failed\ndata: {json.dumps(failed)}\n\n"
    page.route("**/stream", lambda route: route.fulfill(content_type="text/event-stream", body=stream))
    fill(page, CIRCLE, steps=2)
    generate(page)
    expect(page.locator(".job-card[data-status=failed]")).to_have_count(1)
    page.wait_for_timeout(300)
    expect(page.locator(".job-line")).to_contain_text("It overflowed")
    expect(page.get_by_role("status")).to_have_text("It overflowed")


@pytest.mark.parametrize("script", [NOTHING_OPENS, FULL, FORBIDDEN + NOTHING_OPENS], ids=["closed", "full", "private"])
def test_a_browser_that_keeps_nothing_still_draws(page: Page, tmp_path: Path, script: str) -> None:
    page.add_init_script(script)
    page.reload()
    fill(page, CIRCLE, steps=8)
    generate(page)
    assert share(pixels(page.locator("img.finished")), RED) > 0.05
    expect(page.get_by_role("alert")).to_contain_text(NOT_KEPT)
    expect(page.locator(".job-card")).to_have_count(0)
    with page.expect_download() as download:
        page.get_by_role("link", name="Download").click()
    download.value.save_as(tmp_path / "circle.png")
    assert (tmp_path / "circle.png").read_bytes().startswith(b"\x89PNG")
    page.get_by_role("button", name="Delete").click()
    expect(page.locator("img.finished")).to_have_count(0)


def test_storage_that_did_not_open_at_first_is_asked_again(page: Page) -> None:
    page.add_init_script(OPENS_LATER)
    page.reload()
    fill(page, CIRCLE, steps=4)
    generate(page)
    page.locator("img.finished").wait_for()
    expect(page.get_by_role("alert")).to_have_count(0)
    page.reload()
    page.locator("img.finished").wait_for()
