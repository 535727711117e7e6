"""Bearer tokens, and who can reach an address."""

from __future__ import annotations

from pathlib import Path

import pytest

from shared_worker.auth import Tokens, is_loopback


@pytest.mark.parametrize(
    ("header", "accepted"),
    [
        (b"Bearer secret", True),
        (b"bearer secret", True),
        (b"BEARER   secret ", True),
        (b"Bearer rotated", True),
        (b"Bearer Secret", False),
        (b"Bearer secret2", False),
        (b"Bearer secre", False),
        (b"Bearer secret secret", False),
        (b"Bearer", False),
        (b"Bearer ", False),
        (b"Basic secret", False),
        (b"secret", False),
        (b" Bearer secret", False),
        (b"Bearer\xff secret", False),
        (b"Bearer \xff\xfe", False),
        (b"", False),
        (None, False),
    ],
)
def test_what_is_accepted(header: bytes | None, accepted: bool) -> None:
    assert Tokens(["secret", "rotated"]).accept(header) is accepted


def test_no_tokens_accept_nothing() -> None:
    for tokens in (Tokens([]), Tokens([""]), Tokens(["  "])):
        assert not tokens
        assert not tokens.accept(b"Bearer ")
        assert not tokens.accept(None)


def test_a_line_break_that_came_along_is_not_part_of_the_token() -> None:
    assert Tokens(["secret\n"]).accept(b"Bearer secret")


def test_the_token_itself_is_not_kept() -> None:
    assert "secret" not in repr(vars(Tokens(["secret"])))


def test_a_file_of_tokens(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text("# comment\n\n  first  \r\nsecond\n#third\n", encoding="utf-8")
    tokens = Tokens.from_file(file)
    assert tokens.accept(b"Bearer first")
    assert tokens.accept(b"Bearer second")
    for other in (b"third", b"#third", b"# comment", b""):
        assert not tokens.accept(b"Bearer " + other)
    file.write_text("# nothing\n\n", encoding="utf-8")
    assert not Tokens.from_file(file)
    with pytest.raises(OSError, match="missing"):
        Tokens.from_file(tmp_path / "missing")


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "localhost", "::1", "[::1]"])
def test_loopback(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "[::]", "", "10.0.0.1", "example.org", "127.0.0.1.evil.org"])
def test_reachable_from_outside(host: str) -> None:
    assert not is_loopback(host)
