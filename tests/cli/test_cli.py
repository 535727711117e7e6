"""The command line against whole workers: what it writes, where, and how it ends."""

from __future__ import annotations

import importlib
import io
import json
import os
import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from tests.client.between import Answers, standing
from tests.conftest import eventually
from tests.fakes import FACTS, FailsAtStep, StepByStep, paint
from tests.serving import ServedWorker
from worker import __version__
from worker.cli import arguments, exits
from worker.cli.main import main
from worker.cli.screen import Screen
from worker.client import Client, ClientError, errors
from worker.jobs.params import Task

Serve = Callable[..., ServedWorker]
Told = tuple[int, str, str]


@pytest.fixture
def sd(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Callable[..., Told]:
    """Runs a command in an empty folder; its status and what it wrote."""
    monkeypatch.chdir(tmp_path)

    def run(worker: ServedWorker | str, *words: str) -> Told:
        monkeypatch.setenv("SDW_URL", worker if isinstance(worker, str) else worker.url)
        capfd.readouterr()
        try:
            status = main(words)
        except SystemExit as ended:  # argparse
            status = int(str(ended.code))
        told = capfd.readouterr()
        return status, told.out, told.err

    return run


def pixels(file: str) -> np.ndarray:
    with Image.open(file) as image:
        return np.asarray(image.convert("RGB"))


def test_a_picture_goes_into_a_file_and_its_name_to_standard_output(
    instant: ServedWorker, sd: Callable[..., Told]
) -> None:
    assert sd(instant, "generate", "a red circle", "-o", "out.png", "--seed", "7", "--width", "96") == (
        0,
        "out.png\n",
        "",
    )
    assert np.array_equal(pixels("out.png"), paint(7, 96, 64))


def test_every_field_has_its_flag(serve: Serve, sd: Callable[..., Told]) -> None:
    worker = serve(facts=replace(FACTS, tasks=tuple(Task)))
    Image.new("RGB", (96, 64)).save("picture.png")
    Image.new("L", (96, 64), 255).save("mask.png")
    status, out, err = sd(
        worker,
        *("generate", "a", "red", "circle", "--negative", "blue", "--width", "72", "--height", "80", "--steps", "3"),
        *("--guidance", "2.5", "--sampler", "ddim", "--seed", "9", "-n", "2", "--image", "picture.png"),
        *("--mask", "mask.png", "--strength", "0.75", "--format", "jpeg", "--quality", "70", "--no-metadata"),
        *("--priority", "high", "--timeout", "30", "--model", "fake", "--label", "order=17", "--json"),
    )
    assert (status, err) == (0, "")
    told = json.loads(out)
    job, params = told["job"], told["job"]["params"]
    assert told["files"] == [f"{job['job_id']}-{index}.jpeg" for index in (0, 1)]
    assert pixels(told["files"][1]).shape == (80, 72, 3)
    fields = {
        "task": "inpainting",
        "prompt": "a red circle",
        "negative_prompt": "blue",
        "width": 72,
        "height": 80,
        "steps": 3,
        "guidance_scale": 2.5,
        "sampler": "ddim",
        "seed": 9,
        "num_images": 2,
        "strength": 0.75,
        "priority": "high",
        "timeout_s": 30.0,
    }
    assert {name: params[name] for name in fields} == fields
    assert params["output"] == {"format": "jpeg", "quality": 70, "inline": False, "metadata": False}
    assert job["labels"] == {"order": "17"}


@pytest.mark.parametrize(
    ("words", "loras"),
    [
        (["--lora", "ink"], [{"name": "ink"}]),
        (["--lora", "ink:0.5", "--lora", "a:b:-1"], [{"name": "ink", "scale": 0.5}, {"name": "a:b", "scale": -1.0}]),
        (["--lora", "a:b"], [{"name": "a:b"}]),
    ],
)
def test_adapters_and_their_scales(words: list[str], loras: list[dict[str, object]]) -> None:
    from worker.cli.generate import fields_of

    asked = arguments.parser().parse_args(["generate", "a red circle", *words])
    assert fields_of(asked)["loras"] == loras


def test_what_makes_a_picture_larger() -> None:
    from worker.cli.generate import fields_of

    asked = arguments.parser().parse_args(["generate", "x", "--upscale", "4", "--upscaler", "tiles"])
    assert fields_of(asked)["upscale"] == {"factor": 4, "upscaler": "tiles"}


def test_controls_and_their_pictures(tmp_path: Path) -> None:
    from worker.cli.generate import fields_of

    file = tmp_path / "edges.png"
    file.touch()
    asked = arguments.parser().parse_args(["generate", "x", "--control", f"canny:0.5={file}"])
    assert fields_of(asked)["controls"] == [{"name": "canny", "scale": 0.5, "image": file}]


@pytest.mark.parametrize(("name", "form"), [("a.webp", "WEBP"), ("a.JPG", "JPEG"), ("a.png", "PNG")])
def test_the_suffix_says_the_format(instant: ServedWorker, sd: Callable[..., Told], name: str, form: str) -> None:
    assert sd(instant, "generate", "x", "-o", name)[0] == 0
    with Image.open(name) as image:
        assert image.format == form


def test_several_pictures_are_numbered(instant: ServedWorker, sd: Callable[..., Told]) -> None:
    assert sd(instant, "generate", "x", "-o", "x.png", "--count", "2", "--seed", "4")[1] == "x-0.png\nx-1.png\n"
    assert np.array_equal(pixels("x-1.png"), paint(5, 64, 64))


def test_a_picture_goes_into_a_pipe(instant: ServedWorker) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "worker.cli", "generate", "x", "-o", "-", "--url", instant.url],
        capture_output=True,
        check=True,
    )
    with Image.open(io.BytesIO(done.stdout)) as image:
        assert (image.format, image.size, done.stderr) == ("PNG", (64, 64), b"")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["-o", "out.bmp"], "-o out.bmp: give --format, or a name that ends in .png, .webp, .jpg, .jpeg"),
        (["-o", "nowhere/out.png"], "nowhere/out.png cannot be written"),
        (["-o", "."], "-o .: give --format, or a name that ends in .png, .webp, .jpg, .jpeg"),
        (["-o", "-", "-n", "2"], "-o - writes one picture and nothing else"),
        (["--image", "nothing.png"], "nothing.png cannot be read: No such file or directory"),
        (["--upscaler", "tiles"], "--upscaler goes with --upscale"),
        (["--label", "order"], "'order' is not as in --label NAME=VALUE"),
        (["--token-file", "nothing"], "--token-file cannot be read"),
        (["--url", "somewhere"], "'somewhere' is not the address of a worker, such as http://127.0.0.1:8600"),
    ],
)
def test_wrong_usage_is_one_line_before_anything_is_drawn(
    serve: Serve, sd: Callable[..., Told], words: list[str], said: str
) -> None:
    worker = serve()
    assert sd(worker, "generate", "x", *words) == (2, "", f"sd-worker: {said}\n")
    assert worker.client.get("/v1/jobs").json()["jobs"] == []


def test_words_that_are_none(instant: ServedWorker, sd: Callable[..., Told]) -> None:
    for words in (
        [],
        ["paint"],
        ["generate"],
        ["generate", "x", "--colour", "red"],
        ["generate", "x", "--steps", "few"],
    ):
        status, out, err = sd(instant, *words)
        assert (status, out) == (2, "")
        assert "usage: sd-worker" in err


def test_a_file_that_is_no_picture(instant: ServedWorker, sd: Callable[..., Told]) -> None:
    Path("notes.png").write_text("nothing to see")
    status, out, err = sd(instant, "generate", "x", "--image", "notes.png")
    assert (status, out, err) == (2, "", "sd-worker: notes.png is no picture that can be read\n")


def test_refused_failed_and_nobody_there(serve: Serve, sd: Callable[..., Told]) -> None:
    worker = serve(FailsAtStep(2), tokens=["secret"])
    assert sd(worker, "info") == (3, "", "sd-worker: A valid bearer token is required (unauthorized, 401)\n")
    Path("tokens").write_text("# mine\nsecret\n")
    token = ("--token-file", "tokens")
    status, _, err = sd(worker, "generate", "x", "--steps", "0", *token)
    assert (status, err.startswith("sd-worker: steps: ")) == (3, True)
    status, _, err = sd(worker, "generate", "x", *token)
    assert (status, "(engine_failed)" in err, err.count("\n")) == (1, True, 1)
    assert not list(Path().glob("*.png"))
    nobody = "http://127.0.0.1:1"
    for words in (["info"], ["generate", "x"], ["jobs"], ["cancel", "a"], ["stream", "a"]):
        assert sd(nobody, *words) == (4, "", f"sd-worker: no worker answers at {nobody} (ConnectError)\n")


def test_every_error_has_its_status() -> None:
    def below(kind: type[ClientError]) -> list[type[ClientError]]:
        return [kind, *(deeper for one in kind.__subclasses__() for deeper in below(one))]

    made = {
        errors.JobFailed: errors.JobFailed("a", "x", "y", retriable=False),
        errors.JobCancelled: errors.JobCancelled("a", "timeout"),
        errors.Refused: errors.Refused("no", "x", 422),
        errors.Unreachable: errors.Unreachable("gone"),
        errors.BadAnswer: errors.BadAnswer("what?"),
    }
    assert set(below(ClientError)) == {ClientError, *made}
    assert [exits.status_of(error) for error in made.values()] == [1, 5, 3, 4, 4]


def test_jobs_cancel_and_stream(serve: Serve, sd: Callable[..., Told]) -> None:
    worker = serve(StepByStep())
    status, out, _ = sd(worker, "generate", "first\x1b[31m", "--detach")
    first = out.strip()
    worker.runner.wait_for_calls(1)
    second = json.loads(sd(worker, "generate", "second", "--detach", "--json")[1])["job_id"]
    status, out, _ = sd(worker, "jobs")
    lines = out.splitlines()
    assert [line.split()[:2] for line in lines] == [[second, "queued"], [first, "running"]]
    assert "\x1b" not in out, "a prompt does not steer the terminal"
    assert [job["job_id"] for job in json.loads(sd(worker, "jobs", "--status", "running", "--json")[1])] == [first]
    assert sd(worker, "cancel", second, second)[1] == f"{second}  cancelled\n" * 2
    assert sd(worker, "stream", second)[::2] == (5, "")
    assert json.loads(sd(worker, "stream", second, "--json", "--after", "1")[1])["reason"] == "requested"
    worker.runner.allow_all()
    status, out, _ = sd(worker, "stream", first)
    assert (status, out.splitlines()[1]) == (0, "   2  started, attempt 1")
    assert f"/v1/jobs/{first}/images/0" in out
    assert sd(worker, "cancel", "nothing")[0] == 3
    assert sd(worker, "stream", second, "--after", "99")[::2] == (5, ""), "an end that was seen before is told too"
    assert len(sd(worker, "jobs", "--limit", "1")[1].splitlines()) == 1


def test_previews_are_machine_readable(instant: ServedWorker, sd: Callable[..., Told]) -> None:
    with Client(instant.url) as client:
        job = client.submit("x", preview={"every": 1})
    told = [json.loads(line) for line in sd(instant, "stream", job.job_id, "--json")[1].splitlines()]
    raw = [event.data for event in instant.stream(job.job_id)]
    for event, on_the_wire in zip(told, raw, strict=True):
        event.pop("id")
        assert event == on_the_wire


def test_info(instant: ServedWorker, sd: Callable[..., Told]) -> None:
    status, out, _ = sd(instant, "info")
    assert status == 0
    assert "model      fake (sd, float32)\n" in out
    assert "defaults   4 steps, guidance 5, euler\n" in out
    assert json.loads(sd(instant, "info", "--json")[1])["model"]["id"] == "fake"


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_command_cancels_its_job(serve: Serve, tmp_path: Path, number: int, status: int) -> None:
    worker = serve(StepByStep(1))
    command = [sys.executable, "-m", "worker.cli", "generate", "x", "--url", worker.url, "-o", str(tmp_path / "x.png")]
    # Whatever started the tests may have them ignore SIGINT, as shells do with what runs in the background.
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)
    )
    worker.runner.wait_for_calls(2)
    (job,) = worker.client.get("/v1/jobs").json()["jobs"]
    eventually(lambda: worker.known(job["job_id"]).log.readers)
    process.send_signal(number)
    _, err = process.communicate(timeout=20)
    assert (process.returncode, err.count("\n")) == (status, 1)
    assert worker.known(job["job_id"]).cancel_reason == "requested"


def test_whoever_reads_may_leave(instant: ServedWorker) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "worker.cli", "info", "--url", instant.url],
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, "")


def test_output_that_cannot_be_written_is_one_line(instant: ServedWorker) -> None:
    for words in (["info"], ["jobs"], ["info", "--json"]):
        with Path("/dev/full").open("w") as full:
            done = subprocess.run(
                [sys.executable, "-m", "worker.cli", *words, "--url", instant.url],
                stdout=full,
                stderr=subprocess.PIPE,
                text=True,
                check=False,
            )
        assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr


def test_output_that_is_closed_is_one_line(instant: ServedWorker) -> None:
    command = [sys.executable, "-m", "worker.cli", "jobs", "--url", instant.url]
    done = subprocess.run(
        ["/bin/sh", "-c", '"$@" >&-', "sh", *command],
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (2, "sd-worker: the output cannot be written: it is closed\n")


def test_letters_that_the_terminal_lacks_end_nothing(instant: ServedWorker) -> None:
    job_id = instant.finish(prompt="\N{HIRAGANA LETTER A}")["job_id"]
    done = subprocess.run(
        [sys.executable, "-m", "worker.cli", "jobs", "--url", instant.url],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONIOENCODING": "ascii"},
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert f"{job_id}  completed" in done.stdout
    assert "\\u3042" in done.stdout


def test_a_hangup_that_is_ignored_stays_so(serve: Serve) -> None:
    worker = serve(StepByStep())
    child = subprocess.Popen(
        [sys.executable, "-m", "worker.cli", "generate", "x", "--out", "-", "--url", worker.url],
        stdout=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
    )
    worker.runner.wait_for_calls(1)
    child.send_signal(signal.SIGHUP)
    worker.runner.allow_all()
    picture, _ = child.communicate(timeout=20)
    assert child.returncode == 0
    assert picture.startswith(b"\x89PNG")


def test_nothing_need_be_writable_where_nothing_is_written(
    instant: ServedWorker, sd: Callable[..., Told], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.cli.generate.writable", lambda asked: pytest.fail("there is no file"))
    assert sd(instant, "generate", "x", "--detach")[0] == 0


def test_one_that_is_not_known_keeps_no_other_from_being_cancelled(serve: Serve, sd: Callable[..., Told]) -> None:
    worker = serve(StepByStep())
    waiting = worker.post()["job_id"], worker.post()["job_id"]
    status, out, err = sd(worker, "cancel", waiting[0], "nothing", waiting[1])
    assert (status, [line.split()[0] for line in out.splitlines()]) == (3, list(waiting))
    assert len(err.splitlines()) == 1


def test_a_terminal_sees_a_bar_and_the_picture(instant: ServedWorker) -> None:
    sent = io.StringIO()
    console = Console(file=sent, force_terminal=True, width=100, height=40, _environ={"TERM": "xterm-256color"})
    with Client(instant.url) as client, Screen(console, environment={"TERM": "xterm-kitty"}) as screen:
        assert screen.pictures
        client.run("x", preview={"every": 1}, on_event=screen.watch)
        assert screen.previews >= 1
    told = sent.getvalue()
    assert "4/4" in told
    assert "1 picture" in told
    assert told.count("\x1b_Ga=T,f=100,") == screen.previews
    with Screen(console, pictures=False) as screen:
        assert not screen.pictures


def test_inspect_and_serve_are_handed_on(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "no.safetensors").write_bytes(b"nothing")
    assert main(["inspect", str(tmp_path / "no.safetensors")]) == 2
    assert capfd.readouterr().err.startswith("sd-worker inspect: ")
    with pytest.raises(SystemExit) as ended:
        main(["serve", "--backend", "mps", "--version"])
    assert (ended.value.code, capfd.readouterr().out) == (0, f"sd-worker {__version__}\n")
    with pytest.raises(SystemExit) as ended:
        main(["serve", "--backend", "abacus"])
    assert ended.value.code == 2


def test_every_console_script_is_there_and_has_its_launcher() -> None:
    root = Path(__file__).parents[2]
    scripts = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]
    assert "sd-worker" in scripts
    for name, place in scripts.items():
        module, _, function = place.partition(":")
        assert callable(getattr(importlib.import_module(module), function))
        launcher = root / "bin" / name
        assert os.access(launcher, os.X_OK)
        assert f'exec "$root/.venv/bin/{name}" "$@"' in launcher.read_text(encoding="utf-8")


def test_help_lists_the_exit_statuses(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    told = " ".join(capfd.readouterr().out.split())
    for words in ("0 done", "1 the job failed", "2 wrong usage", "3 the worker refused", "4 no worker answers"):
        assert words in told


def test_what_is_no_worker() -> None:
    with standing(Answers((200, {}, b"welcome"))) as server:
        assert main(["info", "--url", server.url]) == exits.UNREACHABLE
