"""What ships for checkpoints in one file: configurations of the published sizes, and CLIP's own tokens."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
import torch
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint
from transformers import CLIPTokenizer

from tests.models import published
from worker.errors import ModelUnusable
from worker.models.configs import vocabulary
from worker.models.registry import family_of, sizes
from worker.models.shipped import FOLDER, KINDS, ShippedConfigs

# Parameters of the published models, as their cards and papers count them.
UNETS = {"sd1": 859_520_964, "sd1-inpainting": 859_535_364, "sd2": 865_910_724, "sdxl": 2_567_463_684}
VAE = 83_653_863
TEXT_ENCODERS = {("sd1", "text_encoder"): 123_060_480, ("sd2", "text_encoder"): 340_387_840}
SECOND_TEXT_ENCODER = 694_659_840


def count(kind: str, part: str) -> int:
    return sum(parameter.numel() for parameter in published.part(kind, part).parameters())


def test_the_parts_are_of_the_published_sizes() -> None:
    assert {kind: count(kind, "unet") for kind in UNETS} == UNETS
    assert {count(kind, "vae") for kind in ("sd1", "sd2", "sdxl")} == {VAE}
    assert {key: count(*key) for key in TEXT_ENCODERS} == TEXT_ENCODERS
    assert count("sdxl", "text_encoder") == TEXT_ENCODERS["sd1", "text_encoder"]
    assert count("sdxl", "text_encoder_2") == SECOND_TEXT_ENCODER


@pytest.mark.parametrize("kind", ["sd1", "sd2", "sdxl"])
def test_at_full_size_every_weight_is_found_under_its_original_name(kind: str) -> None:
    """The way back is the tests' own, the way there the library's: both must know every name."""
    configs, tensors = ShippedConfigs(kind), published.original(kind)
    for part, convert in (("unet", convert_ldm_unet_checkpoint), ("vae", convert_ldm_vae_checkpoint)):
        with torch.device("meta"):
            found = convert(tensors, dict(configs.config(part)))
        wanted = published.part(kind, part).state_dict()
        assert {name: tensor.shape for name, tensor in found.items()} == {n: t.shape for n, t in wanted.items()}


KNOWN = {
    "sd1": ("sd", "1.x", 512),
    "sd1-inpainting": ("sd", "inpainting", 512),
    "sd1-lcm": ("sd", "few steps", 512),
    "sd2": ("sd", "2.x, v-prediction", 768),
    "sd2-base": ("sd", "2.x", 512),
    "sd2-inpainting": ("sd", "inpainting", 512),
    "sd2-turbo": ("sd", "few steps", 512),
    "sdxl": ("sdxl", "base", 1024),
    "sdxl-inpainting": ("sdxl", "inpainting", 1024),
    "sdxl-lcm": ("sdxl", "few steps", 1024),
    "sdxl-lightning": ("sdxl", "few steps", 1024),
    "sdxl-turbo": ("sdxl", "few steps", 512),
}


def test_every_kind_is_what_it_is_called() -> None:
    found = {}
    for kind in KINDS:
        configs = ShippedConfigs(kind)
        family = family_of(configs)
        found[kind] = (family.name, family.variant, sizes(family, configs)[0])
    assert found == KNOWN


def test_there_is_nothing_else() -> None:
    configs = ShippedConfigs("sd1")
    assert configs.has("text_encoder")
    assert not configs.has("text_encoder_2")
    assert not configs.has("sd_worker.json")
    with pytest.raises(ModelUnusable, match="of the kind sd1 has no text_encoder_2"):
        configs.config("text_encoder_2")
    with pytest.raises(ModelUnusable, match="hold no sd_worker"):
        configs.json("sd_worker.json")


def tokenizer(kind: str, part: str = "tokenizer") -> CLIPTokenizer:
    folder, changes = ShippedConfigs(kind).tokenizer(part)
    return CLIPTokenizer.from_pretrained(folder, local_files_only=True, **changes)


def test_the_tokens_are_clips_own() -> None:
    """Ids as OpenAI's and transformers' documentation print them."""
    found = tokenizer("sd1")
    assert len(found) == 49408
    assert (found.bos_token_id, found.eos_token_id, found.model_max_length) == (49406, 49407, 77)
    assert found(["a photo of a cat", "a photo of a dog"]).input_ids == [
        [49406, 320, 1125, 539, 320, 2368, 49407],
        [49406, 320, 1125, 539, 320, 1929, 49407],
    ]
    assert found("A PHOTO of  a cat").input_ids == found("a photo of a cat").input_ids


def test_some_encoders_were_trained_with_another_padding() -> None:
    assert tokenizer("sd1").pad_token_id == tokenizer("sdxl").pad_token_id == 49407
    assert tokenizer("sd2").pad_token_id == tokenizer("sdxl", "tokenizer_2").pad_token_id == 0


def test_the_tokenizer_is_made_from_the_published_file_alone(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not the vocabulary that CLIP was published with"):
        vocabulary.make(gzip.compress(b"#version: 0.2\ni n\n"), tmp_path)
    ids = json.loads((FOLDER / "tokenizer/vocab.json").read_text(encoding="utf-8"))
    assert sorted(ids.values()) == list(range(vocabulary.SIZE))
    merges = (FOLDER / "tokenizer/merges.txt").read_text(encoding="utf-8").splitlines()[1:]
    letters = vocabulary.byte_letters()
    assert len(set(letters)) == 256
    assert list(ids)[:512] == [*letters, *(f"{letter}</w>" for letter in letters)]
    assert list(ids)[512:-2] == [merge.replace(" ", "") for merge in merges]
