"""Headers that are read, and every way in which one can be wrong, each with its own line."""

from __future__ import annotations

import contextlib
import io
import json
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from tests.models.files import entries, write_header, write_zeros
from worker.errors import ModelUnusable
from worker.models.safetensors_header import Header, Tensor, read_header, refuse_types

SHAPES = {"a": (2, 3), "b": (4,)}


def refusal(file: Path) -> str:
    with pytest.raises(ModelUnusable) as refused:
        read_header(file)
    told = refused.value.detail
    assert "\n" not in told
    assert str(file.parent) not in told
    return told


def test_a_header_as_the_library_writes_it(tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    save_file({"a": torch.zeros(2, 3, dtype=torch.bfloat16), "b": torch.tensor(7)}, file, metadata={"format": "pt"})
    header = read_header(file)
    assert header.metadata == {"format": "pt"}
    assert header.size_bytes == file.stat().st_size
    a, b = header.tensors["a"], header.tensors["b"]
    assert (a.dtype, a.shape, a.elements, a.end - a.begin) == ("BF16", (2, 3), 6, 12)
    assert (b.dtype, b.shape, b.elements) == ("I64", (), 1)
    assert int.from_bytes(file.read_bytes()[b.begin : b.end], "little") == 7


def pickled() -> bytes:
    return pickle.dumps({"state_dict": {"a": [1.0] * 20}}, protocol=2)


def zipped() -> bytes:
    """What `torch.save` writes."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("archive/data.pkl", pickled())
    return stream.getvalue()


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (zipped(), "the file is pickled weights in a zip file (PyTorch's format); only safetensors is served"),
        (pickled(), "the file is pickled weights; only safetensors is served"),
        (b"GGUF" + bytes(40), "the file is a GGUF file; only safetensors is served"),
        (
            b"version https://git-lfs.github.com/spec/v1\n",
            "the file is a pointer of Git LFS, and not the file itself; only safetensors is served",
        ),
        (b"<!DOCTYPE html><html></html>", "the file is a web page; only safetensors is served"),
        (b"", "the file is no safetensors file: it is too short for one"),
        (struct.pack("<Q", 4) + b"ab", "the file is no safetensors file: its header is no JSON object"),
        (struct.pack("<Q", 9) + b"[1, 2, 3]", "the file is no safetensors file: its header is no JSON object"),
    ],
)
def test_other_formats_are_called_by_their_name(tmp_path: Path, content: bytes, told: str) -> None:
    file = tmp_path / "x.safetensors"
    file.write_bytes(content)
    assert refusal(file) == told


@pytest.mark.parametrize("length", [50, 2**40, 2**63])
def test_a_header_beyond_the_end_is_refused(tmp_path: Path, length: int) -> None:
    file = tmp_path / "x.safetensors"
    file.write_bytes(struct.pack("<Q", length) + b'{"a": 1}')
    assert "goes beyond the end of the file" in refusal(file)


def test_a_header_larger_than_the_library_reads_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    with file.open("wb") as stream:
        stream.write(struct.pack("<Q", 100_000_001) + b"{")
        stream.truncate(200_000_000)
    assert "goes beyond what is allowed" in refusal(file)


def changed(name: str, **changes: Any) -> Callable[[dict[str, Any]], object]:
    return lambda header: header[name].update(changes)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (changed("a", data_offsets=[0, 14], shape=[7]), "b overlaps what is before it"),
        (changed("b", data_offsets=[4, 12]), "b overlaps what is before it"),
        (changed("b", data_offsets=[14, 22]), "b ends beyond the end of the file, which is cut short"),
        (changed("b", data_offsets=[2**60, 2**60 + 8]), "b ends beyond the end of the file, which is cut short"),
        (changed("a", shape=[5], data_offsets=[2, 12]), "there is a gap before a"),
        (changed("b", shape=[3], data_offsets=[12, 18]), "there is more in the file than its header tells of"),
        (changed("a", shape=[2, 4]), "a takes another number of bytes than its shape and type do"),
        (changed("a", dtype="F32"), "a takes another number of bytes than its shape and type do"),
        (changed("a", data_offsets=[12, 0]), "a takes another number of bytes than its shape and type do"),
        (changed("a", data_offsets=[-12, 0]), "a takes another number of bytes than its shape and type do"),
        (changed("a", dtype="F17"), "a is of the unknown type 'F17'"),
        (changed("a", shape=[2, -3]), "a has no usable shape"),
        (changed("a", shape=[2, True]), "a has no usable shape"),
        (changed("a", shape="6"), "a lacks its type, shape or place"),
        (lambda header: header["a"].pop("data_offsets"), "a lacks its type, shape or place"),
        (lambda header: header.update(a=7), "a lacks its type, shape or place"),
        (lambda header: header.update(__metadata__={"format": 1}), "its metadata is not text by name"),
        (lambda header: header.update(__metadata__=[1]), "its metadata is not text by name"),
    ],
)
def test_a_header_that_contradicts_itself_is_refused(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], told: str
) -> None:
    header: dict[str, Any] = entries(SHAPES)
    change(header)
    file = write_header_as_it_is(tmp_path / "x.safetensors", json.dumps(header).encode())
    assert refusal(file) == f"the file is a damaged safetensors file: {told}"
    with pytest.raises(SafetensorError), safe_open(file, framework="pt"):  # so does the library itself
        pass


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (b'{"a": ', "its header is no JSON"),
        (b'{"a\xff": 1}', "its header is no UTF-8"),
        (b'{"a": 1, "a": 2}', "its header names something twice"),
        (b'{"a":' * 5000 + b"1" + b"}" * 5000, "its header is nested too deeply"),
    ],
)
def test_a_header_that_is_no_json_is_refused(tmp_path: Path, text: bytes, told: str) -> None:
    file = write_header_as_it_is(tmp_path / "x.safetensors", text)
    assert refusal(file) == f"the file is a damaged safetensors file: {told}"


def write_header_as_it_is(file: Path, text: bytes) -> Path:
    file.write_bytes(struct.pack("<Q", len(text)) + text + bytes(20))
    return file


def test_a_file_cut_short_anywhere_is_refused(tmp_path: Path) -> None:
    file = write_zeros(tmp_path / "x.safetensors", SHAPES)
    whole = file.read_bytes()
    assert read_header(file).tensors.keys() == SHAPES.keys()
    for length in range(len(whole)):
        file.write_bytes(whole[:length])
        assert "safetensors file" in refusal(file)


@settings(max_examples=150, deadline=None)
@given(place=st.integers(0, 10_000), byte=st.integers(0, 255))
def test_one_wrong_byte_is_no_other_error(place: int, byte: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    file = write_zeros(tmp_path_factory.getbasetemp() / "wrong.safetensors", SHAPES, metadata={"format": "pt"})
    content = bytearray(file.read_bytes())
    content[place % len(content)] = byte
    file.write_bytes(content)
    with contextlib.suppress(ModelUnusable):
        assert isinstance(read_header(file), Header)


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path / "nowhere") == "the file cannot be read (FileNotFoundError)"
    assert refusal(tmp_path) == "the file cannot be read (IsADirectoryError)"


@pytest.mark.parametrize("dtype", ["F8_E4M3", "F8_E5M2", "I8", "U8", "I32", "F4", "BOOL", "C64"])
def test_weights_that_nothing_is_computed_in_are_refused(dtype: str) -> None:
    with pytest.raises(ModelUnusable, match=f"the weights of unet are of type {dtype} "):
        refuse_types([("w", Tensor("F16", (4,), 0, 8)), ("x", Tensor(dtype, (4, 2), 8, 16))], "unet")


def test_positions_and_counters_are_no_weights() -> None:
    refuse_types(
        [
            ("embeddings.position_ids", Tensor("I64", (1, 77), 0, 616)),
            ("v_pred", Tensor("U8", (0,), 616, 616)),
            ("num_batches_tracked", Tensor("I64", (), 616, 624)),
            ("w", Tensor("F64", (2,), 624, 640)),
        ],
        "unet",
    )


def test_the_tests_own_files_are_the_librarys(tmp_path: Path) -> None:
    file = write_header(tmp_path / "x.safetensors", entries(SHAPES))
    with safe_open(file, framework="pt") as opened:
        assert {name: tuple(opened.get_tensor(name).shape) for name in opened.keys()} == SHAPES  # noqa: SIM118
