"""The parts of a checkpoint, loaded: what every family's file asks for, wherever the weights lie.

Knows how the libraries read weights, not what a family does with them. Imports torch.
"""

from __future__ import annotations

import errno
import gc
import logging
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from shared_worker.device import Device
from worker.errors import ModelUnusable
from worker.models.casting import cast_layers
from worker.models.checkpoint import DTYPES, TEXT_ENCODERS, Checkpoint
from worker.models.folder import DiffusersFolder
from worker.models.packing import lay_out
from worker.models.single_file import SingleFile

logger = logging.getLogger(__name__)

TORCH_DTYPES: dict[str, torch.dtype] = {name: getattr(torch, name) for name in DTYPES}
DTYPE_NAMES = {dtype: name for name, dtype in TORCH_DTYPES.items()}
PASSING = {
    *(errno.ENOMEM, errno.EMFILE, errno.ENFILE),
    *(errno.EIO, errno.ESTALE, errno.ENODEV, errno.ENXIO, errno.ETIMEDOUT, errno.ENOTCONN),
}


def load_parts(
    checkpoint: Checkpoint, device: Device, classes: Mapping[str, Any], report: Callable[[float], None]
) -> dict[str, Any]:
    """Parts and tokenizers by the classes they are of, as if on `device`; tokenizers are told by their names.

    Raises ModelUnusable, also for a tokenizer that cannot tell words.
    """
    report(0.05)
    loaded: dict[str, Any] = {}
    with _nothing_left_behind():
        for count, (name, cls) in enumerate(classes.items(), start=1):
            if name in TEXT_ENCODERS.values():
                loaded[name] = load_tokenizer(checkpoint, name, cls)
                continue
            part = load_part(checkpoint, name, cls)
            compiled = checkpoint.facts.compile is not None and name == checkpoint.family.denoiser
            lay_out(part, device.backend, packed=checkpoint.packed, compiled=compiled)
            cast_layers(name, part, checkpoint.facts.weights_dtype)
            loaded[name] = checkpoint.placement.place(name, part, device.torch_name)
            report(0.05 + 0.95 * count / len(classes))
    for text_encoder, tokenizer in TEXT_ENCODERS.items():
        if text_encoder in loaded:
            _require_words(loaded[tokenizer], loaded[text_encoder].config)
    return loaded


@contextmanager
def _nothing_left_behind() -> Iterator[None]:
    """The libraries read weights with functions that refer to themselves, and so keep all that was read until somebody
    looks for such; which takes a hundredth of the time where only what is made meanwhile is looked through."""
    gc.freeze()
    try:
        yield
    finally:
        gc.collect()
        gc.unfreeze()


def load_part(checkpoint: Checkpoint, part: str, cls: Any) -> Any:
    """A part, e.g. `text_encoder_2`, as `cls` of diffusers or transformers; in the checkpoint's dtype, on the CPU.

    Safetensors alone, without network. Raises ModelUnusable, also for a weight that is not there: the libraries would
    make it up. What says nothing of the model is raised as it is.
    """
    source, dtype = checkpoint.source, checkpoint.facts.dtype
    try:
        if isinstance(source, SingleFile):
            from worker.models.conversion import convert_part  # what a folder has no need of

            loaded, missing = convert_part(source, part, cls, TORCH_DTYPES[dtype])
        else:
            assert isinstance(source, DiffusersFolder)
            loaded, missing = read_folder_part(source, part, cls, dtype)
    except ModelUnusable:
        raise
    except Exception as error:
        if passes_by(error):
            raise
        logger.debug("loading failed", exc_info=error)
        raise ModelUnusable(f"the model's weights cannot be loaded ({type(error).__name__})") from error
    if missing:
        raise ModelUnusable(f"the model's {part} lacks weights: {min(missing)}")
    return loaded.eval().requires_grad_(False)


def passes_by(error: Exception) -> bool:
    """Whether it says nothing of the model, so that another start may do: memory that lacks, a disk that is away."""
    lacks_memory = isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in str(error)
    # safetensors calls a file lost, without a number, whatever opening it failed of; the next start tells if it is.
    unopened = isinstance(error, FileNotFoundError) and error.errno is None
    return lacks_memory or unopened or (isinstance(error, OSError) and error.errno in PASSING)


def load_tokenizer(checkpoint: Checkpoint, part: str, cls: Any) -> Any:
    """A tokenizer, e.g. `tokenizer_2`, as `cls` of transformers. Raises ModelUnusable."""
    folder, changes = checkpoint.source.tokenizer(part)
    try:
        return cls.from_pretrained(folder, local_files_only=True, **changes)
    except Exception as error:
        if passes_by(error):
            raise
        logger.debug("loading failed", exc_info=error)
        raise ModelUnusable(f"the model's {part} cannot be loaded ({type(error).__name__})") from error


def read_folder_part(source: DiffusersFolder, part: str, cls: Any, dtype: str) -> tuple[Any, Collection[str]]:
    """A part, on the CPU, and the names of the weights that it lacks. Raises what the libraries do."""
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
    if cls.__module__.startswith("diffusers."):
        # It takes all weights in the file's own types where the first one has the type that it expects.
        to_dtype(loaded, TORCH_DTYPES[dtype])
    return loaded, told["missing_keys"]


def to_dtype(model: torch.nn.Module, dtype: torch.dtype) -> None:
    """What `model.to(dtype)` does; that of diffusers warns each time that none of its modules need full precision."""
    torch.nn.Module.to(model, dtype)


def _require_words(tokenizer: Any, config: Any) -> None:
    """A tokenizer without its files is an empty one, and says nothing about it."""
    positions = getattr(config, "max_position_embeddings", None)  # T5 has none
    knows_bytes = 256 <= len(tokenizer) <= config.vocab_size
    if not knows_bytes or (positions is not None and tokenizer.model_max_length > positions):
        raise ModelUnusable("the model's tokenizer is incomplete or does not fit its text encoder")
