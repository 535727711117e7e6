"""The demo against stand-ins for the worker: processes with its command line and just enough of its HTTP."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console

from worker.demo import run
from worker.demo.ready import DemoError

WORKER = """
import http.server, io, json, os, signal, sys, threading
from PIL import Image

buffer = io.BytesIO()
Image.new("RGB", (8, 8), "green").save(buffer, "PNG")
notes = open(os.environ["NOTES"], "a", buffering=1)

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        match self.path:
            case "/health": self.answer({"status": "healthy"})
            case "/ready": self.answer({"ready": True})
            case "/v1/jobs/a/stream":
                self.send_response(200)
                self.send_header("Content-Type", "text/event-stream")
                self.end_headers()
                for number, (name, data) in enumerate(EVENTS, 1):
                    data = {"type": name, "job_id": "a", "eta_s": None, "percent": 0.0} | data
                    self.wfile.write(f"id: {number}\\nevent: {name}\\ndata: {json.dumps(data)}\\n\\n".encode())
                AFTER_EVENTS()
            case "/v1/jobs/a/images/0": self.answer(buffer.getvalue())
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        notes.write("posted " + body["prompt"] + "\\n")
        self.answer(JOB, 202)
    def do_DELETE(self):
        notes.write("cancelled\\n")
        self.answer({}, 202)
    def answer(self, body, status=200):
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_):
        pass

JOB = {
    "job_id": "a", "status": "queued", "position": 0, "eta_s": None, "progress": {"step": 0, "steps": 2}, "params": {},
    "images": [], "warnings": [], "error": None, "timings": {}, "attempt": 0, "created_at": "", "labels": {},
}
PROGRESS = [("queued", {"position": 0}), ("progress", {"step": 1, "steps": 2}), ("progress", {"step": 2, "steps": 2})]
AFTER_EVENTS = lambda: None

def stop(*_):
    notes.write("stopped\\n")
    notes.close()
    os._exit(0)

def serve():
    signal.signal(signal.SIGTERM, stop)
    port = int(sys.argv[sys.argv.index("--port") + 1])
    http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""
DRAWS = """
TIMINGS = {"queue_s": 0.1, "encode_s": 0.2, "denoise_s": 1.25, "decode_s": 0.3, "total_s": 1.85}
IMAGES = [{"index": 0, "url": "/v1/jobs/a/images/0", "seed": 7, "width": 8, "height": 8, "format": "png", "bytes": 9}]
EVENTS = [*PROGRESS, ("completed", {"images": IMAGES, "timings": TIMINGS})]
serve()
"""
JOB_FAILS = """
EVENTS = [*PROGRESS, ("failed", {"code": "nan_output", "message": "the picture is not finite", "retriable": False})]
serve()
"""
NEVER_ENDS = """
def AFTER_EVENTS():
    notes.write("streaming\\n")
    threading.Event().wait()
EVENTS = PROGRESS
serve()
"""
DIES_AT_START = 'sys.exit("no model here")'


@pytest.fixture(autouse=True)
def _notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTES", str(tmp_path / "notes"))
    monkeypatch.setenv("SDW_MODEL", "of somebody else")
    monkeypatch.chdir(tmp_path)


def notes() -> list[str]:
    """What the stand-in has seen."""
    return Path("notes").read_text().splitlines()


def launcher(behaviour: str) -> Path:
    """A program in place of `bin/sd-worker-cpu`."""
    program = Path("stand_in.py").absolute()
    program.write_text(f"{WORKER}\nassert 'SDW_MODEL' not in os.environ\n{behaviour}")
    path = Path("launcher").absolute()
    # A shell in between, as in bin/: the path of a python may hold spaces, which a first line does not allow.
    path.write_text(f"#!/bin/sh\nexec '{sys.executable}' '{program}' \"$@\"\n")
    path.chmod(0o755)
    return path


def run_demo(behaviour: str, *arguments: str) -> str:
    """Run the demo in this process; what it printed."""
    screen = io.StringIO()
    console = Console(file=screen, width=250, markup=False, highlight=False)
    run.run(run.parse_arguments(arguments), launcher(behaviour), console)
    return screen.getvalue()


def test_draws_the_picture_into_the_callers_directory_and_stops_the_worker() -> None:
    printed = run_demo(DRAWS, "a", "[red]", "circle")
    with Image.open("demo.png") as image:
        assert image.convert("RGB").getpixel((4, 4)) == (0, 128, 0)
    assert notes() == ["posted a [red] circle", "stopped"]
    for shown in ("demo.png", "seed", "7", "8 x 8", "denoising", "1.250 s", "1.850 s", "exit status 0"):
        assert shown in printed
    assert printed.splitlines()[-1].endswith("run bin/sd-worker-cpu and open http://127.0.0.1:8600/")


def test_a_failed_job_is_one_line_and_the_worker_is_stopped() -> None:
    with pytest.raises(DemoError, match=r"^the job failed: the picture is not finite \(nan_output\)$"):
        run_demo(JOB_FAILS)
    assert notes()[-1] == "stopped"
    assert not Path("demo.png").exists()


def test_a_worker_that_dies_is_named_with_its_last_words() -> None:
    with pytest.raises(DemoError, match=r"(?s)^the worker ended before it was ready: exit status 1\n.*no model here"):
        run_demo(DIES_AT_START)


def test_a_place_that_cannot_be_written_is_refused_before_a_worker_starts() -> None:
    with pytest.raises(DemoError, match="cannot be written"):
        run_demo(DRAWS, "--out", "nowhere/demo.png")
    assert not Path("notes").exists()


@pytest.mark.parametrize(
    ("flag", "values", "told"),
    [
        ("--steps", ("0", "151", "-1", "x", "1.5", ""), "must be a whole number from 1 to 150"),
        ("--seed", ("-1", "9223372036854775808", "x"), "must be a whole number from 0 to 9223372036854775807"),
    ],
)
def test_a_number_that_no_job_may_have_is_a_wrong_flag(
    capsys: pytest.CaptureFixture[str], flag: str, values: tuple[str, ...], told: str
) -> None:
    for value in values:
        with pytest.raises(SystemExit) as ended:
            run.parse_arguments([flag, value])
        assert ended.value.code == 2
        assert f"argument {flag}: {told}" in capsys.readouterr().err


def test_the_bounds_themselves_may_be_asked_for() -> None:
    for steps, seed in ((1, 0), (150, 2**63 - 1)):
        asked = run.parse_arguments(["--steps", str(steps), "--seed", str(seed)])
        assert (asked.steps, asked.seed) == (steps, seed)


def test_ctrl_c_cancels_the_job_stops_the_worker_and_leaves_no_traceback() -> None:
    program = (
        "import sys; from pathlib import Path; from worker.demo import run; sys.exit(run.main(Path(sys.argv.pop())))"
    )
    stand_in = launcher(NEVER_ENDS)
    os.mkfifo("notes")  # reading it waits for the stand-in
    child = subprocess.Popen(
        [sys.executable, "-c", program, str(stand_in)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(run.REPOSITORY)},
    )
    seen = []
    with Path("notes").open() as lines:
        for line in lines:
            seen.append(line.strip())
            if seen[-1] == "streaming":
                child.send_signal(signal.SIGINT)
    _, errors = child.communicate()
    assert seen == [f"posted {run.DEFAULT_PROMPT}", "streaming", "cancelled", "stopped"]
    assert (child.returncode, errors) == (130, "demo: interrupted; the worker is stopped\n")
