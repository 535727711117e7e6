"""Row 14 on a GPU: what exact mode costs an engine whose rows are all taken, against fast mode with as many rows.

And whether it keeps its word there: a picture drawn alone has the bytes of the same picture in company.
"""

from __future__ import annotations

import io
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

from PIL import Image as Pictures

from benches.speed.bench import Bench
from benches.speed.engine.arms import Ours
from benches.speed.engine.gpu import Size
from benches.speed.engine.rig import EngineRig
from benches.speed.engine.sd15_gpu import QUICK, WHOLE
from benches.speed.outcome import Group, Outcome
from benches.speed.spread import lost_percent, middle
from shared_worker.device import find_device
from worker.jobs.events import Image

BROKEN = "exact mode is not exact here: the same picture has other pixels in company than alone"


def measure(bench: Bench) -> Outcome:
    """On the device of the run."""
    return price(bench, bench.pick(WHOLE, QUICK))


def price(bench: Bench, size: Size) -> Outcome:
    """Two engines, in turns, once both are warm."""
    device, jobs, rows = find_device(bench.backend), size.jobs(), 2 * size.clients
    drawn: dict[int, list[bytes]] = defaultdict(list)

    def keep(job_id: str, images: Sequence[Image]) -> None:
        for image in images:
            drawn[image.seed].append(image.data)

    with tempfile.TemporaryDirectory() as name:
        checkpoint = size.write_and_identify(Path(name) / "model", device.torch_name)
        with (
            EngineRig(checkpoint, device, max_rows=rows, exact=True, keep_images=keep) as exact,
            EngineRig(checkpoint, device, max_rows=rows) as fast,
        ):
            seconds: dict[str, list[float]] = {"exact": [], "fast": []}
            for count in range(size.rounds + 1):
                for taken, rig in zip(seconds.values(), (exact, fast), strict=True):
                    rate = Ours(rig).images_per_s(jobs, clients=size.clients, each=2)
                    if count:  # the first round warms
                        taken.append(1 / rate)
            one, *others = islice(jobs, size.clients)
            company = [replace(other, steps=1 + number % size.steps) for number, other in enumerate(others)]
            exact.draw([one], at_once=1)
            exact.draw([*company, one, *company], at_once=size.clients)
    alone, in_company = (_pixels(data) for data in drawn[one.seed])
    groups = (Group("a picture at full load", "s", {name: middle(taken) for name, taken in seconds.items()}),)
    if alone != in_company:
        return Outcome(14, groups=groups, missing={"14.exact": BROKEN})
    told = f"a picture alone and among {len(others)} others of other lengths: the same to the byte"
    return Outcome(14, {"14.exact": middle(lost_percent(seconds["exact"], seconds["fast"]))}, groups, (told,))


def _pixels(data: bytes) -> bytes:
    return Pictures.open(io.BytesIO(data)).tobytes()
