"""The words and flags of `sd-worker`."""

from __future__ import annotations

import argparse
from pathlib import Path

from worker import __version__

PROGRAM = "sd-worker"
EPILOG = """The worker's address comes from --url, else from SDW_URL; a token from --token-file, else from SDW_TOKEN.
Exit status: 0 done, 1 the job failed, 2 wrong usage or a file that cannot be read or written, 3 the worker refused,
4 no worker answers, 5 the job was cancelled, 130 interrupted."""
SUFFIXES = {".png": "png", ".webp": "webp", ".jpg": "jpeg", ".jpeg": "jpeg"}


def parser() -> argparse.ArgumentParser:
    """Errors of usage end the process with status 2, as argparse has it."""
    whole = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Pictures from a running worker, and what it is doing.",
        epilog=EPILOG,
        allow_abbrev=False,
    )
    whole.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    commands = whole.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, told: str) -> argparse.ArgumentParser:
        one = commands.add_parser(name, help=told, description=f"{told[0].upper()}{told[1:]}.", allow_abbrev=False)
        one.epilog = EPILOG
        one.add_argument("--url", help="the worker's address (default: http://127.0.0.1:8600)")
        one.add_argument("--token-file", type=Path, metavar="FILE", help="its first line is sent as bearer token")
        one.add_argument("--json", action="store_true", help="print what a program can read")
        return one

    _generate(command("generate", "draw a picture"))
    stream = command("stream", "follow a job until its end")
    stream.add_argument("job_id", metavar="ID")
    stream.add_argument("--after", type=int, default=0, metavar="N", help="continue behind event N")
    _patience(stream)
    jobs = command("jobs", "list the jobs that the worker knows, newest first")
    jobs.add_argument("--status", choices=["queued", "running", "completed", "failed", "cancelled"])
    jobs.add_argument("--limit", type=int, default=20, metavar="N", help="at most so many (default: 20)")
    cancel = command("cancel", "cancel jobs")
    cancel.add_argument("job_id", nargs="+", metavar="ID")
    command("info", "show what the worker is and offers")
    # These two read the rest of the line themselves; they stand here for --help.
    commands.add_parser("inspect", help="say what a checkpoint or an adapter is, without a worker", add_help=False)
    commands.add_parser("serve", help="be a worker: --backend cpu|cuda|mps and a worker's flags", add_help=False)
    return whole


def _generate(one: argparse.ArgumentParser) -> None:
    one.add_argument("prompt", nargs="+", metavar="PROMPT")
    one.add_argument(
        "-o",
        "--out",
        metavar="FILE",
        help="where the picture goes, in the format of its suffix; - is standard output (default: the job's id; of "
        "several pictures each gets its number)",
    )
    one.add_argument("--negative", dest="negative_prompt", metavar="TEXT", help="what shall not be there")
    for name, told in (("width", "pixels"), ("height", "pixels"), ("steps", "denoising steps")):
        one.add_argument(f"--{name}", type=int, metavar="N", help=told)
    one.add_argument("--guidance", dest="guidance_scale", type=float, metavar="X", help="how closely it is followed")
    one.add_argument("--sampler", metavar="NAME", help="one of those that 'info' lists")
    one.add_argument("--seed", type=int, metavar="N", help="same seed, same picture (default: random)")
    one.add_argument("-n", "--count", dest="num_images", type=int, default=1, metavar="N", help="number of pictures")
    one.add_argument("--image", metavar="FILE", help="draw from this picture")
    one.add_argument("--mask", metavar="FILE", help="with --image: draw only where this is white")
    one.add_argument("--strength", type=float, metavar="X", help="how much of --image is given up, to 1")
    one.add_argument("--upscale", type=int, choices=[2, 4], help="make --image so many times as wide and high")
    one.add_argument("--upscaler", metavar="NAME", help="what --upscale goes by, one of those that 'info' lists")
    one.add_argument("--lora", action="append", metavar="NAME[:SCALE]", help="an adapter; may be repeated")
    one.add_argument(
        "--control", action="append", metavar="NAME[:SCALE]=FILE", help="a ControlNet and its picture; may be repeated"
    )
    one.add_argument("--format", choices=["png", "webp", "jpeg"], help="of the file (default: what -o says, else png)")
    one.add_argument("--quality", type=int, metavar="N", help="of WebP and JPEG, 1 to 100")
    one.add_argument("--no-metadata", action="store_true", help="do not write the settings into the file")
    one.add_argument("--priority", choices=["low", "normal", "high"])
    one.add_argument("--timeout", dest="timeout_s", type=float, metavar="S", help="cancel what is not done by then")
    one.add_argument("--model", metavar="ID", help="draw with this model or not at all")
    one.add_argument("--label", action="append", metavar="NAME=VALUE", help="kept with the job; may be repeated")
    one.add_argument("--detach", action="store_true", help="print the job's id and do not wait for it")
    one.add_argument("--quiet", action="store_true", help="show no progress")
    one.add_argument("--no-preview", action="store_true", help="show no picture in the terminal")
    _patience(one)


def _patience(one: argparse.ArgumentParser) -> None:
    one.add_argument(
        "--patience",
        type=float,
        default=60.0,
        metavar="S",
        help="how long a worker may be gone meanwhile (default: 60)",
    )
