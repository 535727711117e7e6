"""Which files of a folder are embeddings, which of them fit, and where a prompt names them."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.models.prompts.made import Made
from tests.models.tiny import WIDTH
from worker.errors import ConfigurationError
from worker.jobs.facts import EmbeddingFacts
from worker.models.prompts.embeddings import Embedding, Embeddings, NoEmbedding, Vectors, read_layout


def named(*names: str) -> Embeddings:
    return Embeddings([Embedding(name, Path(name), (Vectors("k", 1, 4),)) for name in names], [4])


def found(embeddings: Embeddings, text: str) -> list[str]:
    return [piece.name if isinstance(piece, Embedding) else f"'{piece}'" for piece in embeddings.split(text)]


def test_a_folder_is_listed_with_what_fits(made: Made) -> None:
    assert Embeddings.in_folder(made.folder, [WIDTH]).facts == (
        EmbeddingFacts("Crayon-Look", 3, True),
        EmbeddingFacts("flat", 1, True),
        EmbeddingFacts("huge", 75, True),
        EmbeddingFacts("one", 1, True),
        EmbeddingFacts("other model", 2, False),
        EmbeddingFacts("too-huge", 76, False),
        EmbeddingFacts("two", 2, False),
    )


def test_for_two_text_encoders_only_those_made_for_two_fit(made: Made) -> None:
    fitting = [one.name for one in Embeddings.in_folder(made.folder, [WIDTH, WIDTH + 8]).facts if one.fits]
    assert fitting == ["two"]
    assert not any(one.fits for one in Embeddings.in_folder(made.folder, []).facts)


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("a cat", ["'a '", "cat", "''"]),
        ("Cat, CAT", ["''", "cat", "', '", "cat", "''"]),
        ("cats, tomcat, cat-like, a_cat", ["'cats, tomcat, cat-like, a_cat'"]),
        ("cat.", ["''", "cat", "'.'"]),
        ("bad-cat", ["''", "bad-cat", "''"]),
        ("big cat v2.5, big cat", ["''", "big cat v2.5", "', big '", "cat", "''"]),
        ("a dog", ["'a dog'"]),
    ],
)
def test_a_name_is_found_as_a_word(text: str, pieces: list[str]) -> None:
    assert found(named("cat", "bad-cat", "big cat v2.5"), text) == pieces


def test_without_embeddings_a_text_is_a_text() -> None:
    assert found(Embeddings(), "a cat") == ["'a cat'"]


def test_of_two_of_one_name_the_first_is_used(caplog: pytest.LogCaptureFixture) -> None:
    twice = [Embedding(name, Path(name), (Vectors("k", count, 4),)) for name, count in (("Cat", 1), ("cat", 2))]
    assert Embeddings(twice, [4]).facts == (EmbeddingFacts("Cat", 1, True),)
    assert "twice" in caplog.text


def test_a_folder_that_is_not_there_is_a_wrong_setting(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for wrong in (tmp_path / "nowhere", tmp_path / "file"):
        with pytest.raises(ConfigurationError, match="--embedding-dir"):
            Embeddings.in_folder(wrong, [4])


def save(path: Path, **tensors: torch.Tensor) -> None:
    save_file(tensors, path)


def cut(path: Path) -> None:
    save(path, emb_params=torch.zeros(2, 64))
    path.write_bytes(path.read_bytes()[:-1])


def with_header(path: Path, header: object) -> None:
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(100))


def described(**changes: object) -> dict[str, object]:
    return {"emb_params": {"dtype": "F32", "shape": [2, 4], "data_offsets": [0, 32]} | changes}


@pytest.mark.parametrize(
    "make",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"\x80\x04garbage" * 9),
        lambda path: path.write_bytes((2**63).to_bytes(8, "little") + b"{}"),
        lambda path: path.mkdir(),
        cut,
        lambda path: save(path, weight=torch.zeros(4, 4), bias=torch.zeros(4)),
        lambda path: save(path, emb_params=torch.zeros(4, 4, 4)),
        lambda path: save(path, emb_params=torch.zeros(0, 4)),
        lambda path: save(path, emb_params=torch.zeros(2, 4, dtype=torch.int64)),
        lambda path: save(path, emb_params=torch.tensor(1.0)),
        lambda path: with_header(path, []),
        lambda path: path.write_bytes((90_000).to_bytes(8, "little") + b"[" * 90_000),
        lambda path: with_header(path, {}),
        lambda path: with_header(path, {"emb_params": 7}),
        lambda path: with_header(path, described(shape=[True, 4])),
        lambda path: with_header(path, described(shape="24")),
        lambda path: with_header(path, described(shape=[2, -4])),
        lambda path: with_header(path, described(data_offsets=[0])),
        lambda path: with_header(path, {"clip_l": described()["emb_params"], "clip_g": {}}),
    ],
)
def test_what_is_no_embedding_is_left_out_and_told(
    tmp_path: Path, make: Callable[[Path], object], caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "wrong.safetensors"
    make(path)
    with pytest.raises(NoEmbedding):
        read_layout(path)
    with caplog.at_level(logging.WARNING):
        assert Embeddings.in_folder(tmp_path, [4]).facts == ()
    assert path.is_dir() or "wrong.safetensors" in caplog.text


def test_pickles_are_not_even_opened(tmp_path: Path) -> None:
    for suffix in ("pt", "bin", "ckpt"):
        (tmp_path / f"style.{suffix}").write_bytes(b"\x80\x04")
    assert Embeddings.in_folder(tmp_path, [4]).facts == ()


def test_a_folder_can_be_listed_without_torch() -> None:
    told = subprocess.run(
        [sys.executable, "-c", "import worker.models.prompts.embeddings, sys; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
        timeout=100,
    )
    assert not {"torch", "transformers", "safetensors"} & set(told.stdout.split())
