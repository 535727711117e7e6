"""How a prompt is divided, and that nothing is lost where nothing is said."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import CLIPTokenizer

from tests.models.prompts.made import Made
from tests.models.tiny import WIDTH
from worker.models.prompts.chunks import MAX_CHUNKS, Chunk, Chunker
from worker.models.prompts.embeddings import Embedding, Embeddings, Vectors


@pytest.fixture(scope="module")
def chunker(tokenizer: CLIPTokenizer) -> Chunker:
    return Chunker(tokenizer)


def content(chunk: Chunk) -> list[int]:
    """Between start and end."""
    return list(chunk.ids[1 : sum(chunk.mask) - 1])


def words(tokenizer: CLIPTokenizer, chunk: Chunk) -> str:
    return " ".join(tokenizer.convert_ids_to_tokens(content(chunk))).replace("</w>", "")


@given(text=st.text(st.sampled_from("abcé, 1🦓\n'"), max_size=70))
def test_a_plain_prompt_is_what_the_tokenizer_makes_of_it(tokenizer: CLIPTokenizer, text: str) -> None:
    stock = tokenizer(text, padding="max_length", max_length=77, truncation=True)
    [chunk, *more] = Chunker(tokenizer).chunks(text).chunks
    if not more:
        assert list(chunk.ids) == stock.input_ids
        assert list(chunk.mask) == stock.attention_mask
        assert set(chunk.weights) == {1.0}


@pytest.mark.parametrize(("tokens", "chunks"), [(0, 1), (1, 1), (75, 1), (76, 2), (150, 2), (151, 3)])
def test_a_chunk_holds_75_tokens(chunker: Chunker, tokenizer: CLIPTokenizer, tokens: int, chunks: int) -> None:
    chunked = chunker.chunks("ring " * tokens)
    assert len(chunked.chunks) == chunks
    assert chunked.warnings == ()
    assert sum(len(content(chunk)) for chunk in chunked.chunks) == tokens
    for chunk in chunked.chunks:
        assert len(chunk.ids) == len(chunk.mask) == len(chunk.weights) == 77
        assert chunk.ids[0] == tokenizer.bos_token_id
        assert chunk.ids[sum(chunk.mask) - 1] == tokenizer.eos_token_id
        assert set(chunk.ids[sum(chunk.mask) :]) <= {tokenizer.pad_token_id}


def test_padding_is_the_tokenizers_own(tiny: Path) -> None:
    tokenizer = CLIPTokenizer.from_pretrained(tiny / "tokenizer", pad_token="!")
    stock = tokenizer("a red circle", padding="max_length", max_length=77, truncation=True)
    [chunk] = Chunker(tokenizer).chunks("a red circle").chunks
    assert list(chunk.ids) == stock.input_ids
    assert chunk.ids[-1] != tokenizer.eos_token_id


@given(text=st.text(st.sampled_from("abc,, 1🦓"), max_size=400))
def test_no_token_is_lost_or_moved(tokenizer: CLIPTokenizer, text: str) -> None:
    chunked = Chunker(tokenizer).chunks(text)
    ids = [token for chunk in chunked.chunks for token in content(chunk)]
    assert ids == tokenizer(text, add_special_tokens=False).input_ids
    assert chunked.warnings == ()


@pytest.mark.parametrize(
    ("rings", "reds", "first"),
    [
        (60, 14, 61),  # what stands behind the comma goes with the word that has no room
        (55, 19, 56),
        (54, 20, 75),  # too much
        (74, 0, 75),  # the comma is the last that fits
        (75, 0, 75),  # and here the first that does not
    ],
)
def test_a_short_phrase_behind_a_comma_is_not_torn(
    chunker: Chunker, tokenizer: CLIPTokenizer, rings: int, reds: int, first: int
) -> None:
    text = "ring " * rings + ", " + "red " * reds + "blue"
    chunks = chunker.chunks(text).chunks
    assert [len(content(chunk)) for chunk in chunks] == [first, rings + 1 + reds + 1 - first]
    assert " ".join(words(tokenizer, chunk) for chunk in chunks) == text


@pytest.mark.parametrize(
    ("text", "texts"),
    [
        ("red BREAK blue", ["red", "blue"]),
        ("red BREAK BREAK blue BREAK", ["red", "blue"]),
        ("BREAK", [""]),
        ("BREAK red", ["red"]),
        ("red " * 80 + "BREAK blue", [("red " * 75).strip(), ("red " * 5).strip(), "blue"]),
    ],
)
def test_break_ends_a_chunk(chunker: Chunker, tokenizer: CLIPTokenizer, text: str, texts: list[str]) -> None:
    assert [words(tokenizer, chunk) for chunk in chunker.chunks(text).chunks] == texts


def test_weights_stand_where_their_tokens_stand(chunker: Chunker) -> None:
    [chunk] = chunker.chunks("a (red:1.3) [circle]").chunks
    assert chunk.weights[:6] == pytest.approx((1.0, 1.0, 1.3, 1 / 1.1, 1.0, 1.0))
    assert set(chunk.weights[6:]) == {1.0}


@pytest.mark.parametrize(
    "text",
    ["ring," * 800, "z" * 4000, "!?" * 2000, "a BREAK " * 60, "\\(" * 2000, "1 " * 2000, ("1" * 55 + ",") * 72],
)
def test_four_thousand_characters_are_not_cut(chunker: Chunker, text: str) -> None:
    chunked = chunker.chunks(text[:4000])
    assert chunked.warnings == ()
    assert len(chunked.chunks) <= MAX_CHUNKS


def test_what_is_cut_is_told_without_the_prompts_words(chunker: Chunker) -> None:
    chunked = chunker.chunks("🦓" * 4000)
    assert len(chunked.chunks) == MAX_CHUNKS
    there, cut = 16000, 16000 - 75 * MAX_CHUNKS
    assert chunked.warnings == (f"{there} tokens are more than the text encoder takes; the last {cut} were not used",)


def test_a_weight_that_was_bounded_is_told(chunker: Chunker) -> None:
    assert chunker.chunks("(red:99)").warnings == ("a weight beyond 10 was taken as 10",)


# Embeddings


@pytest.fixture(scope="module")
def with_embeddings(tokenizer: CLIPTokenizer, made: Made) -> Chunker:
    return Chunker(tokenizer, Embeddings.in_folder(made.folder, [WIDTH]))


def test_an_embedding_takes_the_place_of_its_name(with_embeddings: Chunker, tokenizer: CLIPTokenizer) -> None:
    [chunk] = with_embeddings.chunks("a (crayon-look:1.2) circle, one").chunks
    assert [(position, one.name) for position, one in chunk.embedded] == [(2, "Crayon-Look"), (7, "one")]
    assert chunk.weights[1:8] == (1.0, 1.2, 1.2, 1.2, 1.0, 1.0, 1.0)
    assert sum(chunk.mask) == 2 + 7
    assert tokenizer.eos_token_id not in content(chunk)


def test_an_embedding_is_not_divided(with_embeddings: Chunker) -> None:
    first, second = with_embeddings.chunks("ring " * 73 + "crayon-look").chunks
    assert (len(content(first)), len(content(second))) == (73, 3)
    assert [position for position, _ in second.embedded] == [1]
    assert [len(content(one)) for one in with_embeddings.chunks("ring huge ring").chunks] == [1, 75, 1]
    assert [len(content(one)) for one in with_embeddings.chunks("ring, ring huge").chunks] == [3, 75]


@pytest.mark.parametrize("name", ["two", "too-huge", "other model"])
def test_one_that_does_not_fit_is_read_as_text_and_told(with_embeddings: Chunker, chunker: Chunker, name: str) -> None:
    chunked = with_embeddings.chunks(f"a {name.upper()} circle, {name}")
    assert chunked.warnings == (f"the embedding {name} does not fit the model; its name was read as text",)
    assert chunked.chunks == chunker.chunks(f"a {name} circle, {name}").chunks


def test_a_comma_that_is_an_embeddings_token_is_no_comma(tokenizer: CLIPTokenizer) -> None:
    known = Embeddings([Embedding("star", Path("star"), (Vectors("k", 75, 4),))], [4])
    sizes = [len(content(chunk)) for chunk in Chunker(tokenizer, known).chunks("star star").chunks]
    assert sizes == [75, 75]
