"""The command `inspect`: says what a checkpoint or an adapter is, as lines or as JSON, without loading it."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from worker.engine import sampling
from worker.errors import ModelUnusable
from worker.models.registry import BUILTIN
from worker.models.report import report
from worker.models.schedulers import SCHEDULERS


def main(arguments: Sequence[str], program: str = "inspect") -> int:
    """Returns the exit status: 0 if it could be told, 2 with one line on standard error if not."""
    parser = argparse.ArgumentParser(prog=program, description=__doc__, allow_abbrev=False)
    parser.add_argument("model", metavar="FILE|DIR", help="a safetensors file, a diffusers folder, or 'builtin'")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--sha256", action="store_true", help="the checksum for --model-sha256 too; reads everything")
    parser.add_argument(
        "--model-config", metavar="DIR", help="where a file's configurations come from, as when serving"
    )
    asked = parser.parse_args(list(arguments))
    path = BUILTIN if asked.model == "builtin" else Path(asked.model)
    try:
        told = report(
            path,
            asked.model_config,
            samplers=(*sampling.SAMPLERS, *SCHEDULERS),
            read_noise=sampling.read_noise,
            sha256=asked.sha256,
        )
    except ModelUnusable as unusable:
        print(f"{program}: {unusable.detail}", file=sys.stderr)
        return 2
    if asked.json:
        print(json.dumps(told, indent=2, ensure_ascii=False))
    else:
        print("\n".join(lines(path.name, told)))
    return 0


def lines(name: str, told: dict[str, Any]) -> Iterator[str]:
    """A report as a person reads it: what it is, then one line for each thing that is known of it."""
    family = told.get("family")
    what = " ".join(str(word) for word in (family, told.get("variant")) if word)
    yield f"{name}: {told['kind']}{f' ({what})' if what else ''}, {_size(told['bytes'])}"
    for key, value in told.items():
        if key in ("kind", "family", "variant", "bytes") or value in (None, "", (), [], {}):
            continue
        if key == "configuration":  # which says so itself
            yield f"  {value}"
        elif key == "parameters":
            yield f"  parameters: {', '.join(f'{part} {_count(count)}' for part, count in value.items())}"
        else:
            yield f"  {key.replace('_', ' ')}: {_shown(value)}"


def _shown(value: object) -> str:
    match value:
        case bool():
            return "yes" if value else "no"
        case dict():
            return ", ".join(f"{name.replace('_', ' ')} {_shown(one)}" for name, one in value.items())
        case list() | tuple():
            return ", ".join(_shown(one) for one in value)
        case _:
            return str(value)


def _count(parameters: int) -> str:
    return f"{parameters / 1e6:,.1f} M" if parameters >= 100_000 else f"{parameters:,}"


def _size(size_bytes: int) -> str:
    return f"{size_bytes / 1e9:.2f} GB" if size_bytes >= 1e9 else f"{size_bytes / 1e6:.2f} MB"
