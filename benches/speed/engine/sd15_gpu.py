"""Row 12: an NVIDIA GPU, a model of SD 1.5's size at 512², 16 clients: the engine over B0 and the device's limit."""

from __future__ import annotations

from diffusers import StableDiffusionPipeline

from benches.speed.bench import Bench
from benches.speed.engine.gpu import Size, compare
from benches.speed.engine.synthetic import SD15, TOY, write_sd15
from benches.speed.outcome import Outcome

WHOLE = Size(
    row=12,
    write=write_sd15,
    widths=SD15,
    kind=StableDiffusionPipeline,
    side_px=512,
    clients=16,
    row_tflop=0.803,
    decode_tflop=2.5,
    rounds=4,
    each=6,
)
QUICK = WHOLE.quick(TOY)


def measure(bench: Bench) -> Outcome:
    """On the device of the run."""
    return compare(bench, bench.pick(WHOLE, QUICK))
