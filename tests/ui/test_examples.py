"""What the documentation shows for browsers is run in one as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from playwright.sync_api import Page

from tests.real import client_of

pytestmark = pytest.mark.guard(300)
API = Path(__file__).parents[2] / "docs" / "api.md"
RUN = """([code, worker, job]) => new Promise((done) => {
    const shown = [];
    const show = (data) => {
        shown.push(data.type);
        if (data.type === "completed") done(shown);
    };
    new Function("worker", "job", "show", code)(worker, job, show);
})"""


def test_a_stream_in_a_browser(page: Page, worker_url: str) -> None:
    (code,) = re.findall(r"^```js\n(.*?)^```$", API.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    with client_of(worker_url) as client:
        job = client.post("/v1/jobs", json={"prompt": "a red circle", "steps": 5}).json()
    assert page.evaluate(RUN, [code, worker_url, job]) == ["progress"] * 5 + ["completed"]
