"""The studio's files: what is served, under which headers, and that nothing else is reached through them."""

from __future__ import annotations

import gzip
import re

import pytest

from tests.serving import ServedWorker
from worker.api import studio

PATHS = sorted(studio.load())


def test_the_page_names_every_file_that_it_loads(instant: ServedWorker) -> None:
    page = instant.client.get("/")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert page.headers["cache-control"] == "no-cache"
    assert sorted(re.findall(r'(?:src|href)="(/[^"]+)"', page.text)) == [path for path in PATHS if path != "/"]


@pytest.mark.parametrize("path", PATHS)
def test_a_file_as_it_is_and_compressed(instant: ServedWorker, path: str) -> None:
    plain = instant.client.get(path, headers={"Accept-Encoding": "identity"})
    assert (plain.status_code, "content-encoding" in plain.headers) == (200, False)
    with instant.client.stream("GET", path, headers={"Accept-Encoding": "gzip"}) as answer:
        assert answer.headers["content-encoding"] == "gzip"
        assert gzip.decompress(b"".join(answer.iter_raw())) == plain.content
    head = instant.client.head(path, headers={"Accept-Encoding": "identity"})
    assert (head.content, head.headers["content-length"]) == (b"", str(len(plain.content)))
    again = instant.client.get(path, headers={"If-None-Match": plain.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize("path", PATHS)
def test_the_policy_lets_the_page_load_from_the_worker_alone(instant: ServedWorker, path: str) -> None:
    told = instant.client.get(path).headers["content-security-policy"]
    policy = dict(part.split(" ", 1) for part in told.split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert not any("unsafe" in value or "http" in value for value in policy.values())


def test_files_with_content_in_their_name_may_be_kept_for_ever(instant: ServedWorker) -> None:
    for path in PATHS:
        if path != "/":
            assert re.fullmatch(r"/assets/[\w-]+-[\w-]{8}\.\w+", path)
            assert "immutable" in instant.client.get(path).headers["cache-control"]


@pytest.mark.parametrize(
    "path", ["/assets/", "/assets/x.js", "/assets/../__init__.py", "/assets/%2e%2e/__init__.py", "/__init__.py"]
)
def test_nothing_else_is_there(instant: ServedWorker, path: str) -> None:
    assert instant.client.get(path).status_code == 404
