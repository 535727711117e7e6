"""Forms: what they hold, within bounds, and nothing but a refusal for what they cannot be."""

from __future__ import annotations

import contextlib
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.serving import smaller
from worker.api.openai.form import MAX_PARTS, parse_form
from worker.errors import BodyTooLarge, InvalidRequest, MalformedBody, RequestError

TYPE = "multipart/form-data; boundary=edge"
LIMITS = smaller()


def part(name: str, content: bytes, filename: str | None = None) -> bytes:
    file = "" if filename is None else f'; filename="{filename}"'
    return f'--edge\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'.encode() + content + b"\r\n"


def form(*parts: bytes) -> bytes:
    return b"".join(parts) + b"--edge--\r\n"


def test_texts_and_files_by_name() -> None:
    body = form(
        part("prompt", "ein größerer Kreis\r\n--edg".encode()),
        part("image", b"\x00\r\n--\xff", "a.png"),
        part("image", b"", "b.png"),
        part("n", b""),
    )
    texts, files = parse_form(body, TYPE, LIMITS)
    assert texts == {"prompt": "ein größerer Kreis\r\n--edg", "n": ""}
    assert files == {"image": [b"\x00\r\n--\xff", b""]}


def test_a_boundary_may_be_quoted_and_a_charset_changes_nothing() -> None:
    body = form(part("prompt", "ü".encode()))
    for kind in ('multipart/form-data; boundary="edge"', TYPE + "; charset=utf-16", TYPE + "; charset=undefined"):
        assert parse_form(body, kind, LIMITS)[0] == {"prompt": "ü"}


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"", TYPE),
        (b"--edge--\r\n"[:5], TYPE),
        (part("prompt", b"x"), TYPE),
        (form(part("prompt", b"x"))[:-6], TYPE),
        (form(part("prompt", b"\xff")), TYPE),
        (form(b"--edge\r\nContent-Type: text/plain\r\n\r\nx\r\n"), TYPE),
        (form(b"--edge\r\nContent-Disposition: form-data\r\n\r\nx\r\n"), TYPE),
        (form(b"--edge\r\nname\r\n\r\nx\r\n"), TYPE),
        (form(part("prompt", b"x")), "multipart/form-data"),
        (form(part("prompt", b"x")), "multipart/form-data; boundary="),
        (form(part("prompt", b"x")), "multipart/form-data; boundary=another"),
        (form(part("prompt", b"x")), "multipart/form-data; boundary=" + "e" * 5000),
    ],
)
def test_what_is_no_form_is_malformed(body: bytes, content_type: str) -> None:
    with pytest.raises(MalformedBody):
        parse_form(body, content_type, LIMITS)


def test_bounds() -> None:
    parse_form(form(*[part(f"field{number}", b"") for number in range(MAX_PARTS)]), TYPE, LIMITS)
    with pytest.raises(InvalidRequest):
        parse_form(form(*[part(f"field{number}", b"") for number in range(MAX_PARTS + 1)]), TYPE, LIMITS)
    with pytest.raises(InvalidRequest, match="more than once"):
        parse_form(form(part("n", b"1"), part("n", b"1")), TYPE, LIMITS)
    with pytest.raises(BodyTooLarge):
        parse_form(form(part("prompt", b"x" * (LIMITS.text_body_bytes + 1))), TYPE, LIMITS)


@pytest.mark.parametrize(
    "filling", [b"x", b"\r", b"\r\n", b"\r\n-", b"\r\n--", b"\r\n--edgx", b"--edge", b"a: b\r\n", b"-"]
)
def test_no_filling_takes_long(filling: bytes) -> None:
    started = time.thread_time()
    for begin in (part("image", b"", "a")[:-2], b"--edge\r\n", b""):
        with contextlib.suppress(RequestError):
            parse_form(begin + filling * (LIMITS.body_bytes // len(filling)) + b"\r\n--edge--\r\n", TYPE, LIMITS)
    assert time.thread_time() - started < 3


WORDS = (b"--edge", b"--", b"\r\n", b"\n", b"Content-Disposition", b": ", b"form-data; ", b'name="', b'"', b";", b"x")
pieces = st.lists(st.sampled_from(WORDS) | st.binary(max_size=5), max_size=40).map(b"".join)


@given(pieces | st.binary(max_size=300), st.text(max_size=30).map(lambda text: TYPE + text) | st.text(max_size=60))
def test_whatever_comes_is_a_form_or_refused(body: bytes, content_type: str) -> None:
    for whole in (body, form(body), form(part("prompt", body))):
        with contextlib.suppress(BodyTooLarge, InvalidRequest, MalformedBody):
            parse_form(whole, content_type.encode("latin-1", "replace").decode("latin-1"), LIMITS)
