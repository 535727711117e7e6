"""A safety checker of toy size with random weights, as the folder that the stock class writes."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from transformers import CLIPConfig

from worker.models.safety_folder import PREPROCESSOR

WIDTH, SIDE_PX = 32, 32
PREPROCESSING = {
    "crop_size": SIDE_PX,
    "do_center_crop": True,
    "do_convert_rgb": True,
    "do_normalize": True,
    "do_resize": True,
    "feature_extractor_type": "CLIPFeatureExtractor",
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "resample": 3,
    "size": SIDE_PX,
}
"""As Stable Diffusion 1.x has it, but for its size."""
NEVER, ALWAYS = 1.5, -1.5
"""Thresholds of a cosine that no picture comes above, or every one."""


def write_safety_checker(folder: Path, threshold: float, seed: int = 0) -> Path:
    """Always the same for a seed; it flags what comes nearer to one of its concepts than `threshold`."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        sizes = {"hidden_size": WIDTH, "intermediate_size": 2 * WIDTH, "num_hidden_layers": 2, "num_attention_heads": 4}
        config = CLIPConfig(
            projection_dim=16,
            text_config=sizes | {"vocab_size": 300, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1},
            vision_config=sizes | {"image_size": SIDE_PX, "patch_size": 8},
        )
        checker = StableDiffusionSafetyChecker(config)
        with torch.no_grad():
            for name, parameter in checker.vision_model.named_parameters():
                if "patch_embedding" in name or "proj" in name or "fc" in name:
                    parameter *= 20  # untrained it hardly tells one picture from another
            for concepts in (checker.concept_embeds, checker.special_care_embeds):
                concepts.normal_()
            checker.concept_embeds_weights.fill_(threshold)
            checker.special_care_embeds_weights.fill_(0.3)
    checker.save_pretrained(folder)
    (folder / PREPROCESSOR).write_text(json.dumps(PREPROCESSING), encoding="utf-8")
    return folder
