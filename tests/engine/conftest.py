"""The fixture of the engine's tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.engine.rig import Rig


@pytest.fixture
def start() -> Iterator[Callable[..., Rig]]:
    """Start engines with `start(runner, ...)`; afterwards they are stopped and every job's life is checked."""
    rigs: list[Rig] = []

    def build(*arguments: Any, **settings: Any) -> Rig:
        rigs.append(Rig(*arguments, **settings))
        return rigs[-1]

    yield build
    for rig in rigs:
        rig.close()
