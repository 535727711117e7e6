"""Row 14 on a GPU: what exact mode costs an engine whose rows are all taken, against fast mode with as many rows.

By the steps whose rows are all taken, since while a loop begins and ends exact mode computes rows for nobody. And
whether it keeps its word there: a picture drawn alone has the bytes of the same picture in company.
"""

from __future__ import annotations

import io
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

from PIL import Image as Pictures

from benches.speed.bench import Bench
from benches.speed.engine.gpu import Size
from benches.speed.engine.rig import EngineRig, SilentMeter
from benches.speed.engine.sd15_gpu import QUICK, WHOLE
from benches.speed.outcome import Group, NotMeasured, Outcome
from benches.speed.spread import lost_percent, middle
from shared_worker.device import find_device
from worker.jobs.events import Image

BROKEN = "exact mode is not exact here: the same picture has other pixels in company than alone"


class FullSteps(SilentMeter):
    """Keeps the seconds of the steps that have `rows` rows."""

    def __init__(self, rows: int) -> None:
        self._rows = rows
        self._seconds: list[float] = []

    def stepped(self, seconds: float, rows: int) -> None:
        """On the engine's thread."""
        if rows == self._rows:
            self._seconds.append(seconds)

    def median_s(self) -> float:
        """Of those since it was last asked. Raises NotMeasured if there was none."""
        seconds, self._seconds = self._seconds, []
        if not seconds:
            raise NotMeasured(f"no step had all of {self._rows} rows taken")
        return statistics.median(seconds)


def measure(bench: Bench) -> Outcome:
    """On the device of the run."""
    return price(bench, bench.pick(WHOLE, QUICK))


def price(bench: Bench, size: Size) -> Outcome:
    """Two engines, in turns, once both are warm."""
    device, jobs, rows = find_device(bench.backend), size.jobs(), 2 * size.clients
    drawn: dict[int, list[bytes]] = defaultdict(list)
    exact_steps, fast_steps = FullSteps(rows), FullSteps(rows)

    def keep(job_id: str, images: Sequence[Image]) -> None:
        for image in images:
            drawn[image.seed].append(image.data)

    with tempfile.TemporaryDirectory() as name:
        checkpoint = size.write_and_identify(Path(name) / "model", device.torch_name)
        with (
            EngineRig(checkpoint, device, max_rows=rows, exact=True, keep_images=keep, meter=exact_steps) as exact,
            EngineRig(checkpoint, device, max_rows=rows, meter=fast_steps) as fast,
        ):
            seconds: dict[str, list[float]] = {"exact": [], "fast": []}
            for count in range(size.rounds + 1):
                for taken, rig, steps in zip(seconds.values(), (exact, fast), (exact_steps, fast_steps), strict=True):
                    rig.draw(islice(jobs, size.clients * size.each), at_once=size.clients)
                    median_s = steps.median_s()
                    if count:  # the first round warms
                        taken.append(median_s)
            one, *others = islice(jobs, size.clients)
            company = [replace(other, steps=1 + number % size.steps) for number, other in enumerate(others)]
            exact.draw([one], at_once=1)
            exact.draw([*company, one, *company], at_once=size.clients)
    alone, in_company = (_pixels(data) for data in drawn[one.seed])
    groups = (Group("a step with all rows taken", "s", {name: middle(taken) for name, taken in seconds.items()}),)
    if alone != in_company:
        return Outcome(14, groups=groups, missing={"14.exact": BROKEN})
    told = f"a picture alone and among {len(others)} others of other lengths: the same to the byte"
    return Outcome(14, {"14.exact": middle(lost_percent(seconds["exact"], seconds["fast"]))}, groups, (told,))


def _pixels(data: bytes) -> bytes:
    return Pictures.open(io.BytesIO(data)).tobytes()
