"""Through a text encoder: the stock pipelines' encodings, chunk by chunk, with weights and embeddings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from tests.models.prompts.made import Made
from tests.models.tiny import WIDTH, load_stock
from worker.errors import InvalidInput
from worker.models.base import Conditioning
from worker.models.prompts.clip import ClipEncoder, Encoded, encode_side_by_side, side_by_side
from worker.models.prompts.embeddings import Embeddings
from worker.models.prompts.weighting import weigh

LONG = "a large red circle, " * 12 + "and (a blue star) on the left, " * 6


def encoder(tokenizer: CLIPTokenizer, text_encoder: Any, **options: Any) -> ClipEncoder:
    """Gives the last hidden states."""

    def last(ids: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        output = text_encoder(ids)
        return output.last_hidden_state, output.pooler_output

    return ClipEncoder(tokenizer, text_encoder, last, **options)


def by_hand(tokenizer: CLIPTokenizer, text_encoder: CLIPTextModel, text: str) -> torch.Tensor:
    """One chunk as the stock pipelines encode it.  # [1, 77, width]"""
    ids = tokenizer(text, padding="max_length", max_length=77, truncation=True, return_tensors="pt").input_ids
    with torch.inference_mode():
        hidden: torch.Tensor = text_encoder(ids)[0]
    return hidden


@pytest.fixture(scope="module")
def clip(tokenizer: CLIPTokenizer, text_encoder: CLIPTextModel, made: Made) -> ClipEncoder:
    return encoder(tokenizer, text_encoder, embeddings=Embeddings.in_folder(made.folder, [WIDTH]))


@pytest.fixture(scope="module")
def stock(tiny: Path, made: Made) -> StableDiffusionPipeline:
    pipeline = load_stock(tiny)
    for name in ("Crayon-Look", "one", "flat"):
        tensor = made.tensors[name]
        pipeline.load_textual_inversion({f"<{name.lower()}>": tensor})  # in capitals it is not found again
    return pipeline


def by_stock(pipeline: StableDiffusionPipeline, text: str) -> torch.Tensor:
    with torch.inference_mode():
        hidden: torch.Tensor = pipeline.encode_prompt(text, torch.device("cpu"), 1, False)[0]
    return hidden


@pytest.mark.parametrize("text", ["", "a red circle", "🦓, C:\\x", "ring " * 75, "a\n\nred  CIRCLE,"])
def test_a_plain_prompt_is_the_stock_pipelines_to_the_last_bit(
    clip: ClipEncoder, stock: StableDiffusionPipeline, text: str
) -> None:
    encoded = clip.encode(text)
    assert torch.equal(encoded.hidden, by_stock(stock, text))
    assert encoded.pooled is not None
    assert encoded.pooled.shape == (1, WIDTH)


@pytest.mark.parametrize("text", ["a <one> star", "a <many> star, <many>", "<many>"])
def test_embeddings_that_were_saved_with_the_model_are_the_stock_pipelines(
    tiny: Path, tmp_path: Path, text: str
) -> None:
    pipeline = load_stock(tiny)
    generator = torch.Generator().manual_seed(5)
    for token, vectors in (("<one>", 1), ("<many>", 3)):
        pipeline.load_textual_inversion(torch.randn((vectors, WIDTH), generator=generator), token=token)
    pipeline.save_pretrained(tmp_path)
    tokenizer = CLIPTokenizer.from_pretrained(tmp_path / "tokenizer")
    text_encoder = CLIPTextModel.from_pretrained(tmp_path / "text_encoder").eval()
    assert torch.equal(encoder(tokenizer, text_encoder).encode(text).hidden, by_stock(pipeline, text))


def test_a_long_prompt_is_its_chunks_behind_one_another(
    clip: ClipEncoder, tokenizer: CLIPTokenizer, text_encoder: CLIPTextModel
) -> None:
    texts = ["ring " * 75, "ring " * 75, "ring " * 10]
    encoded = clip.encode("ring " * 160)
    expected = torch.cat([by_hand(tokenizer, text_encoder, text) for text in texts], dim=1)
    assert encoded.hidden.shape == (1, 3 * 77, WIDTH)
    assert torch.allclose(encoded.hidden, expected, atol=1e-5)
    broken = clip.encode("a red circle BREAK blue")
    expected = torch.cat([by_hand(tokenizer, text_encoder, text) for text in ("a red circle", "blue")], dim=1)
    assert torch.allclose(broken.hidden, expected, atol=1e-5)
    assert broken.pooled is not None
    assert torch.allclose(broken.pooled, clip.encode("a red circle").pooled, atol=1e-5)


def test_a_weight_of_one_changes_nothing(clip: ClipEncoder) -> None:
    assert torch.equal(clip.encode("a (red:1) [(circle)]").hidden, clip.encode("a red circle").hidden)


def test_a_weight_scales_the_hidden_states_of_its_tokens(clip: ClipEncoder) -> None:
    plain, weighted = clip.encode("a red circle").hidden[0], clip.encode("a (red:1.5) circle").hidden[0]
    ratios = (weighted / plain)[:, plain.abs().min(dim=0).values.argmax()]
    usual = ratios[0]
    assert torch.allclose(ratios / usual, torch.tensor([1.5 if k == 2 else 1.0 for k in range(77)]), atol=1e-4)


def test_the_mean_of_each_chunk_is_restored() -> None:
    generator = torch.Generator().manual_seed(3)
    hidden = torch.randn((3, 77, 8), generator=generator) + torch.tensor([0.5, -0.2, 0.1])[:, None, None]
    weights = torch.ones((3, 77))
    weights[0, 5:20], weights[1, 3] = 1.6, 0.2
    weighed = weigh(hidden, weights)
    assert torch.allclose(weighed.mean(dim=(1, 2)), hidden.mean(dim=(1, 2)), atol=1e-5)
    assert torch.equal(weighed[2], hidden[2])
    scale = weighed[0, 0, 0] / hidden[0, 0, 0]
    assert torch.allclose(weighed[0, 5:20], 1.6 * scale * hidden[0, 5:20], atol=1e-5)


@pytest.mark.parametrize("weight", [0.0, -1.0, 10.0])
def test_where_there_is_no_mean_to_restore_nothing_explodes(weight: float) -> None:
    generator = torch.Generator().manual_seed(3)
    hidden = torch.randn((1, 77, 8), generator=generator, dtype=torch.float32)
    hidden -= hidden.mean()
    for states in (hidden, torch.zeros_like(hidden), hidden.half()):
        weighed = weigh(states, torch.full((1, 77), weight))
        assert torch.isfinite(weighed).all()
        assert weighed.dtype == states.dtype
        assert weighed.abs().max() <= 1.01 * max(abs(weight), 1) * states.abs().max()


# Several encoders


@pytest.fixture(scope="module")
def second(tokenizer: CLIPTokenizer) -> CLIPTextModelWithProjection:
    torch.manual_seed(5)
    config = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=WIDTH + 8, intermediate_size=64, projection_dim=24,
        num_hidden_layers=3, num_attention_heads=4, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=0,
    )  # fmt: skip
    return CLIPTextModelWithProjection(config).eval()


@pytest.mark.parametrize("text", ["a red circle", "a (red:1.2) circle", LONG, "a two circle"])
def test_two_encoders_stand_side_by_side(
    tiny: Path, tokenizer: CLIPTokenizer, text_encoder: CLIPTextModel, second: Any, made: Made, text: str
) -> None:
    """As in SDXL: hidden states from the last layer but one, pooled from the second encoder."""
    tokenizer_2 = CLIPTokenizer.from_pretrained(tiny / "tokenizer", pad_token="!")
    embeddings = Embeddings.in_folder(made.folder, [WIDTH, WIDTH + 8])

    def first_forward(ids: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, None]:
        return text_encoder(ids, output_hidden_states=True).hidden_states[-2], None

    def second_forward(ids: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        output = second(ids, output_hidden_states=True)
        return output.hidden_states[-2], output.text_embeds

    one = ClipEncoder(tokenizer, text_encoder, first_forward, embeddings=embeddings).encode(text)
    two = ClipEncoder(tokenizer_2, second, second_forward, number=1, embeddings=embeddings).encode(text)
    both = side_by_side(one, two)
    assert both.hidden.shape == (1, 77 * (2 if text == LONG else 1), 2 * WIDTH + 8)
    assert both.pooled is not None
    assert torch.equal(both.pooled, two.pooled)
    assert both.warnings == ()
    if text == "a red circle":
        ids = tokenizer_2(text, padding="max_length", max_length=77, return_tensors="pt").input_ids
        with torch.inference_mode():
            stock = second(ids, output_hidden_states=True)
        assert torch.equal(two.pooled, stock.text_embeds)
        assert torch.equal(two.hidden, stock.hidden_states[-2])


def test_tokenizers_that_count_differently_make_one_prompt(
    tiny: Path, tokenizer: CLIPTokenizer, text_encoder: CLIPTextModel, second: Any
) -> None:
    """What one pads with it reads by itself wherever it stands: SDXL's second one, for instance, the mark !."""
    tokenizer_2 = CLIPTokenizer.from_pretrained(tiny / "tokenizer", pad_token="c")
    one, two = encoder(tokenizer, text_encoder), encoder(tokenizer_2, second.text_model, number=1)
    text = "circle " * 20
    own, other = one.encode(text), two.encode(text)
    assert (own.hidden.shape[1], other.hidden.shape[1]) == (77, 2 * 77)
    both = encode_side_by_side(text, one, two)
    filled = torch.cat([own.hidden, one.encode("").hidden], dim=1)
    assert torch.equal(both.hidden, torch.cat([filled, other.hidden], dim=-1))


def test_a_model_that_needs_what_is_pooled_alone_reads_as_the_stock_pipeline(
    tokenizer: CLIPTokenizer, text_encoder: CLIPTextModel
) -> None:
    text = "a large red circle " * 14 + "on the left, " + "a blue star " * 20
    alone = encoder(tokenizer, text_encoder, first_alone=True).encode(text)
    assert torch.equal(alone.hidden, by_hand(tokenizer, text_encoder, text))
    assert not torch.equal(encoder(tokenizer, text_encoder).encode(text).hidden[:, :77], alone.hidden)


def test_pooled_outputs_of_two_stand_behind_one_another_and_warnings_are_told_once() -> None:
    one = Encoded(torch.zeros(1, 77, 2), torch.ones(1, 2), ("a", "b"))
    two = Encoded(torch.ones(1, 77, 3), torch.zeros(1, 3), ("b", "c"))
    both = side_by_side(one, two)
    assert both.hidden.shape == (1, 77, 5)
    assert both.pooled is not None
    assert both.pooled.tolist() == [[1, 1, 0, 0, 0]]
    assert both.warnings == ("a", "b", "c")


# Embeddings


@pytest.mark.parametrize(
    ("text", "in_stock"),
    [
        ("a circle, crayon-look, red", "a circle, <crayon-look>, red"),
        ("ONE red circle flat", "<one> red circle <flat>"),
        ("crayon-look", "<crayon-look>"),
    ],
)
def test_an_embedding_is_what_the_stock_pipeline_makes_of_it(
    clip: ClipEncoder, stock: StableDiffusionPipeline, text: str, in_stock: str
) -> None:
    # The stock pipeline has flat in fp32; the file has it in fp16.
    assert torch.allclose(clip.encode(text).hidden, by_stock(stock, in_stock), atol=2e-3)
    assert not torch.allclose(clip.encode(text).hidden, by_stock(stock, text), atol=2e-2)


def test_an_embedding_leaves_nothing_behind(clip: ClipEncoder, stock: StableDiffusionPipeline) -> None:
    clip.encode("a crayon-look circle")
    assert torch.equal(clip.encode("a circle").hidden, by_stock(stock, "a circle"))


def test_an_embedding_in_a_later_chunk(clip: ClipEncoder, stock: StableDiffusionPipeline) -> None:
    hidden = clip.encode("red BREAK a crayon-look circle").hidden
    assert torch.allclose(hidden[:, 77:], by_stock(stock, "a <crayon-look> circle"), atol=1e-5)


def test_one_whose_file_is_gone_fails_its_job(
    tokenizer: CLIPTokenizer, text_encoder: CLIPTextModel, made: Made, tmp_path: Path
) -> None:
    file = tmp_path / "gone.safetensors"
    file.write_bytes((made.folder / "one.safetensors").read_bytes())
    clip = encoder(tokenizer, text_encoder, embeddings=Embeddings.in_folder(tmp_path, [WIDTH]))
    for content in (b"", None):
        file.write_bytes(b"") if content == b"" else file.unlink()
        with pytest.raises(InvalidInput) as failed:
            clip.encode("a gone circle")
        assert failed.value.detail == "The embedding gone cannot be read any more"
    assert clip.encode("a circle").hidden.shape == (1, 77, WIDTH)


# A prompt and its negative prompt


def conditioning(chunks: int, value: float, **options: Any) -> Conditioning:
    return Conditioning(
        {"text": torch.full((1, 77 * chunks, 4), value), "pooled": torch.full((1, 9), value)}, **options
    )


def test_the_shorter_of_two_is_lengthened_by_the_empty_prompt() -> None:
    long, short, empty = conditioning(3, 1.0), conditioning(1, 2.0, warnings=("said",)), conditioning(1, 0.0)
    assert long.as_long_as(short, empty) is long
    assert short.as_long_as(empty, empty) is short
    longer = short.as_long_as(long, empty)
    assert longer.key == long.key
    assert longer.warnings == ("said",)
    assert longer.tensors["text"][0, :, 0].tolist() == [2.0] * 77 + [0.0] * 154
    assert longer.tensors["pooled"].tolist() == [[2.0] * 9]


def test_one_that_is_no_prompts_is_lengthened_by_its_own_filler() -> None:
    zeros = conditioning(1, 0.0, filler={"text": torch.zeros(1, 77, 4)})
    longer = zeros.as_long_as(conditioning(2, 1.0), conditioning(1, 7.0))
    assert longer.tensors["text"].shape == (1, 154, 4)
    assert not longer.tensors["text"].any()
