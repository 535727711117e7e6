"""Teaches a small CLIP text encoder to say what a caption names, before any picture is seen.

With the words already told apart, the denoiser learns what they look like several times faster than when
both are trained together from nothing.
"""

from __future__ import annotations

import random
from typing import cast

import torch
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from worker.models.builtin.training import scenes
from worker.models.builtin.training.captions import NAMED_CLASSES, describe
from worker.models.builtin.training.stage import Stage
from worker.models.builtin.training.tokenizer import MAX_LENGTH

WIDTH = 128
BATCH = 128


def build(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """The encoder, untrained."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        projection_dim=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=MAX_LENGTH,
        hidden_act="quick_gelu",
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModel(config)


def tokenize(tokenizer: CLIPTokenizer, texts: list[str]) -> torch.Tensor:
    """Token ids as the stock pipeline makes them.  # [len(texts), 77]"""
    tokens = tokenizer(texts, padding="max_length", max_length=MAX_LENGTH, truncation=True, return_tensors="pt")
    return cast(torch.Tensor, tokens.input_ids)


def train(stage: Stage, tokenizer: CLIPTokenizer, encoder: CLIPTextModel) -> CLIPTextModel:
    """Train `encoder` on captions alone: every token from the end of the text on must know all that was named."""
    encoder.to(stage.device)
    heads = nn.Linear(WIDTH, sum(NAMED_CLASSES)).to(stage.device)

    def loss_at(step: int, generator: torch.Generator) -> torch.Tensor:
        rng = random.Random(stage.seed * 7_919 + step)
        asked = [describe(scenes.draw_scene(rng), rng) for _ in range(BATCH)]
        ids = tokenize(tokenizer, [caption.text for caption in asked]).to(stage.device)
        named = torch.tensor([caption.named for caption in asked], device=stage.device)
        with stage.autocast():
            hidden = encoder(ids).last_hidden_state  # [batch, 77, width]
        # The end token and one of the padding tokens behind it, which see the same text.
        end = (ids == tokenizer.eos_token_id).int().argmax(dim=1)
        later = torch.minimum(end + torch.randint(1, 40, (BATCH,), generator=generator).to(end), torch.tensor(76))
        rows = torch.arange(BATCH, device=stage.device)
        seen = torch.cat([hidden[rows, end], hidden[rows, later]]).float()
        logits = heads(seen).split(NAMED_CLASSES, dim=1)
        targets = torch.cat([named, named])
        return torch.stack([nn.functional.cross_entropy(one, targets[:, k]) for k, one in enumerate(logits)]).mean()

    stage.run({"encoder": encoder, "heads": heads}, loss_at)
    return encoder.eval().requires_grad_(False)
