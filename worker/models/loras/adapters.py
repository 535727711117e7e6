"""The adapters of a loaded model: those in use and some more, in bounded memory; and on which rows of a call they act.

A layer that an adapter in memory changes has a hook behind it; the model's own weights never change. All calls come
from the engine's thread.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakSet

import torch

from worker.jobs.params import LoraParams
from worker.models.loras.folder import Lora, Loras
from worker.models.loras.layers import Layer, LowRank, Rows
from worker.models.loras.weights import read_weights


@dataclass(eq=False)
class Adapter:
    """One in memory. `changes_text` if it acts on a text encoder; `unknown` counts layers that the model lacks."""

    name: str
    layers: Mapping[Layer, LowRank]
    changes_text: bool
    unknown: int
    size_bytes: int
    used_by: WeakSet[AdapterSet] = field(default_factory=WeakSet)


@dataclass(eq=False)
class AdapterSet:
    """Those of one job, each with its scale, by their names in order; or none. In memory for as long as this is kept.

    `loras` names those that count, `text_loras` those of them that act on a text encoder.
    """

    adapters: tuple[tuple[Adapter, float], ...] = ()
    loras: tuple[LoraParams, ...] = ()
    text_loras: tuple[LoraParams, ...] = ()

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a job must say that uses it."""
        return tuple(
            f"{one.name}: {one.unknown} of its layers are not the model's and were not used"
            for one, _ in self.adapters
            if one.unknown
        )


class Adapters:
    """For the `parts` of a model of this `family`, by their names; in `dtype` on `device`.

    At most `loras.cache_bytes` stay in memory, and always what is in use; the least recently used goes first.
    """

    def __init__(
        self, loras: Loras, family: str, device: torch.device, dtype: torch.dtype, **parts: torch.nn.Module
    ) -> None:
        self._loras = loras
        self._family = family
        self._device = device
        self._dtype = dtype
        self._parts = parts
        self._kept: OrderedDict[str, Adapter] = OrderedDict()
        self._uses: Counter[Layer] = Counter()
        self._hooks: dict[Layer, Any] = {}
        self._active: tuple[tuple[Adapter, Rows], ...] = ()

    @property
    def held(self) -> tuple[int, int]:
        """How many are in memory, and their bytes."""
        return len(self._kept), sum(one.size_bytes for one in self._kept.values())

    def load(self, loras: Sequence[LoraParams]) -> AdapterSet:
        """Those of a job, read if they are not there. A name that comes twice counts once, by the sum of its scales.

        Raises InvalidInput.
        """
        scales: dict[str, float] = {}
        for one in loras:
            scales[one.name] = scales.get(one.name, 0.0) + one.scale
        wanted = {name: scales[name] for name in sorted(scales) if scales[name]}
        found = tuple((self._get(name, wanted), scale) for name, scale in wanted.items())
        named = tuple(LoraParams(name, scale) for name, scale in wanted.items())
        text = tuple(lora for lora, (one, _) in zip(named, found, strict=True) if one.changes_text)
        made = AdapterSet(found, named, text)
        for adapter, _ in found:
            adapter.used_by.add(made)
        self._make_room(0, wanted)  # of what others used until lately
        return made

    @contextmanager
    def active(self, sets: Sequence[AdapterSet]) -> Iterator[None]:
        """While it lasts, row k of every call has the adapters of set k; where all sets are the same, every row has.

        A row that has none is what it is in a model without adapters, to the last bit.
        """
        assert not self._active, "calls are not made inside each other"
        if any(one.adapters for one in sets):
            self._active = self._on_rows(sets)
        try:
            yield
        finally:
            self._active = ()

    def _on_rows(self, sets: Sequence[AdapterSet]) -> tuple[tuple[Adapter, Rows], ...]:
        first = sets[0]
        if all(one.loras == first.loras for one in sets):
            return tuple((adapter, Rows(None, scale)) for adapter, scale in first.adapters)
        rows: dict[Adapter, list[tuple[int, float]]] = {}
        for row, one in enumerate(sets):
            for adapter, scale in one.adapters:
                rows.setdefault(adapter, []).append((row, scale))
        return tuple(
            (
                adapter,
                Rows(
                    torch.tensor([row for row, _ in pairs], device=self._device),
                    torch.tensor([scale for _, scale in pairs], device=self._device),
                ),
            )
            for adapter, pairs in rows.items()
        )

    def _act(self, layer: Layer, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        for adapter, rows in self._active:
            if (own := adapter.layers.get(layer)) is not None:
                output = own.add(layer, inputs[0], output, rows)
        return output

    def _get(self, name: str, wanted: Mapping[str, float]) -> Adapter:
        if name not in self._kept:
            lora = self._loras.get(name)
            self._make_room(lora.elements * self._dtype.itemsize, wanted)
            self._keep(self._read(lora))
        self._kept.move_to_end(name)
        return self._kept[name]

    def _read(self, lora: Lora) -> Adapter:
        found, unknown = read_weights(lora, self._family, self._parts, self._device, self._dtype)
        layers = {layer: weights for part in found.values() for layer, weights in part.items()}
        changes_text = any(part.startswith("text_encoder") for part in found)
        size_bytes = sum(weights.size_bytes for weights in layers.values())
        return Adapter(lora.facts.name, layers, changes_text, unknown, size_bytes)

    def _keep(self, adapter: Adapter) -> None:
        self._kept[adapter.name] = adapter
        for layer in adapter.layers:
            self._uses[layer] += 1
            if layer not in self._hooks:
                self._hooks[layer] = layer.register_forward_hook(self._act)

    def _make_room(self, size_bytes: int, wanted: Mapping[str, float]) -> None:
        """Let go of what is neither in use nor wanted now, until there is room or nothing more to let go of."""
        _, held = self.held
        for name, adapter in list(self._kept.items()):
            if held + size_bytes <= self._loras.cache_bytes:
                return
            if name not in wanted and not adapter.used_by:
                self._let_go(name)
                held -= adapter.size_bytes

    def let_go(self) -> bool:
        """Drop those that nobody uses; whether there were any."""
        idle = [name for name, adapter in self._kept.items() if not adapter.used_by]
        for name in idle:
            self._let_go(name)
        return bool(idle)

    def _let_go(self, name: str) -> None:
        for layer in self._kept.pop(name).layers:
            self._uses[layer] -= 1
            if not self._uses[layer]:
                del self._uses[layer]
                self._hooks.pop(layer).remove()
