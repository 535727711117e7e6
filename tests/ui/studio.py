"""The studio as a person uses it, and its pictures as pixels."""

from __future__ import annotations

import base64
import io

import numpy as np
import numpy.typing as npt
from PIL import Image
from playwright.sync_api import Locator, Page

RED, GREEN, BLUE = (0, 1, 2)
CIRCLE = "a red circle on a blue background"
Pixels = npt.NDArray[np.uint8]


def fill(page: Page, prompt: str, steps: int, seed: int = 7) -> None:
    """Set what most tests set; the seed is then kept."""
    page.get_by_role("textbox", name="Prompt", exact=True).fill(prompt)
    for name, value in (("Steps", steps), ("Seed", seed)):
        field = page.get_by_role("textbox", name=name, exact=True)
        field.fill(str(value))
        field.press("Tab")


def enlarge(page: Page) -> None:
    """The pictures from now on: a job of many steps is then still running when a slow test comes back to it."""
    for name in ("Width", "Height"):
        page.get_by_role("combobox", name=name, exact=True).select_option("256")


def generate(page: Page) -> None:
    """As most people will."""
    page.keyboard.press("Control+Enter")


def press(page: Page, **told: object) -> None:
    """A key as an input method or a held key gives it, which a driver's keyboard does not."""
    page.evaluate(
        "(told) => document.body.dispatchEvent(new KeyboardEvent('keydown', told))", {"bubbles": True, **told}
    )


def drop(page: Page, onto: str, name: str, kind: str, data: bytes) -> bool:
    """A file, let go over what the selector names. Whether the page takes it and the browser does not open it."""
    taken: bool = page.evaluate(
        """([onto, name, type, data]) => {
            const dataTransfer = new DataTransfer();
            const bytes = Uint8Array.from(atob(data), (character) => character.charCodeAt(0));
            dataTransfer.items.add(new File([bytes], name, { type }));
            return ["dragover", "drop"].every((event) => !document.querySelector(onto).dispatchEvent(
                new DragEvent(event, { dataTransfer, bubbles: true, cancelable: true })));
        }""",
        [onto, name, kind, base64.b64encode(data).decode()],
    )
    return taken


def png(width: int, height: int) -> bytes:
    """Noise, which no PNG makes smaller."""
    noise = np.random.default_rng(7).integers(0, 256, (height, width, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, "png", compress_level=1)
    return file.getvalue()


def pixels(picture: Locator) -> Pixels:
    """What an `img` shows, in its own size.  # [height, width, 3]"""
    url = picture.evaluate(
        """(image) => {
            const canvas = document.createElement("canvas");
            [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
            canvas.getContext("2d").drawImage(image, 0, 0);
            return canvas.toDataURL("image/png");
        }"""
    )
    with Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))) as image:
        return np.asarray(image.convert("RGB"))


def share(picture: Pixels, colour: int) -> float:
    """The share of pixels in which that channel is far above the others."""
    others = [channel for channel in (RED, GREEN, BLUE) if channel != colour]
    signed = picture.astype(int)
    return float((signed[..., colour] > signed[..., others].max(axis=2) + 60).mean())
