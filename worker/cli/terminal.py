"""Pictures in a terminal: by the kitty or the iTerm2 protocol where it speaks one, else as coloured half blocks.

Knows escape sequences and nothing of jobs.
"""

from __future__ import annotations

import base64
import io
import random
from collections.abc import Mapping
from typing import Literal

from PIL import Image
from rich.color import Color
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.segment import ControlType, Segment
from rich.style import Style
from rich.text import Text

Kind = Literal["kitty", "iterm2", "blocks"]
SMALLEST_PICTURE, LARGEST_PICTURE = 24, 64  # columns
CHUNK = 4096
"""Base64 characters in one command of the kitty protocol."""
MOST_PIXELS = 512
"""Of the longest side that is sent to a terminal, which shows it smaller still."""


def kind_of(console: Console, environment: Mapping[str, str]) -> Kind | None:
    """How this terminal shows pictures; None where it cannot. It is asked nothing, since it might not answer."""
    if not console.is_terminal or console.is_dumb_terminal:
        return None
    # What stands between a program and its terminal takes such sequences for text, or drops them.
    multiplexed = "TMUX" in environment or environment.get("TERM", "").startswith(("screen", "tmux"))
    program = environment.get("TERM_PROGRAM") or environment.get("LC_TERMINAL") or ""
    if not multiplexed:
        if "KITTY_WINDOW_ID" in environment or environment.get("TERM") in ("xterm-kitty", "xterm-ghostty"):
            return "kitty"
        if program in ("iTerm.app", "iTerm2", "WezTerm"):
            return "iterm2"
    return "blocks" if console.color_system is not None and not console.options.ascii_only else None


class Painter:
    """Makes pictures into what a `Console` can print, as large as there is room for; None where there is none."""

    def __init__(self, console: Console, kind: Kind | None) -> None:
        self._rows = console.height - 4  # beside the bar: what is higher than the screen is cut off
        room = min(LARGEST_PICTURE, console.width, 2 * self._rows)
        self._width = room if kind is not None and room >= SMALLEST_PICTURE else 0
        self._kind = kind
        self._number = random.randint(1, 2**31 - 1)

    def __bool__(self) -> bool:
        return self._width > 0

    @property
    def redraws(self) -> bool:
        """Whether a picture may be printed again and again without flicker."""
        return self._kind == "blocks"

    def paint(self, encoded: bytes) -> RenderableType | None:
        """The picture in a file."""
        if not self._width:
            return None
        with Image.open(io.BytesIO(encoded)) as image:
            width = max(1, min(self._width, 2 * self._rows * image.width // image.height))
            if self._kind == "blocks":
                return half_blocks(image, width)
            rows = max(1, min(self._rows, round(image.height / image.width * width / 2)))
            png = _png(image)
        if self._kind == "kitty":
            place = self._number, width, rows
            return Inline(kitty(png, *place), rows, again=kitty_again(*place))
        return Inline(iterm2(png, width, rows), rows)


class Inline:
    """A picture that the terminal draws itself, over `rows` empty lines that keep its place free.

    The lines come first, so that nothing scrolls any more when the sequence is sent; the cursor is put back behind it.
    Printed a second time it sends `again`, if there is one.
    """

    def __init__(self, sequence: str, rows: int, again: str | None = None) -> None:
        self._sequence = sequence
        self._rows = rows
        self._again = again

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Lines, and one control sequence without width."""
        yield from (Segment.line() for _ in range(self._rows - 1))
        up = f"\x1b[{self._rows - 1}A" if self._rows > 1 else ""
        yield Segment(f"\x1b7{up}\r{self._sequence}\x1b8", None, [(ControlType.CARRIAGE_RETURN,)])
        yield Segment.line()
        if self._again is not None:
            self._sequence = self._again


def kitty(png: bytes, number: int, columns: int, rows: int) -> str:
    """The kitty graphics protocol: send a PNG under a number and show it at the cursor, which stays where it is."""
    content = base64.b64encode(png).decode("ascii")
    pieces = [content[start : start + CHUNK] for start in range(0, len(content), CHUNK)]
    first = f"a=T,f=100,i={number},p=1,q=2,C=1,c={columns},r={rows},"
    return "".join(
        f"\x1b_G{'' if index else first}m={int(index < len(pieces) - 1)};{piece}\x1b\\"
        for index, piece in enumerate(pieces)
    )


def kitty_again(number: int, columns: int, rows: int) -> str:
    """Show a picture that was sent before: some terminals wipe it with the lines that it stands on."""
    return f"\x1b_Ga=p,i={number},p=1,q=2,C=1,c={columns},r={rows}\x1b\\"


def iterm2(png: bytes, columns: int, rows: int) -> str:
    """The inline images protocol of iTerm2: show a file at the cursor."""
    content = base64.b64encode(png).decode("ascii")
    size = f"size={len(png)};width={columns};height={rows};preserveAspectRatio=1"
    return f"\x1b]1337;File=inline=1;{size}:{content}\x07"


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


def _png(image: Image.Image) -> bytes:
    small = image.convert("RGB")
    small.thumbnail((MOST_PIXELS, MOST_PIXELS))
    buffer = io.BytesIO()
    small.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
