"""The parts of a checkpoint, loaded: what every family's file asks for, wherever the weights lie.

Knows how the libraries read weights, not what a family does with them. Imports torch.
"""

from __future__ import annotations

import logging
from typing import Any

import torch

from worker.errors import ModelUnusable
from worker.models.checkpoint import DTYPES, Checkpoint
from worker.models.folder import DiffusersFolder

logger = logging.getLogger(__name__)

TORCH_DTYPES: dict[str, torch.dtype] = {name: getattr(torch, name) for name in DTYPES}


def load_part(checkpoint: Checkpoint, part: str, cls: Any) -> Any:
    """A part, e.g. `text_encoder_2`, as `cls` of diffusers or transformers; in the checkpoint's dtype, on the CPU.

    Safetensors alone, without network. Raises ModelUnusable, also for a weight that is not there: the libraries would
    make it up.
    """
    source = checkpoint.source
    assert isinstance(source, DiffusersFolder)
    files = source.files(part, checkpoint.facts.dtype)
    options: dict[str, Any] = {
        "use_safetensors": True,
        "local_files_only": True,
        "dtype": TORCH_DTYPES[checkpoint.facts.dtype],
        "output_loading_info": True,
    }
    if variant := source.variant(part, checkpoint.facts.dtype):
        options["variant"] = variant
    if cls.__module__.startswith("diffusers."):
        # It streams weights with accelerate where that is installed; it is not needed here.
        options["low_cpu_mem_usage"] = False
    try:
        loaded, told = cls.from_pretrained(files[0].parent, **options)
    except Exception as error:
        logger.debug("loading failed", exc_info=error)
        raise ModelUnusable(f"the model's weights cannot be loaded ({type(error).__name__})") from error
    if told["missing_keys"]:
        raise ModelUnusable(f"the model's {part} lacks weights: {min(told['missing_keys'])}")
    return loaded.eval().requires_grad_(False)


def load_tokenizer(checkpoint: Checkpoint, part: str, cls: Any) -> Any:
    """A tokenizer, e.g. `tokenizer_2`, as `cls` of transformers. Raises ModelUnusable."""
    source = checkpoint.source
    assert isinstance(source, DiffusersFolder)
    try:
        return cls.from_pretrained(source.folder / part, local_files_only=True)
    except Exception as error:
        logger.debug("loading failed", exc_info=error)
        raise ModelUnusable(f"the model's {part} cannot be loaded ({type(error).__name__})") from error
