"""What an upscaler's file holds, told by its tensors' names and shapes alone: no torch, no weight is read.

Two networks stand behind nearly all files: that of ESRGAN and Real-ESRGAN (residual in residual dense blocks; Wang et
al., "ESRGAN", 2018, and "Real-ESRGAN", 2021) and Real-ESRGAN's compact one. The first is written down in three ways.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from worker.errors import ModelUnusable

Shapes = Mapping[str, tuple[int, ...]]
SCALES = (2, 4)
"""What a picture may be multiplied by."""
PREFIXES = ("params_ema.", "params.", "module.")
"""What training programs put before every name."""
RENAMED = (
    # As ESRGAN's authors had it first: layers by their numbers.
    (re.compile(r"^model\.0\."), "conv_first."),
    (re.compile(r"^model\.1\.sub\.(\d+)\.RDB(\d)\.conv(\d)\.0\."), r"body.\1.rdb\2.conv\3."),
    (re.compile(r"^model\.1\.sub\.\d+\.(weight|bias)$"), r"conv_body.\1"),
    # As they had it later.
    (re.compile(r"^RRDB_trunk\.(\d+)\.RDB(\d)\.conv(\d)\."), r"body.\1.rdb\2.conv\3."),
    (re.compile(r"^trunk_conv\."), "conv_body."),
    (re.compile(r"^upconv(\d)\."), r"conv_up\1."),
    (re.compile(r"^HRconv\."), "conv_hr."),
)
NUMBERED = re.compile(r"^model\.(\d+)\.(weight|bias)$")
FURTHEST = 48
UNKNOWN = ModelUnusable("it is no upscaler that is known: neither ESRGAN's network nor the compact one")


@dataclass(frozen=True)
class DenseBlocks:
    """ESRGAN's network. It sees a picture folded `folded` by `folded`, and doubles its sides `doublings` times."""

    features: int
    growth: int
    blocks: int
    doublings: int
    folded: int

    name = "ESRGAN"

    @property
    def margin(self) -> int:
        """Its blocks see further, and there hardly anything. Folded, a pixel of theirs is several of the picture's."""
        return 24 * self.folded

    @property
    def scale(self) -> int:
        """How often as wide and as high a picture becomes."""
        return (1 << self.doublings) // self.folded

    def shapes(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Of all its weights."""
        f, g = self.features, self.growth
        convolutions = [("conv_first", 3 * self.folded**2, f), ("conv_body", f, f)]
        for block in range(self.blocks):
            for dense in (1, 2, 3):
                at = f"body.{block}.rdb{dense}.conv"
                convolutions += [(f"{at}{k + 1}", f + k * g, f if k == 4 else g) for k in range(5)]
        convolutions += [(f"conv_up{k + 1}", f, f) for k in range(self.doublings)]
        for name, taken, given in (*convolutions, ("conv_hr", f, f), ("conv_last", f, 3)):
            yield f"{name}.weight", (given, taken, 3, 3)
            yield f"{name}.bias", (given,)


@dataclass(frozen=True)
class Compact:
    """The compact network: `convolutions` of `features` with PReLU between them, then pixels shuffled to the scale."""

    features: int
    convolutions: int
    scale: int

    name = "Real-ESRGAN, compact"
    folded = 1

    @property
    def margin(self) -> int:
        """As far as it sees."""
        return min(self.convolutions, FURTHEST)

    def shapes(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Of all its weights."""
        last = self.convolutions - 1
        for k in range(self.convolutions):
            given = 3 * self.scale**2 if k == last else self.features
            yield f"body.{2 * k}.weight", (given, self.features if k else 3, 3, 3)
            yield f"body.{2 * k}.bias", (given,)
            if k != last:
                yield f"body.{2 * k + 1}.weight", (self.features,)


Kind = DenseBlocks | Compact


def names_of(shapes: Shapes) -> dict[str, str]:
    """Every tensor's name, and what the networks here call it."""
    prefix = next((one for one in PREFIXES if all(name.startswith(one) for name in shapes)), "")
    plain = {name: name.removeprefix(prefix) for name in shapes}
    numbers = sorted({int(found[1]) for name in plain.values() if (found := NUMBERED.match(name))} - {0})
    tail = dict(zip(numbers, _tail(len(numbers)), strict=True))

    def named(name: str) -> str:
        for pattern, replacement in RENAMED:
            name, changed = pattern.subn(replacement, name)
            if changed:
                return name
        if found := NUMBERED.match(name):
            return f"{tail[int(found[1])]}.{found[2]}"
        return name

    return {name: named(short) for name, short in plain.items()}


def _tail(count: int) -> list[str]:
    """What the numbered layers behind the blocks are: those that double, and two more."""
    return [*(f"conv_up{k + 1}" for k in range(count - 2)), "conv_hr", "conv_last"][-count:] if count else []


def kind_of(shapes: Shapes) -> Kind:
    """The network that has weights of these shapes. Raises ModelUnusable."""
    known = {new: shapes[old] for old, new in names_of(shapes).items()}
    kind = _dense(known) if "conv_first.weight" in known else _compact(known)
    if dict(kind.shapes()) != known:
        raise UNKNOWN
    if kind.scale not in SCALES:
        raise ModelUnusable(f"it multiplies sides by {kind.scale}; by {' or '.join(map(str, SCALES))} is served")
    return kind


def _dense(known: Shapes) -> DenseBlocks:
    try:
        features, taken = known["conv_first.weight"][:2]
        growth = known["body.0.rdb1.conv1.weight"][0]
    except (KeyError, ValueError, IndexError):
        raise UNKNOWN from None
    folded = math.isqrt(taken // 3)
    doublings = sum(name.startswith("conv_up") and name.endswith(".weight") for name in known)
    if folded < 1 or doublings > 3:
        raise UNKNOWN
    blocks = len({name.split(".")[1] for name in known if name.startswith("body.")})
    return DenseBlocks(features, growth, blocks, doublings, folded)


def _compact(known: Shapes) -> Compact:
    convolutions = [name for name, shape in known.items() if name.startswith("body.") and len(shape) == 4]
    try:
        features = known["body.0.weight"][0]
        given = known[f"body.{2 * (len(convolutions) - 1)}.weight"][0]
    except (KeyError, IndexError):
        raise UNKNOWN from None
    return Compact(features, len(convolutions), max(1, math.isqrt(given // 3)))
