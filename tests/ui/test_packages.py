"""The packages of `ui/`: tested by Vitest, built as npm packages; the committed page is the build of its sources."""

from __future__ import annotations

import gzip
import json
import re
import subprocess
from pathlib import Path

import pytest

from tests.ui.node import UI, need_packages, npm

pytestmark = pytest.mark.guard(300)
BUILT = Path(__file__).parents[2] / "worker" / "studio"
FIRST_LOAD_BYTES = 250_000


def files_of(folder: Path) -> dict[str, bytes]:
    """What a build consists of, by its name."""
    files = [folder / "index.html", *(folder / "assets").iterdir()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_the_committed_page_is_the_build_of_its_sources(tmp_path: Path) -> None:
    need_packages()
    npm("exec", "-w", "studio", "--", "vite", "build", "--outDir", str(tmp_path))
    assert files_of(tmp_path) == files_of(BUILT)


def test_the_first_load_is_small() -> None:
    assert sum(len(gzip.compress(data)) for data in files_of(BUILT).values()) <= FIRST_LOAD_BYTES


def test_the_page_names_no_other_host() -> None:
    for name, data in files_of(BUILT).items():
        found = set(re.findall(rb"(?:https?:)?//[a-z0-9-]+\.[a-z0-9.-]+", data))
        # React's links to explanations of its errors, and the names of XML namespaces, are text and never fetched.
        assert found <= {b"https://react.dev", b"http://www.w3.org"}, name


def test_the_lock_names_no_registry() -> None:
    packages = json.loads((UI / "package-lock.json").read_text(encoding="utf-8"))["packages"]
    assert [name for name, one in packages.items() if "://" in str(one.get("resolved", ""))] == []


def test_types() -> None:
    need_packages()
    npm("run", "check")


@pytest.mark.guard(400)
def test_vitest() -> None:
    need_packages()
    npm("test")


def test_sdk_and_hooks_are_built_as_packages() -> None:
    need_packages()
    npm("run", "build", "-w", "sdk", "-w", "react")
    program = (
        "import { Client, JobWatch } from '@sd-worker/sdk'; import { useTextToImage } from '@sd-worker/react';"
        "console.log(typeof Client, typeof JobWatch, typeof useTextToImage)"
    )
    command = ["node", "--input-type=module", "-e", program]
    told = subprocess.run(command, cwd=UI / "studio", capture_output=True, text=True, check=True)
    assert told.stdout.split() == ["function"] * 3
    for package in ("sdk", "react"):
        described = json.loads(npm("pack", "--dry-run", "--json", "-w", package))
        only = described[0] if isinstance(described, list) else next(iter(described.values()))
        names = {file["path"] for file in only["files"]}
        assert {"dist/index.js", "dist/index.d.ts"} <= names
        assert not any(name.startswith(("src", "tests")) for name in names)
