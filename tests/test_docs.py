"""What the documentation shows is run as it stands, against the real worker on the built-in model."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import yaml
from PIL import Image

from tests.conftest import eventually
from tests.real import Worker, start, stop
from tests.serving import events_of
from worker.api.document import SAMPLE
from worker.api.request import JobRequest
from worker.cli import exits
from worker.cli.arguments import parser
from worker.settings import Settings, read_settings

DOCS = Path(__file__).parents[1] / "docs"
ADDRESS = "http://127.0.0.1:8600"
BLOCK = re.compile(r"^```(sh|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
"""What is fenced as `sh nothing-to-run` needs another machine, a model or root; it is looked at all the same."""
COMMAND = re.compile(r"sd-worker-(?:cpu|cuda|mps)\b((?: +[^\s#|&\\\\]+)*)")
LINK = re.compile(r"\]\(([^)#]+)(?:#([^)]+))?\)")
RUN_S = 100.0


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    worker = start("--sdapi")
    try:
        worker.wait_until_ready()
        yield worker
    finally:
        stop(worker)


def blocks(page: str) -> list[tuple[str, str]]:
    """(language, text) of every example on a page."""
    found: list[tuple[str, str]] = BLOCK.findall((DOCS / page).read_text(encoding="utf-8"))
    return found


def run(language: str, text: str, worker: Worker, folder: Path, **environment: str) -> str:
    """What an example writes; it must end well."""
    if language == "sh" and shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    command = [sys.executable, "-c"] if language == "python" else ["bash", "-euo", "pipefail", "-c"]
    told = subprocess.run(
        [*command, text.replace(ADDRESS, worker.url)],
        cwd=folder,
        env={**os.environ, "NO_PROXY": "127.0.0.1", "SDW_URL": worker.url, **environment},
        capture_output=True,
        text=True,
        timeout=RUN_S,
    )
    assert told.returncode == 0, told.stderr
    return told.stdout


def test_clients_of_other_apis(worker: Worker, tmp_path: Path) -> None:
    for language, text in blocks("openai.md"):
        told = run(language, text, worker, tmp_path)
        if language == "sh":
            assert "error" not in json.loads(told)
    for name in ("circle-0", "circle-1", "heart-0", "heart-1", "heart-2", "heart"):
        with Image.open(tmp_path / f"{name}.png") as picture:
            picture.load()
            assert picture.format == "PNG", name
    with Image.open(tmp_path / "circle-0.png") as circle:
        red, green, blue = circle.convert("RGB").getpixel((64, 64))  # type: ignore[misc]
        assert red > 150 > max(green, blue), "a red circle in the middle"
        with Image.open(tmp_path / "edited.png") as edited:
            assert edited.size == circle.size
            lower = (0, 64, 128, 128)
            assert edited.crop(lower).tobytes() == circle.crop(lower).tobytes(), "opaque in the mask: as it was"
            assert edited.tobytes() != circle.tobytes(), "transparent in the mask: drawn again"


def test_the_first_minutes(worker: Worker, tmp_path: Path) -> None:
    for language, text in blocks("quickstart.md"):
        if ADDRESS in text:
            run(language, text, worker, tmp_path)
    with Image.open(tmp_path / "circle.png") as circle:
        assert circle.size == (128, 128)


def test_the_api_by_example(worker: Worker, tmp_path: Path) -> None:
    told = [run(language, text, worker, tmp_path) for language, text in blocks("api.md")]
    assert "8 of 8" in told[1]
    assert '"jobs":' in told[3]
    assert {fault["field"] for fault in json.loads(told[4])["errors"]} == {"prompt", "steps"}
    before = Image.new("RGB", (128, 128), "white")
    with Image.open(tmp_path / "painted.png") as painted:
        left = (0, 0, 16, 128)
        assert painted.crop(left).tobytes() == before.crop(left).tobytes()
    with Image.open(tmp_path / "ring.png") as ring:
        assert ring.size == (128, 128)


def test_upscaling(worker: Worker, tmp_path: Path) -> None:
    ((language, text),) = blocks("upscaling.md")
    run(language, text, worker, tmp_path)
    with Image.open(tmp_path / "large.png") as large:
        assert large.size == (256, 256)
    red, green, blue = pixel(tmp_path / "large.png", 128, 128)
    assert red > 150 > max(green, blue), "a red circle in the middle"


def test_the_readmes_first_job(worker: Worker, tmp_path: Path) -> None:
    readme = (DOCS.parent / "README.md").read_text(encoding="utf-8")
    post, follow = (text for _, text in BLOCK.findall(readme) if text.startswith("curl"))
    (shown,) = set(re.findall(r"job_[0-9a-f]{24}", follow))
    job = json.loads(run("sh", post, worker, tmp_path))
    told = run("sh", follow.replace(shown, job["job_id"]), worker, tmp_path)
    names = re.findall(r"^event: (\w+)$", told, re.MULTILINE)
    assert set(re.findall(r"^event: (\w+)$", readme, re.MULTILINE)) <= set(names)
    assert names[-1] == "completed"


@pytest.mark.parametrize("page", ["controlnet.md", "lora.md", "upscaling.md"])
def test_the_bodies_that_are_shown_are_jobs(page: str) -> None:
    bodies = re.findall(r"^```json\n(\{.*?)^```$", (DOCS / page).read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    jobs = [body for body in bodies if '"prompt"' in body]
    assert jobs
    for body in jobs:
        JobRequest.model_validate_json(re.sub(r'"[^"]*…"', json.dumps(SAMPLE), body))


def test_the_python_client(worker: Worker, tmp_path: Path) -> None:
    stand_in = tmp_path / "IPython"
    stand_in.mkdir()
    (stand_in / "__init__.py").touch()
    (stand_in / "display.py").write_text("def display(shown, *, display_id):\n    print(repr(shown))\n")
    told = [run(language, text, worker, tmp_path) for language, text in blocks("python.md")]
    for name in ("circle.png", "ring-3.png", "ring-4.png", "star.webp", "preview-4.png", "triangle.png", "softer.png"):
        with Image.open(tmp_path / name) as picture:
            picture.load()
    red, green, blue = pixel(tmp_path / "circle.png", 64, 64)
    assert red > 150 > max(green, blue), "a red circle in the middle"
    assert "8 of 8\n" in told[3]
    assert "completed" in told[4]
    assert told[5] == "requested\n"
    assert pixel(tmp_path / "painted.png", 2, 2) == (255, 255, 255), "black in the mask: as it was"
    assert {line.split()[0] for line in told[7].splitlines()} == {"steps", "sampler"}
    assert len({pixel(tmp_path / f"heart-{number}.png", 64, 64) for number in range(3)}) == 3
    assert re.search(r"^step 8 of 8, .* \(100%\)$", told[9], re.MULTILINE)


def test_the_command_line(worker: Worker, tmp_path: Path) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "sd-worker").write_text(f"#!/bin/sh\nexec '{sys.executable}' -P -m worker.cli \"$@\"\n")
    (programs / "sd-worker").chmod(0o755)
    path = f"{programs}:{os.environ['PATH']}"
    told = [run(language, text, worker, tmp_path, PATH=path) for language, text in blocks("cli.md")]
    assert told[0] == "circle.png\n"
    assert told[1].startswith("heart-0.webp\nheart-1.webp\nstar.jpg\n")
    assert told[2].splitlines()[-1].endswith("cancelled (requested)")
    assert "dpmpp_2m" in told[3].split()
    red, green, blue = pixel(tmp_path / "circle.png", 64, 64)
    assert red > 150 > max(green, blue), "a red circle in the middle"


def test_the_command_lines_exit_statuses_are_those_that_it_has() -> None:
    page = (DOCS / "cli.md").read_text(encoding="utf-8")
    told = {int(number) for row in re.findall(r"^\| ([\d, ]+) \|", page, re.MULTILINE) for number in row.split(",")}
    own = {exits.DONE, exits.FAILED, exits.USAGE, exits.REFUSED, exits.UNREACHABLE, exits.CANCELLED}
    assert told == own | {exits.SIGNAL + signal.SIGINT, exits.SIGNAL + signal.SIGTERM}


def test_the_command_lines_flags_are_those_that_it_has() -> None:
    page = (DOCS / "cli.md").read_text(encoding="utf-8").replace("--backend", "")
    with pytest.raises(SystemExit), contextlib.redirect_stdout(io.StringIO()) as shown:
        parser().parse_args(["generate", "--help"])
    generate = set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", shown.getvalue()))
    told = set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", page))
    assert generate - told == {"--help"}
    assert told - generate == {"--status", "--after"}


def pixel(file: Path, x: int, y: int) -> tuple[int, int, int]:
    with Image.open(file) as picture:
        red, green, blue = picture.convert("RGB").getpixel((x, y))  # type: ignore[misc]
    return red, green, blue


@pytest.mark.parametrize("page", sorted(path.name for path in DOCS.glob("*.md")))
def test_flags_and_links_are_there(page: str) -> None:
    text = (DOCS / page).read_text(encoding="utf-8")
    flags = {f"--{name.replace('_', '-')}" for name in (*Settings.model_fields, "model_config", "callback_url")}
    for arguments in COMMAND.findall(text):
        if " inspect" not in arguments:
            assert {word for word in arguments.split() if word.startswith("--")} <= flags, arguments
    for target, _ in LINK.findall(text):
        if not target.startswith("http"):
            assert (DOCS / target).exists(), target


def test_the_service_file() -> None:
    unit = (DOCS / "deploy/sd-worker.service").read_text(encoding="utf-8")
    (start,) = re.findall(r"^ExecStart=\S+/sd-worker-cuda (.*)$", unit, re.MULTILINE)
    settings = read_settings("cuda", start.split())
    assert (settings.host, settings.log_format) == ("0.0.0.0", "json")
    (stop_s,) = re.findall(r"^TimeoutStopSec=(\d+)$", unit, re.MULTILINE)
    assert int(stop_s) >= settings.drain_s + 2


def test_the_kubernetes_file(worker: Worker) -> None:
    deployment, service = yaml.safe_load_all((DOCS / "deploy/kubernetes.yaml").read_text(encoding="utf-8"))
    pod = deployment["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    settings = read_settings("cuda", container["args"])
    assert pod["terminationGracePeriodSeconds"] >= settings.drain_s + 2
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert worker.client.get(container[probe]["httpGet"]["path"]).status_code == 200
    assert service["spec"]["ports"][0]["targetPort"] == container["ports"][0]["name"]


def test_the_dashboard_and_the_scrape_know_the_metrics(worker: Worker) -> None:
    scrape = yaml.safe_load((DOCS / "deploy/prometheus.yml").read_text(encoding="utf-8"))["scrape_configs"][0]
    told = worker.client.get(scrape["metrics_path"]).text
    known = set(re.findall(r"^# TYPE (\w+) ", told, re.MULTILINE))
    dashboard = json.loads((DOCS / "deploy/grafana.json").read_text(encoding="utf-8"))
    shown = {
        name
        for panel in dashboard["panels"]
        for target in panel["targets"]
        for name in re.findall(r"\bsdw_\w+", target["expr"])
    }
    assert len(shown) > 10
    for name in shown:
        assert {name, re.sub(r"_(bucket|sum|count)$", "", name)} & known, name


@pytest.mark.skipif(shutil.which("nginx") is None, reason="no nginx")
def test_events_come_through_nginx_as_they_happen(worker: Worker, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    sites = (DOCS / "deploy/nginx.conf").read_text(encoding="utf-8")
    sites = sites.replace("server 127.0.0.1:8600;", f"server {worker.url.removeprefix('http://')};")
    sites = sites.replace("listen 127.0.0.1:8080;", f"listen 127.0.0.1:{port};")
    folders = "".join(
        f"{kind}_temp_path {tmp_path}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    config = tmp_path / "nginx.conf"
    config.write_text(
        f"daemon off; pid {tmp_path}/pid; error_log stderr; events {{}} http {{ access_log off; {folders} {sites} }}",
        encoding="utf-8",
    )
    nginx = shutil.which("nginx")
    assert nginx is not None
    process = subprocess.Popen([nginx, "-c", str(config), "-p", str(tmp_path)], stderr=subprocess.DEVNULL)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=30) as client:
            eventually(lambda: reachable(client))
            job = client.post("/v1/jobs", json={"prompt": "a red circle", "steps": 150}).json()
            with client.stream("GET", job["sse_url"]) as response:
                names = (event.name for event in events_of(response))
                assert "progress" in itertools.islice(names, 4), "long before the end"
                assert client.delete(f"/v1/jobs/{job['job_id']}").status_code == 202
                assert list(names)[-1] == "cancelled"
    finally:
        process.terminate()
        process.wait(20)


def reachable(client: httpx.Client) -> bool:
    try:
        return client.get("/health").is_success
    except httpx.TransportError:
        return False
