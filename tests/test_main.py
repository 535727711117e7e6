"""The launchers as an operator meets them when something is wrong: one line, status 2, no traceback."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from worker import __version__

START_S = 60.0


def launch(backend: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a launcher to its end, on a machine without a GPU and without settings."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("SDW_")}
    return subprocess.run(
        [sys.executable, "-c", f"from worker.main import {backend}; raise SystemExit({backend}())", *arguments],
        env=inherited | {"CUDA_VISIBLE_DEVICES": ""} | environment,
        capture_output=True,
        text=True,
        timeout=START_S,
        check=False,
    )


def refusal(backend: str, *arguments: str, **environment: str) -> str:
    """What the launcher says, having refused to start."""
    done = launch(backend, *arguments, **environment)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    (line,) = done.stderr.splitlines()
    prefix = f"sd-worker-{backend}: "
    assert line.startswith(prefix)
    return line.removeprefix(prefix)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """As much of a model as is read before the port is opened."""
    folder = tmp_path / "model"
    sizes = {"sample_size": 8, "in_channels": 4, "block_out_channels": [32, 64]}
    for name, value in {
        "model_index.json": {"_class_name": "StableDiffusionPipeline"},
        "unet/config.json": sizes,
        "vae/config.json": {"latent_channels": 4, "block_out_channels": [32, 64]},
        "scheduler/scheduler_config.json": {},
    }.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(value))
    return folder


@pytest.mark.skipif(sys.platform == "darwin", reason="a Mac may have the other device")
def test_no_cuda_device() -> None:
    assert refusal("cuda").startswith("no CUDA device: ")


def test_unknown_flag() -> None:
    assert "--colour" in refusal("cpu", "serve", "--colour", "red")


def test_unknown_variable() -> None:
    assert refusal("mps", SDW_COLOUR="red") == "unknown environment variable SDW_COLOUR"


def test_reachable_from_outside_without_a_token(tmp_path: Path) -> None:
    assert refusal("cpu", "--host", "0.0.0.0").startswith("--host 0.0.0.0 can be reached from outside: set SDW_TOKEN")
    file = tmp_path / "tokens"
    file.write_text("# none yet\n")
    assert refusal("cpu", "--token-file", str(file)) == "--token-file holds no token"


def test_no_model() -> None:
    assert refusal("cpu", "--model", "/nowhere") == "no diffusers model folder: model_index.json is not there"


def test_port_in_use(model: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        assert (
            refusal("cpu", "--model", str(model), SDW_PORT=port) == f"--host 127.0.0.1 --port {port} is in use already"
        )


def test_host_that_is_none(model: Path) -> None:
    host = "a" * 64 + ".example"  # longer than a name's part may be: Python refuses it before any resolver is asked
    said = refusal("cpu", "--model", str(model), "--host", host, SDW_TOKEN="secret")
    assert said == f"--host {host} --port 8600 cannot be bound"


@pytest.mark.parametrize(
    ("flag", "said"), [("--help", "usage: sd-worker-cpu"), ("--version", f"sd-worker {__version__}")]
)
def test_help_and_version(flag: str, said: str) -> None:
    done = launch("cpu", flag)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(said)
