"""Pictures in terminals: what is sent, to which, and where the cursor is left."""

from __future__ import annotations

def test_a_picture_becomes_half_blocks() -> None:
    image = Image.new("RGB", (4, 4), (255, 0, 0))
    image.paste((0, 0, 255), (0, 2, 4, 4))
    text = half_blocks(image, 4)
    assert text.plain == "▀▀▀▀\n▀▀▀▀\n"
    top, bottom = text.spans[0].style, text.spans[-1].style
    assert str(top) == "#ff0000 on #ff0000"
    assert str(bottom) == "#0000ff on #0000ff"
