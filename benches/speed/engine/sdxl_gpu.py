"""Row 13: an NVIDIA GPU, a model of SDXL's size at 1024², 8 clients: the engine over B0, B1 and the device's limit."""

from __future__ import annotations

from diffusers import StableDiffusionXLPipeline

from benches.speed.bench import Bench
from benches.speed.engine.gpu import Size, compare
from benches.speed.engine.synthetic import SDXL, TOY_XL, write_sdxl
from benches.speed.outcome import Outcome

WHOLE = Size(
    row=13,
    write=write_sdxl,
    widths=SDXL,
    kind=StableDiffusionXLPipeline,
    side_px=1024,
    clients=8,
    row_tflop=6.761,
    decode_tflop=10.5,
    rounds=2,
    each=4,
)
QUICK = WHOLE.quick(TOY_XL)


def measure(bench: Bench) -> Outcome:
    """On the device of the run."""
    return compare(bench, bench.pick(WHOLE, QUICK))
