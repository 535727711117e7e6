"""Parts of toy size with random weights, for models of any family: text encoders with their tokenizers, VAEs."""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from tests.models.tiny import SIDE_PX, WIDTH
from worker.models.builtin.training.tokenizer import write_tokenizer

T5_WIDTH = 80
"""More than two CLIPs side by side have."""
T5_WORDS = ("a", "the", "red", "green", "blue", "yellow", "circle", "star", "ring", "on", "left", "large", "of", "and")


def clip_tokenizer(folder: Path, pad: str | None = None) -> CLIPTokenizer:
    write_tokenizer(folder)
    return CLIPTokenizer.from_pretrained(folder, **({"pad_token": pad} if pad else {}))


def clip(
    tokenizer: CLIPTokenizer, *, projects: bool = False, **changes: Any
) -> CLIPTextModel | CLIPTextModelWithProjection:
    usual = {
        "vocab_size": len(tokenizer),
        "hidden_size": WIDTH,
        "intermediate_size": 2 * WIDTH,
        "projection_dim": WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    config = CLIPTextConfig(**usual | changes)
    return (CLIPTextModelWithProjection if projects else CLIPTextModel)(config)


def t5_tokenizer() -> T5Tokenizer:
    """Some words, every ASCII character, and as many more tokens as a tokenizer that is whole has at least."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -4.0)]
    pieces += [(f"▁{word}", -2.0) for word in T5_WORDS]
    pieces += [(letter, -6.0) for letter in string.printable.strip()]
    pieces += [(f"▁{first}{second}", -5.0) for first in string.ascii_lowercase for second in "aeiouy"]
    return T5Tokenizer(vocab=pieces, extra_ids=0)


def t5(tokenizer: T5Tokenizer) -> T5EncoderModel:
    return T5EncoderModel(
        T5Config(
            vocab_size=len(tokenizer),
            d_model=T5_WIDTH,
            d_kv=8,
            d_ff=T5_WIDTH,
            num_layers=2,
            num_heads=4,
            feed_forward_proj="gated-gelu",
            is_encoder_decoder=False,
            use_cache=False,
        )
    )


def vae(channels: int = 4, **changes: Any) -> AutoencoderKL:
    """Of factor two. Untrained decoders draw grey and encoders say little, so both are made louder."""
    made = AutoencoderKL(
        block_out_channels=(16, 32),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=1,
        latent_channels=channels,
        norm_num_groups=8,
        sample_size=SIDE_PX,
        **changes,
    )
    with torch.no_grad():
        made.decoder.conv_out.weight *= 4
        made.encoder.conv_out.weight *= 20
    return made


FLOW_VAE = {
    "scaling_factor": 1.5305,
    "shift_factor": 0.4,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
}
