"""Pictures in terminals: what is sent, to which, and where the cursor is left."""

from __future__ import annotations

import base64
import io
import re

import pytest
from PIL import Image
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from worker.cli.terminal import Kind, Painter, half_blocks, kind_of

KITTY = re.compile(r"\x1b_G([^;\x1b]*);?([^\x1b]*)\x1b\\")
ITERM2 = re.compile(r"\x1b\]1337;File=([^:]*):([^\x07]*)\x07")


def terminal(width: int = 80, height: int = 30) -> tuple[Console, io.StringIO]:
    """A terminal with colours, and what it is sent."""
    sent = io.StringIO()
    console = Console(
        file=sent, force_terminal=True, color_system="truecolor", width=width, height=height, legacy_windows=False,
        _environ={"TERM": "xterm-256color"},
    )  # fmt: skip
    return console, sent


def noise(width: int = 200, height: int = 100) -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise((width, height), 90).convert("RGB").save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("environment", "kind"),
    [
        ({"TERM": "xterm-kitty"}, "kitty"),
        ({"TERM": "xterm-256color", "KITTY_WINDOW_ID": "1"}, "kitty"),
        ({"TERM": "xterm-ghostty", "TERM_PROGRAM": "ghostty"}, "kitty"),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "iTerm.app"}, "iterm2"),
        ({"TERM": "xterm-256color", "LC_TERMINAL": "iTerm2"}, "iterm2"),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "WezTerm"}, "iterm2"),
        ({"TERM": "tmux-256color", "KITTY_WINDOW_ID": "1", "TMUX": "1"}, "blocks"),
        ({"TERM": "screen", "LC_TERMINAL": "iTerm2"}, "blocks"),
        ({"TERM": "xterm-256color"}, "blocks"),
    ],
)
def test_terminals_are_told_by_their_environment(environment: dict[str, str], kind: Kind) -> None:
    assert kind_of(terminal()[0], environment) == kind


def test_where_nobody_looks_there_is_no_picture() -> None:
    assert kind_of(Console(file=io.StringIO()), {"TERM": "xterm-kitty"}) is None
    colourless = Console(file=io.StringIO(), force_terminal=True, color_system=None)
    assert kind_of(colourless, {"TERM": "xterm"}) is None
    small, _ = terminal(height=10)
    assert not Painter(small, "kitty")
    assert Painter(small, "kitty").paint(noise()) is None


def test_kitty_gets_one_png_in_pieces_and_then_only_its_number() -> None:
    console, sent = terminal()
    painter = Painter(console, "kitty")
    painted = painter.paint(noise())
    assert painted is not None
    console.print(painted)
    first, *others = KITTY.findall(sent.getvalue())
    keys = dict(pair.split("=") for pair in first[0].split(","))
    assert {name: keys[name] for name in "afpqCcr"} == {
        "a": "T",
        "f": "100",
        "p": "1",
        "q": "2",
        "C": "1",
        "c": "52",
        "r": "13",
    }
    assert [others[-1][0], *{one[0] for one in others[:-1]}] == ["m=0", "m=1"]
    assert all(len(content) <= 4096 for _, content in (first, *others))
    with Image.open(io.BytesIO(base64.b64decode("".join(content for _, content in (first, *others))))) as image:
        assert (image.format, image.size) == ("PNG", (200, 100))
    sent.truncate(0)
    console.print(painted)
    ((again, content),) = KITTY.findall(sent.getvalue())
    assert again.startswith(f"a=p,i={keys['i']},p=1,")
    assert content == ""


def test_iterm2_gets_a_file_of_so_many_cells() -> None:
    console, sent = terminal()
    console.print(Painter(console, "iterm2").paint(noise()))
    ((described, content),) = ITERM2.findall(sent.getvalue())
    told = dict(pair.split("=") for pair in described.split(";"))
    assert (told["inline"], told["width"], told["height"]) == ("1", "52", "13")
    assert int(told["size"]) == len(base64.b64decode(content, validate=True))


@pytest.mark.parametrize("kind", ["kitty", "iterm2"])
def test_the_lines_are_there_before_the_picture_and_the_cursor_stays_behind_it(kind: Kind) -> None:
    console, sent = terminal()
    with Live(Text("bar"), console=console, auto_refresh=False) as live:
        painted = Painter(console, kind).paint(noise())
        assert painted is not None
        live.update(Group(Text("bar"), painted), refresh=True)
        lines, rest = sent.getvalue().split("\x1b7")
    assert lines.count("\n") == 13, "the bar's line and twelve of thirteen"
    up, rest = rest.split("\r", 1)
    assert up == "\x1b[12A"
    assert rest.endswith("\x1b8"), "nothing is written behind it"


def test_a_picture_becomes_half_blocks() -> None:
    image = Image.new("RGB", (4, 4), (255, 0, 0))
    image.paste((0, 0, 255), (0, 2, 4, 4))
    text = half_blocks(image, 4)
    assert text.plain == "▀▀▀▀\n▀▀▀▀\n"
    top, bottom = text.spans[0].style, text.spans[-1].style
    assert str(top) == "#ff0000 on #ff0000"
    assert str(bottom) == "#0000ff on #0000ff"


@pytest.mark.parametrize("kind", ["kitty", "iterm2", "blocks"])
def test_a_high_picture_is_no_higher_than_the_screen(kind: Kind) -> None:
    console, sent = terminal(height=40)
    with Live(Text("bar"), console=console, auto_refresh=False) as live:
        painted = Painter(console, kind).paint(noise(832, 1216))
        assert painted is not None
        live.update(Group(Text("bar"), painted), refresh=True)
        shown = sent.getvalue()
    assert shown.count("\n") <= 40
    assert {"kitty": "a=T", "iterm2": "File=inline", "blocks": "▀"}[kind] in shown
