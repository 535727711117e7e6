"""`sd-worker generate`: from flags to a job, from its pictures to files."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console

from worker.cli.arguments import PROGRAM, SUFFIXES
from worker.cli.exits import DONE, UsageError, say
from worker.cli.screen import Screen
from worker.client import Client, Completed

STDOUT = "-"
PREVIEW = {"every": 2, "size": 256, "format": "jpeg"}
PLAIN = (
    *("negative_prompt", "width", "height", "steps", "guidance_scale", "sampler", "seed", "image", "mask", "strength"),
    *("priority", "timeout_s", "model"),
)
"""Flags that are fields of a job as they stand."""


def run(asked: argparse.Namespace, client: Client) -> int:
    """Raises UsageError, ClientError. Leaving early, by Ctrl+C too, cancels the job."""
    fields = fields_of(asked)
    if not asked.detach:
        writable(asked)
    prompt = " ".join(asked.prompt)
    client.info()  # a worker that is not there is told at once; one that goes away later is waited for
    if asked.detach:
        job = client.submit(prompt, **fields)
        print(json.dumps(job.raw) if asked.json else job.job_id)
        return DONE
    done = draw(asked, client, prompt, fields)
    files = save(asked, client, done)
    if asked.json:
        print(json.dumps({"job": client.job(done.job_id).raw, "files": files}))
    elif asked.out != STDOUT:
        print("\n".join(files))
    for warning in done.warnings:
        say(PROGRAM, warning)
    return DONE


def draw(asked: argparse.Namespace, client: Client, prompt: str, fields: dict[str, Any]) -> Completed:
    """The drawn job; shows it meanwhile, where somebody looks. Raises ClientError."""
    console = Console(stderr=True, highlight=False, markup=False)
    if asked.quiet or not console.is_terminal:
        return client.run(prompt, cancel_on_exit=True, **fields)
    with Screen(console, pictures=not asked.no_preview) as screen:
        if screen.pictures:
            fields = fields | {"preview": PREVIEW}
        done = client.run(prompt, cancel_on_exit=True, on_event=screen.watch, **fields)
        if screen.pictures:
            screen.show_picture(client.fetch_bytes(done.images[0]))
    return done


def fields_of(asked: argparse.Namespace) -> dict[str, Any]:
    """The fields of the job that the flags ask for. Raises UsageError."""
    fields = {name: value for name in PLAIN if (value := getattr(asked, name)) is not None}
    output: dict[str, Any] = {"format": format_of(asked)}
    if asked.quality is not None:
        output["quality"] = asked.quality
    if asked.no_metadata:
        output["metadata"] = False
    fields |= {"num_images": asked.num_images, "output": output}
    if asked.upscaler is not None and asked.upscale is None:
        raise UsageError("--upscaler goes with --upscale")
    if asked.upscale is not None:
        fields["upscale"] = {"factor": asked.upscale} | ({"upscaler": asked.upscaler} if asked.upscaler else {})
    if asked.lora:
        fields["loras"] = [_scaled(text) for text in asked.lora]
    if asked.control:
        fields["controls"] = [_control(text) for text in asked.control]
    if asked.label:
        fields["labels"] = dict(_pair(text, "--label NAME=VALUE") for text in asked.label)
    for name in ("image", "mask"):
        if name in fields:
            fields[name] = _picture(fields[name])
    return fields


def format_of(asked: argparse.Namespace) -> str:
    """What --format says, else the suffix of -o. Raises UsageError for a suffix that no worker writes."""
    if asked.format is not None:
        return str(asked.format)
    if asked.out in (None, STDOUT):
        return "png"
    form = SUFFIXES.get(Path(asked.out).suffix.lower())
    if form is None:
        raise UsageError(f"-o {asked.out}: give --format, or a name that ends in {', '.join(SUFFIXES)}")
    return form


def writable(asked: argparse.Namespace) -> None:
    """Raises UsageError before anything is drawn that could not be kept."""
    if asked.out == STDOUT:
        if asked.num_images != 1 or asked.json:
            raise UsageError("-o - writes one picture and nothing else")
        return
    out = Path(asked.out or "picture")
    folder = out.parent
    if out.is_dir() or not folder.is_dir() or not os.access(out if out.exists() else folder, os.W_OK):
        raise UsageError(f"{out if asked.out else folder} cannot be written")


def save(asked: argparse.Namespace, client: Client, done: Completed) -> list[str]:
    """The files that the pictures went to. Raises UsageError, ClientError."""
    files = []
    for name, link in zip(names(asked, done), done.images, strict=True):
        data = client.fetch_bytes(link)
        try:
            if name == STDOUT:
                sys.stdout.buffer.write(data)
                sys.stdout.buffer.flush()
            else:
                Path(name).write_bytes(data)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise UsageError(f"{name} cannot be written: {error.strerror}") from None
        files.append(name)
    return files


def names(asked: argparse.Namespace, done: Completed) -> Iterator[str]:
    """Where each picture goes: numbered from 0, as the worker has it, where there are several."""
    if asked.out == STDOUT:
        yield STDOUT
        return
    out = Path(asked.out or f"{done.job_id}.{format_of(asked)}")
    for link in done.images:
        yield str(out if len(done.images) == 1 else out.with_name(f"{out.stem}-{link.index}{out.suffix}"))


def _scaled(text: str) -> dict[str, Any]:
    """NAME or NAME:SCALE; a name may hold a colon itself."""
    name, colon, scale = text.rpartition(":")
    with contextlib.suppress(ValueError):
        if colon and name:
            return {"name": name, "scale": float(scale)}
    return {"name": text}


def _control(text: str) -> dict[str, Any]:
    name, file = _pair(text, "--control NAME[:SCALE]=FILE")
    return _scaled(name) | {"image": _picture(file)}


def _pair(text: str, usage: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise UsageError(f"{text!r} is not as in {usage}")
    return name, value


def _picture(file: str) -> Path:
    try:
        Path(file).open("rb").close()
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror}") from None
    return Path(file)
