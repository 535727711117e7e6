"""What a model call takes, without the elements: shapes and dtypes, which can be sent to another process."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import torch

Tensors: TypeAlias = Mapping[str, torch.Tensor]


class Spec(NamedTuple):
    """A tensor without its elements."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @classmethod
    def of(cls, tensor: torch.Tensor, rows: int) -> Spec:
        """Of one like `tensor`, with so many rows."""
        return cls((rows, *tensor.shape[1:]), tensor.dtype)


@dataclass(frozen=True, slots=True)
class Shapes:
    """What a compiled call takes: no other shapes and dtypes."""

    latents: Spec
    timesteps: Spec
    tensors: Mapping[str, Spec]

    @classmethod
    def of(cls, latents: torch.Tensor, timesteps: torch.Tensor, tensors: Tensors, rows: int) -> Shapes:
        """Those of a call with such inputs and so many rows."""
        told = {name: Spec.of(tensor, rows) for name, tensor in tensors.items()}
        return cls(Spec.of(latents, rows), Spec.of(timesteps, rows), told)

    def with_rows(self, rows: int) -> Shapes:
        """The same of so many rows."""

        def changed(spec: Spec) -> Spec:
            return spec._replace(shape=(rows, *spec.shape[1:]))

        told = {name: changed(spec) for name, spec in self.tensors.items()}
        return Shapes(changed(self.latents), changed(self.timesteps), told)

    def zeros(self, device: torch.device) -> Iterator[Any]:
        """Inputs of a call: latents, timesteps, conditioning."""

        def zeros(spec: Spec) -> torch.Tensor:
            return torch.zeros(spec.shape, dtype=spec.dtype, device=device)

        yield zeros(self.latents)
        yield zeros(self.timesteps)
        yield {name: zeros(spec) for name, spec in self.tensors.items()}
