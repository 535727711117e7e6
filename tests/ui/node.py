"""Node and the packages of `ui/`, where they are there."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

UI = Path(__file__).parents[2] / "ui"
MODULES = UI / "node_modules"
OLDEST = (20, 19)
NO_NETWORK = ("ENOTFOUND", "EAI_AGAIN", "ECONNREFUSED", "ETIMEDOUT", "ENETUNREACH", "ECONNRESET")


def need_packages() -> None:
    """Installs what `package-lock.json` names, once. Skips without Node, and without a network to install from."""
    node = shutil.which("node")
    if node is None or shutil.which("npm") is None:
        pytest.skip("no node")
    told = subprocess.run([node, "--version"], capture_output=True, text=True, check=True).stdout
    if tuple(int(part) for part in told.strip("v\n").split(".")[:2]) < OLDEST:
        pytest.skip(f"no node of {OLDEST[0]}.{OLDEST[1]} or newer")
    with (UI / "package-lock.json").open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # installing begins by removing what another process may use
        stamp = MODULES / ".installed"
        wanted = str(zlib.crc32(lock.read()))
        if stamp.exists() and stamp.read_text(encoding="utf-8") == wanted:
            return
        installed = _run_npm("ci")
        if installed.returncode != 0 and any(word in installed.stderr for word in NO_NETWORK):
            pytest.skip("no network to install the packages from")
        assert installed.returncode == 0, installed.stderr[-2000:]
        stamp.write_text(wanted, encoding="utf-8")


def npm(*arguments: str) -> str:
    """Run npm in `ui/`; its stdout. Fails with what it said."""
    done = _run_npm(*arguments)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    return done.stdout


def _run_npm(*arguments: str) -> subprocess.CompletedProcess[str]:
    program = shutil.which("npm")
    assert program is not None
    environment = os.environ | {"SDW_PYTHON": sys.executable}
    return subprocess.run([program, *arguments], cwd=UI, env=environment, capture_output=True, text=True, check=False)
