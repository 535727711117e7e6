"""A safety checker of Stable Diffusion's kind, loaded: CLIP looks at a picture, and it is compared with concepts.

diffusers' own class decides; here are only the weights and the pixels. In fp32 whatever the model computes in, also in
convolutions, where CUDA would round to TF32, so that the verdict is the same on every backend.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from shared_worker.device import Device
from worker.errors import ModelUnusable
from worker.models.needs import SAFETY_CHECKER
from worker.models.offload import Placement
from worker.models.packing import lay_out
from worker.models.parts import passes_by

if TYPE_CHECKING:
    from worker.models.safety_folder import SafetyFolder

Pixels = npt.NDArray[np.uint8]  # [H, W, 3]
logger = logging.getLogger(__name__)


class SafetyChecker:
    """On one device; every call comes from the engine's thread."""

    def __init__(self, checker: Any, processor: Any, device: torch.device) -> None:
        self._checker = checker
        self._processor = processor
        self._device = device

    @classmethod
    def load(cls, source: SafetyFolder, device: Device, placement: Placement) -> SafetyChecker:
        """Safetensors alone, without network. Raises ModelUnusable; what says nothing of the checker as it is."""
        # It announces a black image, which nobody gets here.
        logging.getLogger(StableDiffusionSafetyChecker.__module__).setLevel(logging.ERROR)
        target = torch.device(device.torch_name)
        try:
            checker, told = StableDiffusionSafetyChecker.from_pretrained(
                source.folder,
                use_safetensors=True,
                local_files_only=True,
                variant=source.variant or None,
                dtype=torch.float32,
                output_loading_info=True,
            )
            processor = CLIPImageProcessorPil.from_pretrained(source.preprocessor, local_files_only=True)
        except Exception as error:
            if passes_by(error):
                raise
            logger.debug("loading failed", exc_info=error)
            raise ModelUnusable(f"the safety checker cannot be loaded ({type(error).__name__})") from error
        if missing := told["missing_keys"]:
            raise ModelUnusable(f"the safety checker lacks weights: {min(missing)}")
        checker = checker.eval().requires_grad_(False)
        lay_out(checker, device.backend)
        placed = placement.place(SAFETY_CHECKER, checker, device.torch_name)
        return cls(placed, processor, target)

    @torch.inference_mode()
    def flags(self, pixels: Pixels) -> bool:
        """Whether the picture comes too near to one of the concepts."""
        seen = self._processor([pixels], input_data_format="channels_last", return_tensors="pt").pixel_values
        blank = torch.zeros((1, 1))  # what it blackens, if it flags
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            _, [flagged] = self._checker(clip_input=seen.to(self._device), images=blank)
        return bool(flagged)
