"""The launchers as an operator meets them when something is wrong: one line, status 2, no traceback."""

from __future__ import annotations

import json
import logging
import os
import re
import resource
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shared_worker.device import Backend
from tests.models.files import write_zeros
from worker import __version__
from worker.main import run

START_S = 60.0
Refusal = Callable[..., str]


def launch(backend: str, *arguments: str) -> tuple[int, str, str]:
    """Exit status, output and errors of a launcher in its own process, on a machine without a CUDA device."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("SDW_")}
    done = subprocess.run(
        [sys.executable, "-c", f"from worker.main import {backend}; raise SystemExit({backend}())", *arguments],
        env=inherited | {"CUDA_VISIBLE_DEVICES": "", "SDW_PORT": "0"},
        capture_output=True,
        text=True,
        timeout=START_S,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def refusal(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Iterator[Refusal]:
    """What the CPU's launcher says, having refused to start; in this process, which is restored afterwards."""
    for name in os.environ:
        if name.startswith("SDW_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("SDW_PORT", "0")  # what is wrong is found when the port is open
    for name in ("HF_HUB_OFFLINE", "HF_HUB_DISABLE_PROGRESS_BARS"):
        monkeypatch.setenv(name, "1")
    for name in ("TRANSFORMERS_VERBOSITY", "DIFFUSERS_VERBOSITY"):
        monkeypatch.setenv(name, "error")
    interval, root = sys.getswitchinterval(), logging.getLogger()
    handlers, level = root.handlers[:], root.level
    files = resource.getrlimit(resource.RLIMIT_NOFILE)
    monkeypatch.setattr(sys, "stderr", sys.stderr)

    def refused(*arguments: str, **environment: str) -> str:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        status = run("cpu", arguments)
        said = capfd.readouterr()
        assert (status, said.out) == (2, "")
        return only_line(said.err, "cpu")

    yield refused
    sys.setswitchinterval(interval)
    root.handlers[:] = handlers
    root.setLevel(level)
    monkeypatch.undo()
    resource.setrlimit(resource.RLIMIT_NOFILE, files)


def only_line(text: str, backend: str) -> str:
    """The one line of `text`, without the launcher's name."""
    (line,) = text.splitlines()
    name, _, said = line.partition(": ")
    assert name == f"sd-worker-{backend}"
    return said


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """As much of a model as is read before it is loaded."""
    folder = tmp_path / "model"
    sizes = {"sample_size": 8, "in_channels": 4, "block_out_channels": [32, 64]}
    for name, value in {
        "model_index.json": {"_class_name": "StableDiffusionPipeline"},
        "unet/config.json": sizes,
        "vae/config.json": {"latent_channels": 4, "block_out_channels": [32, 64]},
        "text_encoder/config.json": {},
        "tokenizer/tokenizer_config.json": {},
        "scheduler/scheduler_config.json": {},
    }.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(value))
    for part in ("unet", "vae"):
        write_zeros(folder / part / "diffusion_pytorch_model.safetensors", {"conv_in.weight": (32, 4, 3, 3)})
    write_zeros(folder / "text_encoder/model.safetensors", {"final_layer_norm.weight": (32,)})
    return folder


def test_no_cuda_device() -> None:
    status, out, err = launch("cuda")
    assert (status, out) == (2, "")
    assert only_line(err, "cuda").startswith("no CUDA device: ")


@pytest.mark.parametrize(
    ("backend", "given", "expected"),
    [
        ("cuda", {}, "expandable_segments:True"),
        ("cuda", {"PYTORCH_ALLOC_CONF": "max_split_size_mb:64"}, "max_split_size_mb:64"),
        ("cuda", {"PYTORCH_CUDA_ALLOC_CONF": "max_split_size_mb:64"}, "None"),
        ("cpu", {}, "None"),
    ],
    ids=["of itself", "unless the operator says otherwise", "by the older name too", "on a GPU alone"],
)
def test_segments_of_a_gpus_memory_grow(backend: str, given: dict[str, str], expected: str) -> None:
    script = "import os; from worker.main import run; run('{}', ['--model', '/nowhere', '--port', '0']); print({})"
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("SDW_", "PYTORCH_"))}
    done = subprocess.run(
        [sys.executable, "-c", script.format(backend, "os.environ.get('PYTORCH_ALLOC_CONF')")],
        env=inherited | {"CUDA_VISIBLE_DEVICES": ""} | given,
        capture_output=True,
        text=True,
        timeout=START_S,
        check=True,
    )
    assert done.stdout.strip() == expected


def test_unknown_flag() -> None:
    status, out, err = launch("mps", "serve", "--colour", "red")
    assert (status, out) == (2, "")
    assert only_line(err, "mps") == "unrecognized arguments: --colour red; see --help"


def test_version() -> None:
    assert launch("cpu", "--version") == (0, f"sd-worker {__version__}\n", "")


@pytest.mark.parametrize("backend", ["cpu", "cuda", "mps"])
def test_help(backend: Backend, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run(backend, ["--help"])
    said = capfd.readouterr()
    assert (ended.value.code, said.err) == (0, "")
    assert said.out.startswith(f"usage: sd-worker-{backend}")


def test_unknown_variable(refusal: Refusal) -> None:
    assert refusal(SDW_COLOUR="red") == "unknown environment variable SDW_COLOUR"


def test_reachable_from_outside_without_a_token(refusal: Refusal) -> None:
    said = refusal("--host", "0.0.0.0")
    assert said.startswith("--host 0.0.0.0 can be reached from outside: set SDW_TOKEN or --token-file")


def test_token_file_without_tokens(refusal: Refusal, tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    assert refusal("--token-file", str(file)) == "--token-file cannot be read"
    file.write_bytes(b"\xff\xfe")
    assert refusal("--token-file", str(file)) == "--token-file cannot be read"
    file.write_text("# none yet\n")
    assert refusal("--token-file", str(file)) == "--token-file holds no token"


def test_no_model(refusal: Refusal) -> None:
    assert refusal("--model", "/nowhere") == "no diffusers model folder: model_index.json is not there"


def test_a_model_of_another_checksum(refusal: Refusal, model: Path) -> None:
    assert refusal("--model", str(model), "--model-sha256", "7") == (
        "--model-sha256 is no SHA-256: that has 64 hexadecimal digits"
    )
    said = refusal("--model", str(model), "--model-sha256", "0" * 64)
    assert said.startswith("the model is not the one that --model-sha256 names: its checksum is ")


def test_configurations_for_a_folder(refusal: Refusal, model: Path) -> None:
    said = refusal("--model", str(model), "--model-config", str(model))
    assert said == "--model-config is for a model in one file; a folder describes itself"


def test_a_model_too_large_for_the_machine(refusal: Refusal, model: Path) -> None:
    # 4 TB of zeros that take no room on disk.
    write_zeros(model / "unet/diffusion_pytorch_model.safetensors", {"conv_in.weight": (10**6, 10**6)}, dtype="F32")
    said = refusal("--model", str(model), "--dtype", "bfloat16")
    assert re.fullmatch(r"not enough memory: .* 2000\.0 GB in bfloat16, and \d+\.\d GB are free", said)


def test_nothing_is_offloaded_from_the_cpu(refusal: Refusal) -> None:
    said = refusal("--offload", "model")
    assert said == "--offload model: parts are moved to the CPU, and this worker computes there already"


def test_inspect_says_what_a_folder_is(model: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run("cpu", ["inspect", str(model)]) == 0
    assert capfd.readouterr().out.startswith("model: checkpoint (sd 1.x)")


def test_inspect_of_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    assert run("cuda", ["inspect", "/nowhere"]) == 2
    said = capfd.readouterr()
    assert (said.out, said.err) == (
        "",
        "sd-worker-cuda inspect: no diffusers model folder: model_index.json is not there\n",
    )


@pytest.mark.parametrize("flag", ["--embedding-dir", "--control-dir"])
def test_what_lies_beside_the_model_in_no_folder(refusal: Refusal, model: Path, flag: str) -> None:
    said = refusal("--model", str(model), flag, str(model / "model_index.json"))
    assert said == f"{flag} is no folder"


def test_half_a_signer(refusal: Refusal, model: Path, tmp_path: Path) -> None:
    said = "--c2pa-cert and --c2pa-key belong together: one of them is missing"
    assert refusal("--model", str(model), "--c2pa-cert", str(tmp_path / "chain.pem")) == said
    assert refusal("--model", str(model), "--c2pa-key", str(tmp_path / "key.pem")) == said


def test_a_signer_that_cannot_be_read(refusal: Refusal, model: Path, tmp_path: Path) -> None:
    signer = "--c2pa-cert", str(tmp_path / "chain.pem"), "--c2pa-key", str(tmp_path / "key.pem")
    assert refusal("--model", str(model), *signer) == "--c2pa-cert cannot be read"


def test_a_signer_without_the_library(
    refusal: Refusal, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "worker.credentials", raising=False)
    monkeypatch.setitem(sys.modules, "c2pa", None)
    signer = "--c2pa-cert", str(tmp_path / "chain.pem"), "--c2pa-key", str(tmp_path / "key.pem")
    said = refusal("--model", str(model), *signer)
    assert said == "--c2pa-cert needs the C2PA library: pip install 'sd-worker[c2pa]'"


def test_a_safety_checker_that_is_none(refusal: Refusal, model: Path) -> None:
    said = refusal("--model", str(model), "--safety-checker", str(model))
    assert said == "--safety-checker: no diffusers model folder: config.json is not there"


def test_what_becomes_of_flagged_pictures_without_a_checker(refusal: Refusal, model: Path) -> None:
    said = refusal("--model", str(model), "--on-unsafe", "fail")
    assert said == "--on-unsafe is set, but there is no --safety-checker"


def test_too_few_files(refusal: Refusal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda which: (64, 64))
    monkeypatch.setattr(resource, "setrlimit", lambda which, limits: None)
    assert refusal() == "only 64 files may be open, and the worker needs 256: raise ulimit -n"


def test_port_in_use(refusal: Refusal, model: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        assert refusal("--model", str(model), SDW_PORT=port) == f"--host 127.0.0.1 --port {port} is in use already"


@pytest.mark.parametrize(
    "host",
    ["192.0.2.1", "a" * 64 + ".example"],
    ids=["of another machine", "longer than a name may be, which Python refuses before a resolver is asked"],
)
def test_host_that_cannot_be(refusal: Refusal, model: Path, host: str) -> None:
    said = refusal("--model", str(model), "--host", host, SDW_TOKEN="secret", SDW_PORT="8600")
    assert said == f"--host {host} --port 8600 cannot be bound"
