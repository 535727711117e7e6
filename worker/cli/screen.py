"""What a terminal shows of a job: a bar and, where the terminal can, the picture as it becomes clear."""

from __future__ import annotations

import os
from collections.abc import Mapping

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from worker.cli import terminal
from worker.client import events
from worker.client.events import Event


class Screen:
    """One bar, and one picture under it; `pictures` says whether there is room for one, so that previews pay."""

    def __init__(self, console: Console, *, pictures: bool = True, environment: Mapping[str, str] = os.environ) -> None:
        self._console = console
        columns = (TextColumn("{task.description:<8}"), BarColumn(), TextColumn("{task.fields[note]}", markup=False))
        self._bar = Progress(*columns, TimeElapsedColumn(), console=console)
        self._task = self._bar.add_task("starting", total=None, note="the worker")
        self._painter = terminal.Painter(console, terminal.kind_of(console, environment) if pictures else None)
        self.pictures = bool(self._painter)
        self.previews = 0
        self._live = Live(self._bar, console=console, auto_refresh=self._painter.redraws or not self.pictures)

    def __enter__(self) -> Screen:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()
        if not self._console.is_interactive:  # there the bar is written once, without the end of its line
            self._console.print()

    def show(self, phase: str, completed: float | None, total: float | None, note: str) -> None:
        """Move the bar; as long as nothing has a total it only says that something goes on."""
        self._bar.update(self._task, description=phase, completed=completed or 0, total=total, note=note)
        if not self._live.auto_refresh:
            self._live.refresh()

    def show_picture(self, encoded: bytes) -> None:
        """Put this picture under the bar."""
        if (painted := self._painter.paint(encoded)) is not None:
            self._live.update(Group(self._bar, painted), refresh=not self._live.auto_refresh)

    def watch(self, event: Event) -> None:
        """Show what happens to a job."""
        match event:
            case events.Queued(position=position, eta_s=eta_s):
                self.show("waiting", None, None, f"{position} ahead{within(eta_s)}")
            case events.Started(attempt=attempt):
                self.show("started", None, None, "" if attempt == 1 else f"attempt {attempt}")
            case events.Progress(step=step, steps=steps, eta_s=eta_s):
                self.show("drawing", step, steps, f"{step}/{steps}{within(eta_s)}")
            case events.Preview(data=data):
                self.previews += 1
                self.show_picture(data)
            case events.Completed(images=images):
                self.show("drawn", 1, 1, f"{len(images)} picture{'s' if len(images) > 1 else ''}")
            case events.Failed():
                self.show("failed", None, 1, "")
            case events.Cancelled():
                self.show("ended", None, 1, "cancelled")


def within(eta_s: float | None) -> str:
    """How long it will take, where that is known."""
    return "" if eta_s is None else f", {eta_s:.0f} s to go"
