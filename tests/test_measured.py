"""What was measured survives a restart, and nothing depends on its file."""

from __future__ import annotations

from pathlib import Path

import pytest

from worker.measured import MeasuredRows, cache_file


def test_what_was_kept_is_known_to_the_next_start(tmp_path: Path) -> None:
    file = tmp_path / "caches" / "rows.json"
    MeasuredRows(file).keep("a", 8)
    MeasuredRows(file).keep("b", 32)
    assert [MeasuredRows(file).get(key) for key in "abc"] == [8, 32, None]
    assert list(file.parent.iterdir()) == [file]


@pytest.mark.parametrize(
    "content", ["", "[]", '{"a": "8"}', '{"a": true}', '{"a": 1}', '{"a": -8}', '{"a": 1e9}', "\0"]
)
def test_a_file_that_somebody_spoilt_says_nothing_and_is_mended(tmp_path: Path, content: str) -> None:
    file = tmp_path / "rows.json"
    file.write_text(content)
    assert MeasuredRows(file).get("a") is None
    MeasuredRows(file).keep("a", 8)
    assert MeasuredRows(file).get("a") == 8


def test_without_a_place_to_write_nothing_is_kept(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for nowhere in (None, tmp_path / "file" / "rows.json"):
        MeasuredRows(nowhere).keep("a", 8)
        assert MeasuredRows(nowhere).get("a") is None


def test_the_file_lies_with_the_users_caches(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_file() == tmp_path / "sd-worker" / "rows.json"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_file() == tmp_path / ".cache" / "sd-worker" / "rows.json"
