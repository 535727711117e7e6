"""A job's progress in a notebook: a bar, what is going on, and the picture as it becomes clear.

Shows through IPython where that is installed, and depends on it nowhere.
"""

from __future__ import annotations

import base64
import html
import importlib
from collections.abc import Callable
from typing import Any, Protocol

from worker.client.events import Cancelled, Completed, Event, Failed, Preview, Progress, Queued, Started


class Handle(Protocol):
    """A place in the notebook that was shown once and can be shown anew."""

    def update(self, obj: object) -> object:
        """Show this there instead."""


class NotebookDisplay:
    """Watches one job: `client.generate("…", preview=True, on_event=NotebookDisplay())`.

    `display` is IPython's function of that name unless another one is given. Raises ImportError where neither is there.
    """

    def __init__(self, display: Callable[..., Any] | None = None) -> None:
        if display is None:
            try:
                display = importlib.import_module("IPython.display").display
            except ImportError:
                raise ImportError("NotebookDisplay shows through IPython, which is not installed") from None
        self._display = display
        self._handle: Handle | None = None
        self._text, self._share = "posted", 0.0
        self._preview: Preview | None = None

    def __call__(self, event: Event) -> None:
        """Show what happened."""
        match event:
            case Queued(position=position, eta_s=eta_s):
                self._text = f"waiting, {position} ahead{_within(eta_s)}"
            case Started():
                self._text = "started"
            case Progress(step=step, steps=steps, eta_s=eta_s):
                self._text, self._share = f"step {step} of {steps}{_within(eta_s)}", step / steps
            case Preview():
                self._preview = event
            case Completed(timings=timings):
                # The finished picture is what the cell returns, so it is not shown twice.
                self._text, self._share, self._preview = f"done in {timings.total_s} s", 1.0, None
            case Failed(code=code, message=message):
                self._text = f"failed: {message} ({code})"
            case Cancelled(reason=reason):
                self._text = f"cancelled ({reason})"
        frame = Frame(self._text, self._share, self._preview)
        if self._handle is None:
            self._handle = self._display(frame, display_id=True)
        else:
            self._handle.update(frame)


class Frame:
    """One moment, as IPython shows objects: HTML in a notebook, its text in a console."""

    def __init__(self, text: str, share: float, preview: Preview | None) -> None:
        self._text = text
        self._share = share
        self._preview = preview

    def __repr__(self) -> str:
        return f"{self._text} ({self._share:.0%})"

    def _repr_html_(self) -> str:
        text = html.escape(self._text)
        bar = f'<progress value="{self._share:.3f}" max="1" aria-label="{text}"></progress> {text}'
        if (preview := self._preview) is None:
            return f"<div>{bar}</div>"
        source = f"data:image/{html.escape(preview.format)};base64,{base64.b64encode(preview.data).decode()}"
        alt = f"preview after step {preview.step}"
        return f'<div>{bar}<br><img src="{source}" width="{preview.width}" height="{preview.height}" alt="{alt}"></div>'


def _within(eta_s: float | None) -> str:
    return "" if eta_s is None else f", {eta_s:.0f} s to go"
