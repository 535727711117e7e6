"""The parity table holds: every family, task and kind of sampler, alone and in company."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.models.families import TASKS
from tests.models.parity import VARIANTS, Loaded, measure, rows
from tests.models.test_sd import one_thread

__all__ = ["one_thread"]

ELSEWHERE = ("sd 1.x", "sd inpainting")
"""Tested with every sampler there is in `test_sd` and `test_tasks`."""


@pytest.mark.parametrize("variant", [variant for variant in VARIANTS if variant not in ELSEWHERE])
def test_pictures_are_the_stock_pipelines_alone_and_in_company(variant: str, tmp_path: Path) -> None:
    made = VARIANTS[variant]
    loaded = Loaded.of(made.write(tmp_path / "tiny"))
    cells = measure(loaded, made.kinds)
    family = loaded.checkpoint.family
    assert family.name == variant.split()[0]
    assert variant.startswith((f"{family.name} {family.variant}", "sdxl v-prediction")), "it is known for what it is"
    tasks = {task for task in family.tasks if task in TASKS}
    drawn = {"flow"} if family.flow else set(made.kinds) - {"flow"}
    assert {(cell.task, cell.kind) for cell in cells} == {(task, kind) for task in tasks for kind in drawn}
    print(*rows(variant, cells), sep="\n")
    assert [cell for cell in cells if not cell.holds] == []
