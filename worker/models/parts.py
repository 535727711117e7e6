"""The parts of a checkpoint, loaded: what every family's file asks for, wherever the weights lie.

Knows how the libraries read weights, not what a family does with them. Imports torch.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from typing import Any

import torch

from worker.errors import ModelUnusable
from worker.models.checkpoint import DTYPES, Checkpoint
from worker.models.folder import DiffusersFolder
from worker.models.single_file import SingleFile

logger = logging.getLogger(__name__)

TORCH_DTYPES: dict[str, torch.dtype] = {name: getattr(torch, name) for name in DTYPES}


def load_part(checkpoint: Checkpoint, part: str, cls: Any) -> Any:
    """A part, e.g. `text_encoder_2`, as `cls` of diffusers or transformers; in the checkpoint's dtype, on the CPU.

    Safetensors alone, without network. Raises ModelUnusable, also for a weight that is not there: the libraries would
    make it up.
    """
    source, dtype = checkpoint.source, checkpoint.facts.dtype
    try:
        if isinstance(source, SingleFile):
            from worker.models.conversion import convert_part  # what a folder has no need of

            loaded, missing = convert_part(source, part, cls, TORCH_DTYPES[dtype])
        else:
            assert isinstance(source, DiffusersFolder)
            loaded, missing = _from_folder(source, part, cls, dtype)
    except ModelUnusable:
        raise
    except Exception as error:
        logger.debug("loading failed", exc_info=error)
        raise ModelUnusable(f"the model's weights cannot be loaded ({type(error).__name__})") from error
    if missing:
        raise ModelUnusable(f"the model's {part} lacks weights: {min(missing)}")
    return loaded.eval().requires_grad_(False)


def load_tokenizer(checkpoint: Checkpoint, part: str, cls: Any) -> Any:
    """A tokenizer, e.g. `tokenizer_2`, as `cls` of transformers. Raises ModelUnusable."""
    folder, changes = checkpoint.source.tokenizer(part)
    try:
        return cls.from_pretrained(folder, local_files_only=True, **changes)
    except Exception as error:
        logger.debug("loading failed", exc_info=error)
        raise ModelUnusable(f"the model's {part} cannot be loaded ({type(error).__name__})") from error


def _from_folder(source: DiffusersFolder, part: str, cls: Any, dtype: str) -> tuple[Any, Collection[str]]:
    """The part and the names of the weights that it lacks."""
    options: dict[str, Any] = {
        "use_safetensors": True,
        "local_files_only": True,
        "dtype": TORCH_DTYPES[dtype],
        "output_loading_info": True,
    }
    if variant := source.variant(part, dtype):
        options["variant"] = variant
    if cls.__module__.startswith("diffusers."):
        # It streams weights with accelerate where that is installed; it is not needed here.
        options["low_cpu_mem_usage"] = False
    loaded, told = cls.from_pretrained(source.folder / part, **options)
    return loaded, told["missing_keys"]
