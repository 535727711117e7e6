"""What is claimed, row by row: the figure, its floor and its aim. Knows nothing of how a figure is come by."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Claim:
    """One figure of one row. `more` is better, or less is; `aim` is None where the floor is all that is asked."""

    key: str
    what: str
    unit: str
    floor: float
    aim: float | None
    more: bool

    @property
    def row(self) -> int:
        """The number before the point of the key."""
        return int(self.key.partition(".")[0])

    def holds(self, value: float) -> bool:
        """Whether `value` is on the right side of the floor, or on it."""
        return value >= self.floor if self.more else value <= self.floor

    def reached(self, value: float) -> bool:
        """Whether `value` is on the right side of the aim, or on it; False where there is none."""
        return self.aim is not None and (value >= self.aim if self.more else value <= self.aim)


def _more(key: str, what: str, unit: str, floor: float, aim: float | None) -> Claim:
    return Claim(key, what, unit, floor, aim, more=True)


def _less(key: str, what: str, unit: str, floor: float, aim: float | None) -> Claim:
    return Claim(key, what, unit, floor, aim, more=False)


CLAIMS = (
    _more("1.b0", "equal jobs, 8 clients: images/s over B0", "x", 2.0, 3.0),
    _more("1.b2", "equal jobs, 8 clients: images/s over B2", "x", 1.0, 1.3),
    _more("1.litserve", "equal jobs, 8 clients: images/s over LitServe", "x", 1.0, 1.3),
    _less("2.b2", "mixed step counts: mean latency against B2", "x", 0.7, 0.5),
    _less("3.cost", "engine's cost of a job-step beyond the model call", "µs", 300.0, 100.0),
    _less("4.latency", "one client: latency against a bare pipeline call", "x", 1.03, 0.95),
    _less("5.first", "POST to first progress beside 8 jobs, own encoding taken off, p99", "steps", 2.0, 1.5),
    _less("6.freed", "steps that a job still makes after its cancel is answered, the most seen", "steps", 1.0, None),
    _more("7.mixed", "mixed shapes: throughput over the work-weighted single-shape figure", "x", 0.90, 0.95),
    _less("8.wire", "end of a step to its event at the client, p99", "ms", 15.0, 5.0),
    _less("9.readers", "64 readers of previews: throughput lost against no readers", "%", 2.0, 1.0),
    _more("10.fp32", "CPU in bf16, SD 1.5 at 256², one client: images/s over B0 in fp32", "x", 3.0, 4.0),
    _more("10.batch", "CPU in bf16, SD 1.5 at 256²: images/s of 4 clients over 1", "x", 1.6, 1.8),
    _less("11.http", "process start until HTTP answers", "s", 1.0, 0.5),
    _less("11.ready", "process start until ready, against a bare load of the pipeline", "x", 1.1, 0.8),
    _more("12.b0", "NVIDIA GPU, SD 1.5 at 512², 16 clients: images/s over B0", "x", 4.0, 6.0),
    _more("12.limit", "NVIDIA GPU, SD 1.5 at 512²: share of the matrix rate's limit", "x", 0.40, 0.55),
    _more("13.b0", "NVIDIA GPU, SDXL at 1024², 8 clients: images/s over B0", "x", 2.5, 3.2),
    _more("13.b1", "NVIDIA GPU, SDXL at 1024², 8 clients: images/s over B1", "x", 1.6, 2.0),
    _more("13.limit", "NVIDIA GPU, SDXL at 1024²: share of the matrix rate's limit", "x", 0.50, 0.60),
    _less("14.exact", "exact mode at full load: throughput lost against fast", "%", 10.0, 3.0),
)
ROWS = tuple(sorted({claim.row for claim in CLAIMS}))


def claims_of(row: int) -> tuple[Claim, ...]:
    """The claims of one row, in order."""
    return tuple(claim for claim in CLAIMS if claim.row == row)
