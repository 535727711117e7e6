"""The upscalers of an operator's folder: which there are, and how often as large each makes a picture.

Knows each by its header alone, and so needs no torch; safetensors only.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from worker.errors import ConfigurationError, InvalidInput, ModelUnusable
from worker.jobs.facts import UpscalerFacts
from worker.jobs.params import LATENT
from worker.models.safetensors_header import read_header, refuse_types
from worker.models.upscalers.kinds import Kind, kind_of

if TYPE_CHECKING:
    from shared_worker.device import Device
    from worker.models.base import Upscaler
    from worker.models.offload import Placement

logger = logging.getLogger(__name__)

PICKLED = ("*.pth", "*.pt", "*.ckpt", "*.bin")


@dataclass(frozen=True)
class Entry:
    """One file and the network that it is."""

    name: str
    path: Path
    kind: Kind

    @property
    def facts(self) -> UpscalerFacts:
        """As clients see it."""
        return UpscalerFacts(self.name, self.kind.scale)


class Upscalers:
    """Found by name, the file's without its ending; the first of a name is the one."""

    def __init__(self, entries: Iterable[Entry] = ()) -> None:
        self._entries: dict[str, Entry] = {}
        for entry in entries:
            if self._entries.setdefault(entry.name, entry) is not entry:
                logger.warning("%s is twice in --upscaler-dir; the second is not used", entry.name)

    @classmethod
    def in_folder(cls, folder: Path) -> Upscalers:
        """Every upscaler in it or below. Raises ConfigurationError."""
        if not folder.is_dir():
            raise ConfigurationError("--upscaler-dir is no folder")
        try:
            return cls(_entries(folder))
        except OSError as error:
            raise ConfigurationError(f"--upscaler-dir cannot be read: {error.strerror}") from None

    @property
    def facts(self) -> tuple[UpscalerFacts, ...]:
        """As `/v1/info` lists them."""
        return tuple(entry.facts for _, entry in sorted(self._entries.items()))

    def load(self, name: str, device: Device, placement: Placement, denoiser: str) -> Upscaler:
        """The network, as if on `device`, placed beside the `denoiser`. Slow; imports torch. Raises InvalidInput."""
        if (entry := self._entries.get(name)) is None:
            raise InvalidInput(f"There is no upscaler of the name {name!r}")
        from worker.models.upscalers.networks import load

        return load(entry.path, entry.kind, device, placement, denoiser)


NO_UPSCALERS = Upscalers()


def _entries(folder: Path) -> Iterator[Entry]:
    for pattern in PICKLED:
        for path in sorted(folder.rglob(pattern)):
            logger.warning(
                "%s in --upscaler-dir is not used: a pickle can run code; save its weights as safetensors", path.name
            )
    for path in sorted(path for path in folder.rglob("*.safetensors") if path.is_file()):
        try:
            header = read_header(path, "it")
            refuse_types(header.tensors.items(), "the file")
            kind = kind_of(header.shapes)
            if path.stem == LATENT:
                raise ModelUnusable("its name is that of the loaded model's own upscaler")
        except ModelUnusable as reason:
            logger.warning("%s in --upscaler-dir is not used: %s", path.name, reason.detail)
            continue
        yield Entry(path.stem, path, kind)
