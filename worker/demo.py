"""Draws one picture through a real worker, as any client would: starts it, posts, follows the stream, stops it.

Knows the HTTP contract and the command line of the worker; imports nothing of it.
"""

from __future__ import annotations

import argparse
import base64
import codecs
import io
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import IO, Any, NamedTuple

import httpx
from PIL import Image
from rich.color import Color
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.style import Style
from rich.table import Table
from rich.text import Text

Json = dict[str, Any]

REPOSITORY = Path(__file__).resolve().parent.parent
DEFAULT_PROMPT = "a large green heart on a white background"
PREVIEW = {"every": 2, "size": 128, "format": "jpeg"}
START_S = 300.0
POLL_S = 0.1
SILENCE_S = 60.0
"""The stream sends a comment every 15 s: one that is silent for so long is dead."""
STOP_S = 40.0
"""More than the worker's own drain budget."""
STOPPED_BY_SIGTERM = (0, -signal.SIGTERM, 128 + signal.SIGTERM)
LOG_LINES = 15
PHASES = {"queue_s": "waiting", "encode_s": "reading the prompt", "denoise_s": "denoising", "decode_s": "decoding"}
SMALLEST_PICTURE, LARGEST_PICTURE = 24, 64  # columns


class DemoError(Exception):
    """The demo cannot go on; its text is the line that the user reads."""


class WorkerTrouble(DemoError):
    """The worker itself is at fault, so its log is worth showing."""


class Interrupted(BaseException):
    """SIGINT, SIGTERM or SIGHUP. Like KeyboardInterrupt, nothing but `main` may swallow it."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum


class ServerSentEvent(NamedTuple):
    """One event of a stream; `id` is the last one that was sent, as the standard has it."""

    id: str
    name: str
    data: str


def main(launcher: Path = REPOSITORY / "bin" / "sd-worker-cpu") -> int:
    """Entry point; returns the exit status: 0 drawn, 1 failed, 128 + signal when interrupted."""
    arguments = parse_arguments(sys.argv[1:])
    console = Console(highlight=False, markup=False)
    if not launcher.exists():  # installed as a package: the console script lies beside python
        launcher = Path(sys.executable).with_name("sd-worker-cpu")
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
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
    parser.add_argument("--seed", type=int, help="same seed, same picture (default: random)")
    parser.add_argument("--steps", type=int, help="denoising steps (default: the model's)")
    return parser.parse_args(arguments)


def run(arguments: argparse.Namespace, launcher: Path, console: Console) -> None:
    """The whole demo. Raises DemoError; the worker is stopped in any case."""
    out: Path = arguments.out.absolute()
    if out.is_dir() or not os.access(out if out.exists() else out.parent, os.W_OK):
        raise DemoError(f"{out} cannot be written")
    body = {"prompt": " ".join(arguments.prompt) or DEFAULT_PROMPT, "preview": PREVIEW}
    body |= {name: value for name in ("seed", "steps") if (value := getattr(arguments, name)) is not None}
    port = free_port()
    with tempfile.TemporaryFile() as log:
        try:
            with running_worker(launcher, port, log) as worker:
                # Proxies are for the world outside; the worker is on loopback.
                with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
                    picture, rows = draw(client, worker, body, console)
                save(picture, out)
                console.print(summary(out, rows))
            if worker.returncode not in STOPPED_BY_SIGTERM:
                raise WorkerTrouble(f"the worker did not stop well: exit status {worker.returncode}")
        except httpx.HTTPError as error:
            raise WorkerTrouble(f"{_lost(error)}\n{_tail(log)}") from None
        except WorkerTrouble as trouble:
            raise DemoError(f"{trouble}\n{_tail(log)}") from None
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise DemoError(f"the worker's answer is not what the contract says ({error!r})") from None
    console.print(f"worker stopped, exit status {worker.returncode}")


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


def draw(client: httpx.Client, worker: subprocess.Popen[bytes], body: Json, console: Console) -> tuple[bytes, Json]:
    """The finished picture, and what there is to say of it."""
    with Screen(console) as screen:
        wait_until_ready(client, worker, screen)
        job = accepted(client.post("/v1/jobs", json=body)).json()
        try:
            completed, previews = follow(client, job["sse_url"], screen)
        except BaseException:
            with suppress(httpx.HTTPError):
                client.delete(f"/v1/jobs/{job['job_id']}", timeout=2)
            raise
        image = completed["images"][0]
        picture = accepted(client.get(image["url"])).content
        screen.show_picture(picture)
    timings: Json = completed["timings"]
    rows: Json = {
        "seed": image["seed"],
        "size": f"{image['width']} x {image['height']} px, {len(picture)} bytes",
        "previews": previews,
    }
    rows |= {label: f"{timings[name]:.3f} s" for name, label in PHASES.items() if timings.get(name) is not None}
    rows["total"] = f"{timings['total_s']:.3f} s"
    return picture, rows


def wait_until_ready(client: httpx.Client, worker: subprocess.Popen[bytes], screen: Screen) -> None:
    """Returns when the model is loaded. Raises WorkerTrouble when it never will be."""
    deadline = time.monotonic() + START_S
    path = "/health"
    while time.monotonic() < deadline:
        if worker.poll() is not None:
            raise WorkerTrouble(f"the worker ended before it was ready: exit status {worker.returncode}")
        with suppress(httpx.TransportError):  # the port is not open yet
            response = client.get(path)
            if response.is_success and path == "/ready":
                return
            if response.is_success:
                path = "/ready"
                continue
            state = response.json()
            if state.get("reason") == "failed":
                raise WorkerTrouble("the worker could not load its model")
            progress = state.get("progress")
            screen.show("loading", progress, 1.0 if progress else None, "the model")
        time.sleep(POLL_S)
    raise WorkerTrouble(f"the worker was not ready after {START_S:.0f} s")


def follow(client: httpx.Client, url: str, screen: Screen) -> tuple[Json, int]:
    """Shows the stream; the data of its `completed`, and how many previews came. Raises DemoError at any other end."""
    previews = 0
    with client.stream("GET", url, timeout=httpx.Timeout(10, read=SILENCE_S)) as response:
        if not response.is_success:
            response.read()
        accepted(response)
        for event in read_events(response.iter_bytes()):
            data: Json = json.loads(event.data)
            match event.name:
                case "queued":
                    screen.show("waiting", None, None, f"{data['position']} ahead")
                case "progress":
                    screen.show(
                        "drawing", data["step"], data["steps"], f"{data['step']}/{data['steps']}, {previews} previews"
                    )
                case "preview":
                    previews += 1
                    screen.show_picture(base64.b64decode(data["image"]))
                case "completed":
                    screen.show("drawn", 1, 1, f"{previews} previews")
                    return data, previews
                case "failed":
                    raise DemoError(f"the job failed: {data['message']} ({data['code']})")
                case "cancelled":
                    raise DemoError(f"the job was cancelled ({data['reason']})")
    raise DemoError("the stream ended before the job did")


def read_events(chunks: Iterable[bytes]) -> Iterator[ServerSentEvent]:
    """Server-Sent Events out of bytes that may be cut anywhere, as the HTML standard reads them."""
    # Lines end at CR, LF or CRLF and nowhere else; str.splitlines would also cut at U+2028 inside the data.
    decoder = io.IncrementalNewlineDecoder(codecs.getincrementaldecoder("utf-8-sig")("replace"), translate=True)
    rest, last_id, name, data = "", "", "", list[str]()
    for chunk in chunks:
        *lines, rest = (rest + decoder.decode(chunk)).split("\n")
        for line in lines:
            if not line:
                if data:
                    yield ServerSentEvent(last_id, name or "message", "\n".join(data))
                name, data = "", []
                continue
            field, _, value = line.partition(":")  # a comment is a line whose field has no name
            value = value.removeprefix(" ")
            match field:
                case "data":
                    data.append(value)
                case "event":
                    name = value
                case "id" if "\0" not in value:
                    last_id = value


def accepted(response: httpx.Response) -> httpx.Response:
    """The response, if it is a success. Raises DemoError with what the problem+json says."""
    if response.is_success:
        return response
    try:
        problem = response.json()
        faults = [f"{fault['field']}: {fault['message']}" for fault in problem.get("errors") or []]
        reason = "; ".join(faults) or problem["detail"]
    except (ValueError, KeyError, TypeError, AttributeError):
        reason = response.reason_phrase
    raise DemoError(f"the worker refused: {reason} ({response.status_code})")


def save(picture: bytes, out: Path) -> None:
    """Raises DemoError when it is no picture or there is no room for it."""
    try:
        with Image.open(io.BytesIO(picture)) as image:
            image.load()
    except OSError:
        raise DemoError("what the worker sent is no picture") from None
    try:
        out.write_bytes(picture)
    except OSError as error:
        raise DemoError(f"{out} cannot be written: {error.strerror}") from None


def summary(out: Path, rows: Json) -> Table:
    """A table of two columns."""
    table = Table.grid(padding=(0, 2))
    table.add_row("picture", Text(str(out), overflow="fold"))
    for name, value in rows.items():
        table.add_row(name, str(value))
    return table


class Screen:
    """What the terminal shows: one bar and, where there are room and colours, the picture as it becomes clear."""

    def __init__(self, console: Console) -> None:
        self._console = console
        columns = (TextColumn("{task.description:<8}"), BarColumn(), TextColumn("{task.fields[note]}", markup=False))
        self._bar = Progress(*columns, TimeElapsedColumn(), console=console)
        self._task = self._bar.add_task("starting", total=None, note="the worker")
        self._live = Live(self._bar, console=console)
        room = min(LARGEST_PICTURE, console.width, 2 * (console.height - 4))
        coloured = console.is_terminal and console.color_system is not None and not console.options.ascii_only
        self._width = room if coloured and room >= SMALLEST_PICTURE else 0

    def __enter__(self) -> Screen:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()
        if not self._console.is_interactive:  # there the bar is written once, without the end of its line
            self._console.print()

    def show(self, phase: str, completed: float | None, total: float | None, note: str) -> None:
        """Move the bar; as long as nothing has a total it only says that something goes on."""
        self._bar.update(self._task, description=phase, completed=completed or 0, total=total, note=note)

    def show_picture(self, encoded: bytes) -> None:
        """Put this picture under the bar."""
        if self._width:
            with Image.open(io.BytesIO(encoded)) as image:
                self._live.update(Group(self._bar, half_blocks(image, self._width)))


def half_blocks(image: Image.Image, width: int) -> Text:
    """The picture `width` characters wide; each character shows two pixels, one above the other."""
    height = max(1, round(image.height / image.width * width / 2)) * 2
    pixels = image.convert("RGB").resize((width, height)).tobytes()  # [height, width, 3]
    text = Text()
    for row in range(0, height, 2):
        for column in range(width):
            top, bottom = (3 * ((row + below) * width + column) for below in (0, 1))
            colours = [Color.from_rgb(*pixels[start : start + 3]) for start in (top, bottom)]
            text.append("▀", Style(color=colours[0], bgcolor=colours[1]))
        text.append("\n")
    return text


def _interrupt(signum: int, _frame: FrameType | None) -> None:
    # Once is enough: a second Ctrl-C must not leave a worker behind, and stopping it is bounded.
    for handled in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(handled, signal.SIG_IGN)
    raise Interrupted(signum)


def _lost(error: httpx.HTTPError) -> str:
    return f"the connection to the worker was lost ({type(error).__name__})"


def _tail(log: IO[bytes]) -> str:
    log.seek(0)
    lines = log.read().decode("utf-8", "replace").splitlines()[-LOG_LINES:]
    return "\n".join(["the worker's last lines:", *(f"  {line}" for line in lines)] if lines else ["its log is empty"])


if __name__ == "__main__":
    sys.exit(main())
