"""One model call, as numerics want it: with a fixed number of rows, by a compiled call, or just as it is."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING

import torch

from worker.engine.compiling import Compiling

if TYPE_CHECKING:
    from worker.models.base import AdapterSet, Model


class ModelCall:
    """With `fixed_rows` the model always sees so many rows, the rest of them padding, of which `on_padding` hears."""

    def __init__(
        self, model: Model, fixed_rows: int | None, compiling: Compiling | None, on_padding: Callable[[int], None]
    ) -> None:
        self._model = model
        self._fixed_rows = fixed_rows
        self._compiling = compiling
        self._on_padding = on_padding

    def begins_compiled(self, kind: Hashable, adapters: AdapterSet, controls: Sequence[object]) -> bool:
        """Whether a drawing is drawn by compiled calls; adapters and ControlNets change what is called, so theirs is
        not."""
        return self._compiling is not None and not adapters.loras and not controls and self._compiling.begins(kind)

    def attend(self, free_bytes: Callable[[], int | None]) -> bool:
        """Go on with compiled calls; True if that took as much time as a call."""
        return self._compiling is not None and self._compiling.attend(self._model, free_bytes)

    def predict(
        self,
        rows: torch.Tensor,
        timesteps: torch.Tensor,
        tensors: dict[str, torch.Tensor],
        adapters: Sequence[AdapterSet],
        *,
        kind: Hashable,
        compiled: bool,
        plain: bool,
    ) -> torch.Tensor:
        """The model's output for every row, in fp32. `plain` is a call that could be compiled.  # [rows, C, h, w]"""
        padding = 0 if self._fixed_rows is None else self._fixed_rows - len(rows)
        if padding <= 0:
            with self._model.adapters.active(adapters):
                if self._compiling is not None and plain:
                    return self._compiling.predict(self._model, kind, compiled, rows, timesteps, tensors).float()
                if self._compiling is not None:
                    self._compiling.called_eagerly()
                return self._model.predict(rows, timesteps, tensors).float()

        def padded(tensor: torch.Tensor) -> torch.Tensor:
            return torch.cat([tensor, tensor[:1].expand(padding, *tensor.shape[1:])])

        self._on_padding(padding)
        conditioning = {name: padded(tensor) for name, tensor in tensors.items()}
        with self._model.adapters.active([*adapters, *[adapters[0]] * padding]):
            return self._model.predict(padded(rows), padded(timesteps), conditioning)[: len(rows)].float()
