"""A checkpoint in one safetensors file, in the layout that Stable Diffusion 1.x, 2.x and XL were published in.

Told from the names and shapes in the file's header; its configurations ship with the project or come from a folder.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worker.errors import ModelUnusable
from worker.models import checksum
from worker.models.file_kind import FIRST_CONVOLUTION, UNET, FileKind, kind_of
from worker.models.folder import DiffusersFolder
from worker.models.safetensors_header import BITS, Header, Tensor, read_header, refuse_types
from worker.models.shipped import KINDS, ShippedConfigs

CLIP = "cond_stage_model.transformer."
OPEN_CLIP = "cond_stage_model.model."
XL_CLIP = "conditioner.embedders.0.transformer."
XL_OPEN_CLIP = "conditioner.embedders.1.model."
VAES = ("first_stage_model.", "vae.")
PREFIXES: dict[str, tuple[str, ...]] = {
    "unet": (UNET,),
    "vae": VAES,
    "text_encoder": (CLIP, OPEN_CLIP, XL_CLIP),
    "text_encoder_2": (XL_OPEN_CLIP,),
}
"""What the names of a part's tensors begin with; only one of them is in a file."""
SERVED_CHANNELS = 320
"""Of the first level of every UNet whose configuration ships."""
SERVED_ATTENTIONS = {768: 16, 1024: 16, 2048: 70}
"""How many layers of such a UNet read the text, by its width; fewer in those that were distilled to be smaller."""


@dataclass(frozen=True)
class Shapes:
    """What the UNet's tensors tell: input channels, width of its first level, width of a text's hidden states, and how
    many layers read it."""

    in_channels: int
    model_channels: int
    cross_attention_dim: int
    attentions: int


class SingleFile:
    """One file with all weights; `configs` describe what is in it."""

    def __init__(self, file: Path, config: str | None = None) -> None:
        """`config` is a diffusers folder or the name of a shipped kind; without it the file tells.

        Raises ModelUnusable for what the header shows to be no such file.
        """
        # A link such as `current` stands for what it leads to; in the cache of Hugging Face that has no ending.
        resolved = file.resolve()
        self.file = resolved if resolved.suffix.lower() == ".safetensors" else file
        if self.file.suffix.lower() != ".safetensors":
            raise ModelUnusable("the file is no safetensors file by its name; only safetensors is served")
        self.header = read_header(self.file)
        refuse_other_kinds(self.header)
        shapes = unet_shapes(self.header)
        self.configs: DiffusersFolder | ShippedConfigs
        if config is None:
            self.configs = _shipped(self.header, shapes)
        elif not Path(config).is_dir() and config in KINDS:
            self.configs = ShippedConfigs(config)
        elif Path(config).is_dir():
            self.configs = DiffusersFolder(Path(config))
        else:
            raise ModelUnusable(f"--model-config names neither a folder nor a kind that ships: {', '.join(KINDS)}")
        self._refuse_another(shapes)

    @property
    def name(self) -> str:
        """The file's, without its ending."""
        return self.file.stem

    @property
    def index(self) -> Mapping[str, Any]:
        """That of the configurations."""
        return self.configs.index

    @property
    def pipeline(self) -> object:
        """The class that the configurations name."""
        return self.configs.pipeline

    @property
    def told(self) -> str:
        """Where the configurations come from, for the operator."""
        if isinstance(self.configs, ShippedConfigs):
            return f"configuration and tokenizer: shipped ({self.configs.kind})"
        return f"configuration and tokenizer: from --model-config ({self.configs.name})"

    def has(self, name: str) -> bool:
        """Whether the configurations have such a part or file."""
        return self.configs.has(name)

    def json(self, name: str) -> Mapping[str, Any]:
        """A JSON file of the configurations. Raises ModelUnusable."""
        return self.configs.json(name)

    def config(self, part: str) -> Mapping[str, Any]:
        """A part's configuration; what the file says of its noise wins. Raises ModelUnusable."""
        config = self.configs.config(part)
        return {**config, **_told_prediction(self.header)} if part == "scheduler" else config

    def tokenizer(self, part: str) -> tuple[Path, Mapping[str, Any]]:
        """A folder that a tokenizer is read from, and what differs. Raises ModelUnusable."""
        return self.configs.tokenizer(part)

    def tensors(self, part: str, dtype: str) -> Mapping[str, Tensor]:
        """A part's tensors by their names in the file. Raises ModelUnusable."""
        found = self.header.under(*PREFIXES.get(part, ()))
        if not found:
            raise ModelUnusable(f"the file has no weights for its {part}")
        refuse_types(found.items(), part)
        return found

    def size_bytes(self, part: str, dtype: str) -> int:
        """What a part takes in the file."""
        return sum(tensor.elements * BITS[tensor.dtype] // 8 for tensor in self.tensors(part, dtype).values())

    def checksum(self) -> str:
        """Of the file."""
        return checksum.of_file(self.file)

    def refuse_code(self) -> None:
        """Beside the configurations of an operator's folder."""
        if isinstance(self.configs, DiffusersFolder):
            self.configs.refuse_code()

    def _refuse_another(self, shapes: Shapes) -> None:
        """A configuration that contradicts the file is one of another model."""
        described = self.configs.config("unet")
        try:
            width = described["cross_attention_dim"]
            attentions = shapes.attentions if isinstance(self.configs, DiffusersFolder) else SERVED_ATTENTIONS[width]
            told = Shapes(described["in_channels"], described["block_out_channels"][0], width, attentions)
        except (KeyError, TypeError, IndexError):
            raise ModelUnusable("the model's configuration lacks its sizes") from None
        for name in ("in_channels", "model_channels", "cross_attention_dim", "attentions"):
            its, files = getattr(told, name), getattr(shapes, name)
            if its != files:
                raise ModelUnusable(f"the configuration is of another model: its {name} is {its}, the file's {files}")


def unet_shapes(header: Header) -> Shapes:
    """Raises ModelUnusable where a UNet in the original layout lacks them."""
    first = header.tensors[FIRST_CONVOLUTION]
    keys = [tensor for name, tensor in header.under(UNET).items() if name.endswith("attn2.to_k.weight")]
    if not keys or len(first.shape) != 4 or len(keys[0].shape) != 2:
        raise ModelUnusable("the file's UNet has other layers than Stable Diffusion's")
    return Shapes(first.shape[1], first.shape[0], keys[0].shape[1], len(keys))


def refuse_other_kinds(header: Header) -> None:
    """Raises ModelUnusable for what is no whole checkpoint of a family that is served from one file."""
    match kind_of(header):
        case FileKind.CHECKPOINT:
            return
        case FileKind.LORA | FileKind.CONTROLNET | FileKind.EMBEDDING as kind:
            told = f"is a {kind}, which changes a model and is none"
        case FileKind.REFINER:
            told = "is a refiner, which draws no pictures of its own"
        case FileKind.SD3 | FileKind.FLUX as kind:
            told = f"is {kind}; that family is served from a diffusers folder"
        case FileKind.UNET | FileKind.TRANSFORMER | FileKind.VAE | FileKind.TEXT_ENCODER as kind:
            told = f"is a {kind} alone; a whole model is a diffusers folder or a file in the original layout"
        case _:
            told = "is no checkpoint that this worker knows"
    raise ModelUnusable(f"the file {told}")


def _shipped(header: Header, shapes: Shapes) -> ShippedConfigs:
    """The configurations of the kind that a file is of. Raises ModelUnusable."""
    if any(name == "edm_mean" or name.startswith("edm_vpred.") for name in header.tensors):
        raise ModelUnusable("the file is of a model on EDM's noise, which is not served")
    if header.under(XL_CLIP) and header.under(XL_OPEN_CLIP):
        kind = "sdxl"
    elif header.under(OPEN_CLIP):
        kind = "sd2"
    elif header.under(CLIP):
        kind = "sd1"
    else:
        raise ModelUnusable("the file has no text encoder of Stable Diffusion 1.x, 2.x or XL")
    if shapes.in_channels == 9:
        kind += "-inpainting"
    elif kind == "sd2" and _told_prediction(header).get("prediction_type") == "epsilon":
        kind = "sd2-base"
    configs = ShippedConfigs(kind)
    width = configs.config("unet")["cross_attention_dim"]
    served = (SERVED_CHANNELS, width, SERVED_ATTENTIONS[width])
    if (shapes.model_channels, shapes.cross_attention_dim, shapes.attentions) != served:
        raise ModelUnusable(
            "the file's shapes are those of no configuration that ships with the worker; "
            "name a folder with its configurations by --model-config"
        )
    return configs


def _told_prediction(header: Header) -> dict[str, Any]:
    """What a file may say of its noise: in its metadata, or by a tensor whose name alone means something.

    Sources: the keys of the modelspec standard, and the marks that trainers of SDXL with v-prediction leave.
    """
    told = header.metadata.get("modelspec.prediction_type", "").lower()
    if "v_pred" in header.tensors or told in ("v", "v_prediction"):
        changes: dict[str, Any] = {"prediction_type": "v_prediction"}
        if "ztsnr" in header.tensors:
            changes |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
        return changes
    return {"prediction_type": "epsilon"} if told in ("epsilon", "eps") else {}
