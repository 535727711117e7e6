"""What the demo's terminal shows: a bar and, where there is room, the picture as it becomes clear."""

from __future__ import annotations

import io

from PIL import Image
from rich.color import Color
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.style import Style
from rich.text import Text

SMALLEST_PICTURE, LARGEST_PICTURE = 24, 64  # columns


class Screen:
    """What the terminal shows: one bar and, where there are room and colours, the picture as it becomes clear."""

    def __init__(self, console: Console) -> None:
        self._console = console
        columns = (TextColumn("{task.description:<8}"), BarColumn(), TextColumn("{task.fields[note]}", markup=False))
        self._bar = Progress(*columns, TimeElapsedColumn(), console=console)
        self._task = self._bar.add_task("starting", total=None, note="the worker")
        self._live = Live(self._bar, console=console)
        room = min(LARGEST_PICTURE, console.width, 2 * (console.height - 4))
        coloured = console.is_terminal and console.color_system is not None and not console.options.ascii_only
        self._width = room if coloured and room >= SMALLEST_PICTURE else 0

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

    def show_picture(self, encoded: bytes) -> None:
        """Put this picture under the bar."""
        if self._width:
            with Image.open(io.BytesIO(encoded)) as image:
                self._live.update(Group(self._bar, half_blocks(image, self._width)))


def half_blocks(image: Image.Image, width: int) -> Text:
    """The picture `width` characters wide; each character shows two pixels, one above the other."""
    height = max(1, round(image.height / image.width * width / 2)) * 2
    pixels = image.convert("RGB").resize((width, height)).tobytes()  # [height, width, 3]
    text = Text()
    for row in range(0, height, 2):
        for column in range(width):
            top, bottom = (3 * ((row + below) * width + column) for below in (0, 1))
            colours = [Color.from_rgb(*pixels[start : start + 3]) for start in (top, bottom)]
            text.append("▀", Style(color=colours[0], bgcolor=colours[1]))
        text.append("\n")
    return text
