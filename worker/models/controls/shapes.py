"""What a ControlNet is by the shapes of its tensors, and what it must be to fit a UNet. Reads no weight.

Two layouts are known: that of diffusers, and the one that the first ControlNets were published in.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from worker.errors import ModelUnusable
from worker.models.lora_file import TEXT_WIDTHS, printable
from worker.models.safetensors_header import Tensor

ORIGINAL_PREFIX = "control_model."
"""What names of the original layout begin with where a ControlNet was saved with a model around it."""
DIFFERENCE = "difference"
"""The tensor that marks a ControlNet whose weights are to be added to those of the model it was made with."""
MOST = 100
"""No kind of layer is there so often."""


@dataclass(frozen=True)
class Layout:
    """Names of tensors. `parts` is all that a name can begin with, up to its first dot.

    Residuals are numbered from 0; `numbers` are those of the convolutions that halve the control picture.
    """

    parts: tuple[str, ...]
    first: str
    added: str
    residual: str
    middle: str
    hint: str
    halving: str
    numbers: range


DIFFUSERS = Layout(
    parts=(
        *("conv_in", "time_embedding", "add_embedding", "controlnet_cond_embedding", "down_blocks", "mid_block"),
        *("controlnet_down_blocks", "controlnet_mid_block"),
    ),
    first="conv_in.weight",
    added="add_embedding.linear_1.weight",
    residual="controlnet_down_blocks.{}.weight",
    middle="controlnet_mid_block.weight",
    hint="controlnet_cond_embedding.conv_in.weight",
    halving="controlnet_cond_embedding.blocks.{}.weight",
    numbers=range(1, MOST, 2),
)
ORIGINAL = Layout(
    parts=(
        *("input_blocks", "time_embed", "label_emb", "input_hint_block", "middle_block"),
        *("zero_convs", "middle_block_out"),
    ),
    first="input_blocks.0.0.weight",
    added="label_emb.0.0.weight",
    residual="zero_convs.{}.0.weight",
    middle="middle_block_out.0.weight",
    hint="input_hint_block.0.weight",
    halving="input_hint_block.{}.weight",
    numbers=range(4, MOST, 4),
)


@dataclass(frozen=True)
class ControlShapes:
    """`residuals` are the channels of what is added to each layer of the UNet, the middle last.

    `hint` are the channels over the control picture, level by level, each of half the size; `attentions` are width and
    depth of each transformer that reads the text, of `text_width`, None where there is none; `added` is the width of
    what is embedded with the timestep, None where nothing is; `family` as `told_family` has it.
    """

    in_channels: int
    picture_channels: int
    residuals: tuple[int, ...]
    hint: tuple[int, ...]
    attentions: tuple[tuple[int, int], ...]
    text_width: int | None
    added: int | None
    family: str | None

    @property
    def factor(self) -> int:
        """Pixels of the control picture along the side of a place of the latent."""
        return 1 << (len(self.hint) - 1)


def told_family(tensors: Mapping[str, Tensor]) -> str | None:
    """Which models a ControlNet was made for, where shapes tell; the small ones of SDXL have no attention to a text."""
    if any(name.endswith((DIFFUSERS.added, ORIGINAL.added)) for name in tensors):
        return "sdxl"
    keys = (one for name, one in tensors.items() if name.endswith("attn2.to_k.weight") and len(one.shape) == 2)
    key = next(keys, None)
    return None if key is None else TEXT_WIDTHS.get(key.shape[1])


def read_shapes(tensors: Mapping[str, Tensor]) -> ControlShapes:
    """Raises ModelUnusable for what is no ControlNet that is known here."""
    if DIFFERENCE in tensors:
        raise ModelUnusable("its weights are differences from those of a model (a difference ControlNet); not served")
    saved_around = any(name.startswith(ORIGINAL_PREFIX) for name in tensors)
    prefix = ORIGINAL_PREFIX if saved_around else ""
    named = {name.removeprefix(prefix): one for name, one in tensors.items() if name.startswith(prefix)}
    layout = DIFFUSERS if DIFFUSERS.first in named else ORIGINAL
    if foreign := [name for name in named if name.partition(".")[0] not in layout.parts]:
        raise ModelUnusable(f"it holds what an ordinary ControlNet does not: {printable(min(foreign))}")
    try:
        return _shapes(named, layout)
    except (KeyError, IndexError):
        raise ModelUnusable("it lacks layers that every ControlNet has") from None


def _shapes(named: Mapping[str, Tensor], layout: Layout) -> ControlShapes:
    keys = {name: one for name, one in named.items() if name.endswith("attn2.to_k.weight")}
    depths = Counter((name.partition(".transformer_blocks.")[0], one.shape[0]) for name, one in keys.items())
    first, hint = named[layout.first], named[layout.hint]
    return ControlShapes(
        in_channels=first.shape[1],
        picture_channels=hint.shape[1],
        residuals=(*_channels(named, layout.residual, range(MOST)), named[layout.middle].shape[0]),
        hint=(hint.shape[0], *_channels(named, layout.halving, layout.numbers)),
        attentions=tuple(sorted((width, depth) for (_, width), depth in depths.items())),
        text_width=next((one.shape[1] for one in keys.values()), None),
        added=named[layout.added].shape[1] if layout.added in named else None,
        family=told_family(named),
    )


def _channels(named: Mapping[str, Tensor], name: str, numbers: range) -> list[int]:
    """What the convolutions give that are called `name` with these numbers, as many as there are."""
    names = takewhile(named.__contains__, map(name.format, numbers))
    return [named[one].shape[0] for one in names]


@dataclass(frozen=True)
class Wanted:
    """What a ControlNet must be for a model, by the configurations of the model's UNet and VAE."""

    in_channels: int
    residuals: tuple[int, ...]
    factor: int
    attentions: tuple[tuple[int, int], ...]
    text_width: int
    added: int | None

    @classmethod
    def by(cls, unet: Mapping[str, Any], vae: Mapping[str, Any]) -> Wanted:
        """Raises KeyError, TypeError, ValueError for a UNet that ControlNets are not made for."""
        channels, layers = tuple(unet["block_out_channels"]), int(unet["layers_per_block"])
        depths = unet.get("transformer_layers_per_block", 1)
        depths = [depths] * len(channels) if isinstance(depths, int) else list(depths)
        residuals = [channels[0]]
        attentions = [(channels[-1], depths[-1])]  # of the middle
        for level, (width, kind) in enumerate(zip(channels, unet["down_block_types"], strict=True)):
            last = level == len(channels) - 1
            residuals += [width] * (layers + (not last))  # every level but the last ends by halving the size
            attentions += [(width, depths[level])] * layers if "CrossAttn" in kind else []
        return cls(
            in_channels=int(vae["latent_channels"]),
            residuals=(*residuals, channels[-1]),
            factor=2 ** (len(vae["block_out_channels"]) - 1),
            attentions=tuple(sorted(attentions)),
            text_width=int(unet["cross_attention_dim"]),
            added=unet.get("projection_class_embeddings_input_dim"),
        )

    def refusal(self, it: ControlShapes) -> str | None:
        """Why `it` does not fit; None if it does."""
        if it.text_width not in (None, self.text_width):
            return f"it reads texts of width {it.text_width}, and the model's have {self.text_width}"
        if it.in_channels != self.in_channels:
            return f"it reads latents of {it.in_channels} channels, and the model's have {self.in_channels}"
        if it.residuals != self.residuals:
            return "its layers have other sizes than those of the model's UNet"
        if it.added not in (None, self.added):
            return "it reads something beside the text that the model does not have"
        if it.picture_channels != 3:
            return f"it reads pictures of {it.picture_channels} channels"
        if it.factor != self.factor:
            return f"it makes its picture {it.factor} times smaller, and the model's VAE {self.factor} times"
        return None
