"""Imports diffusers, loads the pipeline of a folder, writes the moment (monotonic clock, seconds) to a file, ends."""

from __future__ import annotations

import sys
import time
from pathlib import Path


def main() -> None:
    """The import is part of what is measured."""
    from diffusers import StableDiffusionPipeline

    StableDiffusionPipeline.from_pretrained(sys.argv[1], local_files_only=True)
    Path(sys.argv[2]).write_text(str(time.monotonic()), encoding="utf-8")


if __name__ == "__main__":
    main()
