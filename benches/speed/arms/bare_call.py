"""A pipeline and nothing around it: one job a line on stdin as JSON, the seconds of its call on stdout."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from benches.speed.arms.pipeline import draw, load
from benches.speed.job import Job


def main() -> None:
    """Until stdin ends. Libraries may write to stdout, so the answers have it for themselves."""
    answers, sys.stdout = sys.stdout, sys.stderr
    pipeline = load(Path(sys.argv[1]))
    for line in sys.stdin:
        job = Job(**json.loads(line))
        began = time.monotonic()
        draw(pipeline, [job])
        print(time.monotonic() - began, file=answers, flush=True)


if __name__ == "__main__":
    main()
