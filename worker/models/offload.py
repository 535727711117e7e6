"""Where a model's parts lie: on the device for good, or on the CPU until they are called (`--offload`).

Knows modules, moves and bytes; not what a part is for. Imports no torch: a module moves itself.
"""

from __future__ import annotations

import itertools
import logging
import time
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from worker.errors import ConfigurationError
from worker.jobs.facts import ModelFacts
from worker.models import needs

logger = logging.getLogger(__name__)

CPU, MPS = "cpu", "mps"


class Placement(Protocol):
    """Where parts lie. All calls come from the engine's thread, but those of `weights_bytes`."""

    def place(self, name: str, part: Any, device: str, *, beside: str | None = None) -> Any:
        """Take charge of a loaded part that lies on the CPU; what comes back can be called as if it lay on `device`.

        `beside` names a part that is called in turn with it, as a UNet is with its ControlNets; a part that has one
        came later, and may go.
        """

    def bring(self, name: str) -> None:
        """Have a part on its device now, because it is about to be called."""

    def weights_bytes(self, loaded: int) -> int:
        """What weights take on the device at this moment, where those of the model's own parts are `loaded` as they
        came; from any thread."""


class OnDevice:
    """All parts, from the first moment on."""

    def __init__(self) -> None:
        self._more: list[tuple[weakref.ref[Any], int]] = []

    def place(self, name: str, part: Any, device: str, *, beside: str | None = None) -> Any:
        """There it goes, and stays."""
        placed = part.to(device)
        more = _added_bytes(placed) if beside is None else _bytes(placed)
        alive = [one for one in self._more if one[0]() is not None]
        self._more = [*alive, (weakref.ref(placed), more)]
        return placed

    def bring(self, name: str) -> None:
        """It is there."""

    def weights_bytes(self, loaded: int) -> int:
        """All of them, what their layers keep beside them, and what parts came later and are there now."""
        return loaded + sum(size for part, size in self._more if part() is not None)


@dataclass(eq=False)
class _Part:
    """A part in charge, not kept alive by that. Those of one `company` may lie on the device together."""

    name: str
    module: weakref.ref[Any]
    device: str
    company: str
    size_bytes: int = 0


class Offload:
    """A part comes to its device when it, or a layer of its own such as a VAE's decoder, is called; then all others of
    another company go back to the CPU. While only one company is called nothing moves.

    So the device never holds more weights than the largest company's. The CPU holds all of them all the time: nobody
    changes weights, so that on the way back nothing need be copied.
    """

    def __init__(self) -> None:
        self._parts: dict[str, _Part] = {}
        self._there: list[_Part] = []
        self._kept: weakref.WeakKeyDictionary[Any, dict[str, Any]] = weakref.WeakKeyDictionary()

    def place(self, name: str, part: Any, device: str, *, beside: str | None = None) -> Any:
        """It stays on the CPU. In place of an earlier part of its name."""
        placed = _Part(name, weakref.ref(part), device, beside or name)
        self._parts[name] = placed
        self._kept[part] = {}
        if not device.startswith(MPS):  # whose memory is the CPU's
            part._apply(lambda tensor: tensor.clone())  # or they would stay in the file, and be read again from there
            self._kept[part] = {own: tensor.data for own, tensor in _tensors(part)}

        def before(module: Any, inputs: Any) -> None:
            self._bring(placed)

        for module in (part, *part.children()):  # a VAE is never called itself
            module.register_forward_pre_hook(before)
        logger.info("offload: %s, %s, lies on the CPU until it is called", name, needs.told(_bytes(part)))
        return part

    def bring(self, name: str) -> None:
        """Have it on its device now, and nothing of another company."""
        self._bring(self._parts[name])

    def weights_bytes(self, loaded: int) -> int:
        """Of the parts that are on the device."""
        return sum(part.size_bytes for part in tuple(self._there) if part.module() is not None)

    def _bring(self, part: _Part) -> None:
        if part in self._there:
            return
        for other in [one for one in self._there if one.company != part.company]:
            self._there.remove(other)
            self._move(other, CPU)
        try:
            self._move(part, part.device)
        except RuntimeError:  # out of memory, when some of it had come already
            self._move(part, CPU)
            raise
        self._there.append(part)

    def _move(self, part: _Part, where: str) -> None:
        module = part.module()
        if module is None:  # a ControlNet that was let go of
            return
        started = time.perf_counter()
        if where == CPU:
            kept = self._kept[module]
            back = {id(tensor): kept[own] for own, tensor in _tensors(module) if own in kept}
            module._apply(lambda tensor: back.get(id(tensor), tensor))
        module.to(where)
        part.size_bytes = _bytes(module)
        seconds = time.perf_counter() - started
        logger.debug("offload: %s to %s, %s in %.3f s", part.name, where, needs.told(part.size_bytes), seconds)


def choose_placement(
    asked: str, parts_bytes: Mapping[str, int], facts: ModelFacts, free_bytes: int | None, cpu_bytes: int | None
) -> Placement:
    """What `--offload` asks for: `none`, `model`, or `auto`, which is `none` where weights and a picture fit.

    `parts_bytes` are those of each part's weights; `free_bytes` what the device has and `cpu_bytes` the CPU, None where
    that is not known. Raises ModelUnusable where the weights do not fit: all of them, or, offloaded, the largest part.
    """
    whole, picture = sum(parts_bytes.values()), needs.picture_bytes(facts)
    fits = free_bytes is None or whole + picture <= free_bytes
    if asked == "none" or (asked == "auto" and fits):
        needs.refuse_too_large(parts_bytes, facts.dtype, free_bytes)
        return OnDevice()
    needs.refuse_too_large_a_part(parts_bytes, facts.dtype, free_bytes)
    needs.refuse_too_large(parts_bytes, facts.dtype, cpu_bytes)
    if not fits:
        told = "offload: weights of %s and %s for a picture do not fit into %s"
        logger.info(told, *(needs.told(size) for size in (whole, picture, free_bytes or 0)))
    logger.info(
        "offload: parts come to the device when they are called. A step costs what it costs without it; a new prompt, "
        "a picture to begin with and a decoding each cost copying the part that is called to the device and then the "
        "denoiser again, which --log-level debug tells"
    )
    return Offload()


def offload_on(backend: str, asked: str) -> str:
    """What is asked for, as this backend understands it. Raises ConfigurationError."""
    if backend != CPU:
        return asked
    if asked == "model":
        raise ConfigurationError("--offload model: parts are moved to the CPU, and this worker computes there already")
    return "none"


def _bytes(part: Any) -> int:
    own: int = sum(tensor.nbytes for tensor in (*part.parameters(), *part.buffers()))
    return own + _added_bytes(part)


def _tensors(part: Any) -> Iterator[tuple[str, Any]]:
    """Its weights by their names; what two layers share has two."""
    return itertools.chain(part.named_parameters(remove_duplicate=False), part.named_buffers(remove_duplicate=False))


def _added_bytes(part: Any) -> int:
    """Of weights that layers made of their own, as `UpsamplingConv2d` does."""
    return sum(int(getattr(layer, "beside_bytes", 0)) for layer in part.modules())
