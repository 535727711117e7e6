"""Draws one picture through a real worker, as any client would: starts it, posts, follows the stream, stops it.

Knows the command line of the worker, its client and the bounds of a job; of the worker itself it imports nothing else.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import IO, Any

import httpx
from rich.console import Console
from rich.table import Table
from rich.text import Text

from worker.api.request import MAX_SEED, MAX_STEPS
from worker.cli.screen import Screen
from worker.client import BadAnswer, Client, ClientError, JobFields, Unreachable
from worker.client.protocol import picture_of
from worker.demo.ready import DemoError, WorkerTrouble, wait_until_ready

REPOSITORY = Path(__file__).resolve().parents[2]
DEFAULT_PROMPT = "a large green heart on a white background"
STOP_S = 40.0
"""More than the worker's own drain budget."""
STOPPED_BY_SIGTERM = (0, -signal.SIGTERM, 128 + signal.SIGTERM)
LOG_LINES = 15
STUDIO = "more in the studio: run bin/sd-worker-cpu and open http://127.0.0.1:8600/"
PHASES = {
    "queue_s": "waiting",
    "encode_s": "reading the prompt",
    "denoise_s": "denoising",
    "decode_s": "decoding",
    "total_s": "total",
}

Rows = dict[str, Any]


class Interrupted(BaseException):
    """SIGINT, SIGTERM or SIGHUP. Like KeyboardInterrupt, nothing but `main` may swallow it."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum


def main(launcher: Path = REPOSITORY / "bin" / "sd-worker-cpu") -> int:
    """Entry point; returns the exit status: 0 drawn, 1 failed, 128 + signal when interrupted."""
    arguments = parse_arguments(sys.argv[1:])
    console = Console(highlight=False, markup=False)
    if not launcher.exists():  # installed as a package: the console script lies beside python
        launcher = Path(sys.executable).with_name("sd-worker-cpu")
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(signum) is not signal.SIG_IGN:  # that is how nohup works
            signal.signal(signum, _interrupt)
    try:
        run(arguments, launcher, console)
    except DemoError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    except Interrupted as interrupted:
        print("demo: interrupted; the worker is stopped", file=sys.stderr)
        return 128 + interrupted.signum
    return 0


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line; `--help` and bad flags end the process as usual."""
    parser = argparse.ArgumentParser(prog="demo", description="Draw a picture with the built-in model.")
    parser.add_argument("prompt", nargs="*", help=f"what to draw (default: {DEFAULT_PROMPT})")
    parser.add_argument("--out", type=Path, default=Path("demo.png"), metavar="FILE", help="PNG (default: demo.png)")
    parser.add_argument("--seed", type=whole(0, MAX_SEED), help="same seed, same picture (default: random)")
    parser.add_argument("--steps", type=whole(1, MAX_STEPS), help="denoising steps (default: the model's)")
    return parser.parse_args(arguments)


def whole(least: int, most: int) -> Callable[[str], int]:
    """Reads a number that every model takes: what no job may have is refused before a worker starts."""

    def read(text: str) -> int:
        with contextlib.suppress(ValueError):
            if least <= (number := int(text)) <= most:
                return number
        raise argparse.ArgumentTypeError(f"must be a whole number from {least} to {most}")

    return read


def run(arguments: argparse.Namespace, launcher: Path, console: Console) -> None:
    """The whole demo. Raises DemoError; the worker is stopped in any case."""
    out: Path = arguments.out.absolute()
    if out.is_dir() or not os.access(out if out.exists() else out.parent, os.W_OK):
        raise DemoError(f"{out} cannot be written")
    prompt = " ".join(arguments.prompt) or DEFAULT_PROMPT
    fields: JobFields = {"preview": {"every": 2, "size": 128, "format": "jpeg"}}
    if arguments.seed is not None:
        fields["seed"] = arguments.seed
    if arguments.steps is not None:
        fields["steps"] = arguments.steps
    port = free_port()
    with tempfile.TemporaryFile() as log:
        try:
            with running_worker(launcher, port, log) as worker:
                picture, rows = draw(f"http://127.0.0.1:{port}", worker, prompt, fields, console)
                save(picture, out)
                console.print(summary(out, rows))
            if worker.returncode not in STOPPED_BY_SIGTERM:
                raise WorkerTrouble(f"the worker did not stop well: exit status {worker.returncode}")
        except (httpx.HTTPError, Unreachable) as error:
            raise DemoError(f"the connection to the worker was lost ({error})\n{_tail(log)}") from None
        except (WorkerTrouble, BadAnswer) as trouble:
            raise DemoError(f"{trouble}\n{_tail(log)}") from None
        except ClientError as error:
            raise DemoError(str(error)) from None
    console.print(f"worker stopped, exit status {worker.returncode}")
    console.print(STUDIO)


def free_port() -> int:
    """A loopback port that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@contextmanager
def running_worker(launcher: Path, port: int, log: IO[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """A worker process on loopback; SIGTERM at the end, and SIGKILL if that does not help."""
    # The caller's SDW_ variables belong to another worker: they could name its orchestrator or its model.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SDW_")}
    command = [str(launcher), "--model", "builtin", "--host", "127.0.0.1", "--port", str(port)]
    try:
        # A session of its own: Ctrl-C reaches the demo alone, which cancels its job before it stops the worker.
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True
        )
    except OSError as error:
        raise DemoError(f"{launcher} cannot be started: {error.strerror}") from None
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def draw(
    url: str, worker: subprocess.Popen[bytes], prompt: str, fields: JobFields, console: Console
) -> tuple[bytes, Rows]:
    """The finished picture, and what there is to say of it. Raises WorkerTrouble, ClientError."""
    with Screen(console) as screen, Client(url, patience_s=0) as client:
        wait_until_ready(url, worker, screen)
        done = client.run(prompt, cancel_on_exit=True, on_event=screen.watch, **fields)
        link = done.images[0]
        picture = client.fetch_bytes(link)
        picture_of(picture)
        screen.show_picture(picture)
    rows: Rows = {
        "seed": link.seed,
        "size": f"{link.width} x {link.height} px, {len(picture)} bytes",
        "previews": screen.previews,
    }
    rows |= {label: f"{taken:.3f} s" for name, label in PHASES.items() if (taken := getattr(done.timings, name))}
    return picture, rows


def save(picture: bytes, out: Path) -> None:
    """Raises DemoError when there is no room for it."""
    try:
        out.write_bytes(picture)
    except OSError as error:
        raise DemoError(f"{out} cannot be written: {error.strerror}") from None


def summary(out: Path, rows: Rows) -> Table:
    """A table of two columns."""
    table = Table.grid(padding=(0, 2))
    table.add_row("picture", Text(str(out), overflow="fold"))
    for name, value in rows.items():
        table.add_row(name, str(value))
    return table


def _interrupt(signum: int, _frame: FrameType | None) -> None:
    # Once is enough: a second Ctrl-C must not leave a worker behind, and stopping it is bounded.
    for handled in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(handled, signal.SIG_IGN)
    raise Interrupted(signum)


def _tail(log: IO[bytes]) -> str:
    log.seek(0)
    lines = log.read().decode("utf-8", "replace").splitlines()[-LOG_LINES:]
    return "\n".join(["the worker's last lines:", *(f"  {line}" for line in lines)] if lines else ["its log is empty"])
