"""Weights that are kept in 8 bits and computed with in more (`--weights-dtype`): which those are, and that they are.

diffusers casts a layer when it is called, and back behind the call; what is here says which layers, so that their bytes
can be counted from headers alone. Imports no torch until a part is cast.
"""

from __future__ import annotations

import re
from typing import Any

from worker.errors import ConfigurationError, ModelUnusable

STAYS = (
    *("norm", "embed", r"^proj_in$", r"^proj_out$"),
    *(r"^shared$", "relative_attention_bias"),  # what T5 calls its embeddings
    r"\.wo$",  # T5 gives this layer its input in the type that its weights are kept in
    *(r"(in|out)_layers\.0$", r"\bout\.0$", r"\bln_", "label_emb"),  # norms and embeddings in files' original layout
)
"""Layers that stay as they are computed with, as patterns of their names; those of diffusers' own models among them."""
WHOLE = ("vae",)
"""Parts that stay: small, and moved between precisions already."""


def weights_dtype_on(backend: str, asked: str) -> str | None:
    """What `--weights-dtype` asks for, as this backend can have it; None for what is computed in.

    Raises ConfigurationError.
    """
    if asked == "auto":
        return None
    if backend == "mps":
        raise ConfigurationError(f"--weights-dtype {asked}: MPS knows no such type")
    return asked


def is_cast(part: str, tensor: str) -> bool:
    """Whether a tensor of a part is kept in 8 bits, by its name there."""
    layer = tensor.rpartition(".")[0]
    return part not in WHOLE and not any(re.search(pattern, layer) for pattern in STAYS)


def cast_layers(part: str, module: Any, weights_dtype: str | None) -> None:
    """Keep the layers of a part in `weights_dtype`, if it is one, from now on; it computes in the type that it has.

    Raises ModelUnusable where a weight is larger than that type can tell.
    """
    if weights_dtype is None or part in WHOLE:
        return
    import torch
    from diffusers.hooks import apply_layerwise_casting

    kept_in: torch.dtype = getattr(torch, weights_dtype)
    most = torch.finfo(kept_in).max
    for name, weights in module.named_parameters():
        if is_cast(part, name) and weights.abs().max() > most:
            raise ModelUnusable(f"the model's {part} has weights above {most:g} ({name}), which {weights_dtype} lacks")
    apply_layerwise_casting(
        module, kept_in, module.dtype, skip_modules_pattern=STAYS, skip_modules_classes=(torch.nn.Embedding,)
    )
