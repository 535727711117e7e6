"""What becomes of a job's fields on the way out, pictures above all."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from worker.client.pictures import encoded
from worker.client.request import body


def sent(**fields: Any) -> dict[str, Any]:
    job: dict[str, Any] = json.loads(body("a red circle", fields))
    return job


def decoded(text: str) -> Image.Image:
    image = Image.open(io.BytesIO(base64.b64decode(text, validate=True)))
    image.load()
    return image


def file_of(form: str, mode: str = "RGB", **save: Any) -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, (4, 2), 1 if mode == "1" else None).save(buffer, form, **save)
    return buffer.getvalue()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16", "CMYK", "YCbCr", "F", "HSV", "RGBX"])
def test_pictures_of_every_mode_go_as_png(mode: str) -> None:
    picture = decoded(encoded(Image.new(mode, (4, 2))))
    assert (picture.format, picture.size) == ("PNG", (4, 2))


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
def test_files_that_the_worker_takes_go_as_they_are(form: str, tmp_path: Path) -> None:
    data = file_of(form)
    file = tmp_path / "picture"
    file.write_bytes(data)
    assert [base64.b64decode(encoded(one)) for one in (data, file, str(file))] == [data] * 3


def test_a_telephone_s_jpeg_with_a_second_picture_behind_it_goes_as_it_is() -> None:
    data = file_of("MPO", save_all=True, append_images=[Image.new("RGB", (2, 2))])
    assert Image.open(io.BytesIO(data)).format == "MPO"
    assert base64.b64decode(encoded(data)) == data


@pytest.mark.parametrize("form", ["BMP", "TIFF", "GIF"])
def test_other_files_become_png(form: str) -> None:
    assert decoded(encoded(file_of(form))).format == "PNG"


def test_a_photo_that_lies_on_its_side_is_sent_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # TIFF 6.0, Orientation: the top is at the right
    photo = Image.open(io.BytesIO(file_of("JPEG", exif=exif.tobytes())))
    assert decoded(encoded(photo)).size == (2, 4)


def test_what_is_no_picture_is_told_before_anything_is_sent(tmp_path: Path) -> None:
    (tmp_path / "notes.png").write_text("nothing to see")
    for picture in (b"no picture", tmp_path / "notes.png"):
        with pytest.raises(ValueError, match="is no picture that can be read"):
            encoded(picture)
    with pytest.raises(FileNotFoundError):
        encoded(tmp_path / "nothing.png")


def test_a_picture_that_pillow_takes_for_a_bomb_is_told_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 3)
    with pytest.raises(ValueError, match="is no picture that can be read"):
        encoded(file_of("PNG"))


def test_the_task_follows_from_the_pictures() -> None:
    picture = Image.new("RGB", (4, 2))
    assert "task" not in sent()
    assert sent(image=picture)["task"] == "image-to-image"
    assert sent(image=picture, mask=picture)["task"] == "inpainting"
    assert sent(image=picture, upscale={"factor": 2})["task"] == "upscale"
    assert sent(image=picture, task="inpainting")["task"] == "inpainting"


def test_short_forms_and_what_is_left_out() -> None:
    assert sent(seed=None, preview=False, steps=3) == {"prompt": "a red circle", "steps": 3}
    assert sent(preview=True)["preview"] == {}
    assert sent(loras=["a", {"name": "b", "scale": 0.5}])["loras"] == [{"name": "a"}, {"name": "b", "scale": 0.5}]
    control = sent(controls=[{"name": "canny", "image": file_of("PNG"), "start": 0.25}])["controls"][0]
    assert (control["name"], control["start"], decoded(control["image"]).size) == ("canny", 0.25, (4, 2))


def test_numbers_that_json_does_not_have_are_refused() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        sent(guidance_scale=float("nan"))
