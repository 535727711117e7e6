"""The notebook's display, with a fake in IPython's place and without any."""

from __future__ import annotations

import re
import sys
from types import ModuleType
from typing import Any

import pytest

from tests.fakes import FailsAtStep
from tests.serving import ServedWorker
from worker.client import Client, JobFailed, NotebookDisplay


class RemembersWhatItShows:
    """Stands for IPython's `display`: keeps every object, and its own handle for the updates."""

    def __init__(self) -> None:
        self.shown: list[Any] = []
        self.places = 0

    def __call__(self, shown: object, *, display_id: bool) -> RemembersWhatItShows:
        assert display_id
        self.places += 1
        self.update(shown)
        return self

    def update(self, shown: object) -> None:
        self.shown.append(shown)


def test_a_bar_and_the_picture_as_it_becomes_clear(instant: ServedWorker) -> None:
    fake = RemembersWhatItShows()
    with Client(instant.url) as client:
        client.generate("a red circle", steps=4, preview={"every": 2}, on_event=NotebookDisplay(fake))
    assert fake.places == 1
    pages = [one._repr_html_() for one in fake.shown]
    shares = [float(value) for page in pages for value in re.findall(r'<progress value="([\d.]+)" max="1"', page)]
    assert len(shares) == len(pages)
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert sum('<img src="data:image/jpeg;base64,/9j/' in page for page in pages) >= 1
    assert "<img" not in pages[-1]
    assert repr(fake.shown[-1]).startswith("done in ")
    assert repr(fake.shown[-1]).endswith(" (100%)")


def test_a_failure_stays_on_the_page(serve: Any) -> None:
    fake = RemembersWhatItShows()
    worker = serve(FailsAtStep(2))
    with Client(worker.url) as client, pytest.raises(JobFailed):
        client.generate("a red circle", on_event=NotebookDisplay(fake))
    assert "failed: " in fake.shown[-1]._repr_html_()


def test_where_ipython_shows_nothing_every_moment_is_a_line(instant: ServedWorker) -> None:
    shown: list[str] = []
    with Client(instant.url) as client:
        # Outside of a notebook IPython prints what it is given, and gives no handle.
        watch = NotebookDisplay(lambda frame, display_id: shown.append(repr(frame)))
        client.generate("a red circle", steps=2, on_event=watch)
    assert shown[2].startswith("step 1 of 2")


def test_ipython_is_found_where_it_is_and_is_no_dependency(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "IPython", None)
    with pytest.raises(ImportError, match="IPython, which is not installed"):
        NotebookDisplay()
    module = ModuleType("IPython.display")
    module.display = RemembersWhatItShows()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", module)
    NotebookDisplay()
