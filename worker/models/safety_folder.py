"""The folder that `--safety-checker` names: a safety checker of Stable Diffusion's kind, known by its tensors.

Reads JSON and headers, no weight; imports no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from worker.errors import ConfigurationError, ModelUnusable
from worker.models.folder import DiffusersFolder, read_json
from worker.models.needs import BYTES
from worker.models.offload import OnDevice, Placement
from worker.models.safetensors_header import Tensor

if TYPE_CHECKING:
    from shared_worker.device import Device
    from worker.models.safety_checker import Pixels

PREPROCESSOR = "preprocessor_config.json"
CONCEPTS = {"concept_embeds": 17, "special_care_embeds": 3}
"""Embeddings of what is looked for, so many of each; diffusers' class has no other numbers."""


@dataclass(frozen=True)
class SafetyFolder:
    """A safety checker that has been recognised.

    `variant` marks the files that are read, as `DiffusersFolder.variant` has it; `preprocessor` is the folder of its
    `preprocessor_config.json`; `weights_bytes` what its weights take once they are loaded.
    """

    folder: Path
    variant: str
    preprocessor: Path
    weights_bytes: int

    @classmethod
    def at(cls, place: Path) -> SafetyFolder:
        """CLIP's vision model with a projection and concepts. Raises ConfigurationError."""
        folder = place.resolve()
        if not folder.is_dir():
            raise ConfigurationError("--safety-checker is no folder")
        try:
            if read_json(folder, "config.json").get("model_type") != "clip":
                raise ModelUnusable("its config.json is not that of a CLIP model")
            # In a model's folder it lies beside the checker; where a checker stands alone, in it.
            beside = folder.parent / "feature_extractor"
            preprocessor = folder if (folder / PREPROCESSOR).exists() else beside
            if not (preprocessor / PREPROCESSOR).exists():
                raise ModelUnusable(f"{PREPROCESSOR} is not there")
            read_json(preprocessor, PREPROCESSOR)
            DiffusersFolder(folder).refuse_code()
            around = DiffusersFolder(folder.parent)
            tensors = around.tensors(folder.name, "float32")
            _refuse_another(tensors)
            variant = around.variant(folder.name, "float32")
        except ModelUnusable as refused:
            raise ConfigurationError(f"--safety-checker: {refused.detail}") from None
        return cls(folder, variant, preprocessor, BYTES["float32"] * sum(one.elements for one in tensors.values()))

    def load(self, device: Device, placement: Placement | None = None) -> Callable[[Pixels], bool]:
        """Read the weights, to be called on `device`; tells of a picture whether it is flagged. Slow; imports torch.

        Raises ModelUnusable.
        """
        from worker.models.safety_checker import SafetyChecker

        return SafetyChecker.load(self, device, placement or OnDevice()).flags


def _refuse_another(tensors: Mapping[str, Tensor]) -> None:
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    width = shapes.get("visual_projection.weight", (0,))[0]
    for name, count in CONCEPTS.items():
        if shapes.get(name) != (count, width) or shapes.get(f"{name}_weights") != (count,):
            raise ModelUnusable(f"its weights are not those of a safety checker: {name} is not as it must be")
