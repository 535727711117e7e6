"""The ControlNets of an operator's folder: which there are, and whether each fits the model.

Knows each by its configuration and its headers alone, and so needs no torch; safetensors and JSON only.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worker.errors import ConfigurationError, ModelUnusable
from worker.jobs.facts import ControlFacts
from worker.models.controls.shapes import ControlShapes, Wanted, read_shapes
from worker.models.file_kind import FileKind, kind_of
from worker.models.folder import DiffusersFolder, read_json
from worker.models.lora_file import printable
from worker.models.safetensors_header import read_header, refuse_types

logger = logging.getLogger(__name__)

SERVED = "ControlNetModel"
FAMILIES = {"FluxControlNetModel": "flux", "SD3ControlNetModel": "sd3"}
"""What a class tells; of the one that is served, shapes do."""
ADDED = (None, "text", "text_time")
"""What may be embedded with the timestep: nothing, the text once more, or what SDXL has beside it."""
POOLING = ("_shuffle", "_shuffle_fp16")
"""How the names of files end that pool over the whole picture: nothing in them tells it."""
UNSET = ("class_embed_type", "num_class_embeds", "encoder_hid_dim", "encoder_hid_dim_type")
"""What only the configurations of other models' ControlNets have."""


class NoControlNet(Exception):
    """A folder or a file that holds something else."""


@dataclass(frozen=True)
class Entry:
    """One ControlNet; `reason` is why it does not fit. `path` is a diffusers folder or a safetensors file."""

    name: str
    path: Path
    family: str | None = None
    shapes: ControlShapes | None = None
    reason: str | None = None

    @property
    def facts(self) -> ControlFacts:
        """As clients see it."""
        return ControlFacts(self.name, self.family, self.reason is None, self.reason)


@dataclass(frozen=True)
class Controlled:
    """The model that a ControlNet must fit: the family's name, configurations of UNet and VAE, and the dtype."""

    family: str
    unet: Mapping[str, Any]
    vae: Mapping[str, Any]
    dtype: str

    @property
    def wanted(self) -> Wanted | None:
        """None where this worker has no ControlNets for such a model."""
        try:
            return Wanted.by(self.unet, self.vae)
        except (KeyError, TypeError, ValueError):
            return None


class Catalogue:
    """Found by name; the first of a name is the one."""

    def __init__(self, entries: Iterable[Entry] = ()) -> None:
        self._entries: dict[str, Entry] = {}
        for entry in entries:
            if self._entries.setdefault(entry.name, entry) is not entry:
                logger.warning("%s is twice in --control-dir; the second is not used", entry.name)

    @classmethod
    def in_folder(cls, folder: Path, model: Controlled) -> Catalogue:
        """Every ControlNet in it or below. Raises ConfigurationError."""
        if not folder.is_dir():
            raise ConfigurationError("--control-dir is no folder")
        try:
            return cls(_entries(folder, model))
        except OSError as error:
            raise ConfigurationError(f"--control-dir cannot be read: {error.strerror}") from None

    @property
    def facts(self) -> tuple[ControlFacts, ...]:
        """As `/v1/info` lists them."""
        return tuple(entry.facts for _, entry in sorted(self._entries.items()))

    def get(self, name: str) -> Entry | None:
        """The one of that name, if it fits."""
        entry = self._entries.get(name)
        return entry if entry is not None and entry.reason is None else None


NO_CONTROLS = Catalogue()


def _entries(folder: Path, model: Controlled) -> Iterator[Entry]:
    folders = sorted(file.parent for file in folder.rglob("config.json") if file.parent != folder)
    inside = set(folders)
    files = (file for file in sorted(folder.rglob("*.safetensors")) if inside.isdisjoint(file.parents))
    for path in (*folders, *(file for file in files if file.is_file())):
        try:
            yield _checked(path, model)
        except NoControlNet as reason:
            logger.warning("%s in --control-dir is not used: %s", path.name, reason)


def _checked(path: Path, model: Controlled) -> Entry:
    """Raises NoControlNet."""
    if path.is_dir():
        name, config = path.name, _config(path)
    else:
        name, config = path.stem, None
    try:
        shapes = _file(path) if config is None else _folder(path, config, model.dtype)
    except ModelUnusable as refused:
        family = None if config is None else FAMILIES.get(str(config["_class_name"]))
        return Entry(name, path, family, reason=refused.detail)
    return Entry(name, path, shapes.family, shapes, _refusal(shapes, model, described=config is not None))


def _config(folder: Path) -> Mapping[str, Any]:
    """Raises NoControlNet."""
    try:
        config = read_json(folder, "config.json")
    except ModelUnusable as unreadable:
        raise NoControlNet(unreadable.detail) from None
    if "Control" not in str(name := config.get("_class_name")):
        raise NoControlNet(f"its configuration is of the class {printable(str(name))!r}")
    return config


def _folder(path: Path, config: Mapping[str, Any], dtype: str) -> ControlShapes:
    """Raises ModelUnusable."""
    if (name := config["_class_name"]) != SERVED:
        raise ModelUnusable(f"it is of the class {printable(str(name))!r}, which is not served")
    if config.get("global_pool_conditions"):
        raise ModelUnusable("it pools over the whole picture (global_pool_conditions), which is not served")
    if config.get("addition_embed_type") not in ADDED or any(config.get(one) for one in UNSET):
        raise ModelUnusable("its configuration is that of another kind of model's ControlNet")
    DiffusersFolder(path).refuse_code()
    if not any(path.glob("*.safetensors")):
        raise ModelUnusable("its folder holds no safetensors weights")
    return read_shapes(DiffusersFolder(path.parent).tensors(path.name, dtype))


def _file(path: Path) -> ControlShapes:
    """Raises NoControlNet, ModelUnusable."""
    try:
        header = read_header(path, "it")
    except ModelUnusable as unreadable:
        raise NoControlNet(unreadable.detail) from None
    if (kind := kind_of(header)) is not FileKind.CONTROLNET:
        raise NoControlNet(f"it is of the kind: {kind.value}")
    if path.stem.endswith(POOLING):
        raise ModelUnusable("by its name it pools over the whole picture (global_pool_conditions), which is not served")
    refuse_types(header.tensors.items(), "the file")
    return read_shapes(header.tensors)


def _refusal(shapes: ControlShapes, model: Controlled, *, described: bool) -> str | None:
    """Why it does not fit. Where no configuration describes it, it must be built as the model's UNet is."""
    wanted = model.wanted
    if wanted is None:
        return f"ControlNets for models of the family {model.family} are not served"
    refused = wanted.refusal(shapes)
    if refused is None and not described and shapes.attentions != wanted.attentions:
        return "it is built otherwise than the model's UNet; that takes a folder with its config.json"
    return refused
