"""The parity table holds: every family, task and kind of sampler, alone and in company."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.models.parity import KINDS, VARIANTS, Loaded, measure, rows
from tests.models.test_sd import one_thread
from worker.jobs.params import Task

__all__ = ["one_thread"]


@pytest.mark.parametrize("variant", VARIANTS)
def test_pictures_are_the_stock_pipelines_alone_and_in_company(variant: str, tmp_path: Path) -> None:
    write: Callable[[Path], Path] = VARIANTS[variant]
    loaded = Loaded.of(write(tmp_path / "tiny"))
    cells = measure(loaded)
    family = loaded.checkpoint.family
    assert f"{family.name} {family.variant}" == variant.removesuffix(", without T5")
    assert {cell.task for cell in cells} == set(family.tasks)
    assert {cell.kind for cell in cells} == ({"flow"} if family.flow else set(KINDS) - {"flow"})
    print(*rows(variant, cells), sep="\n")
    assert [cell for cell in cells if not cell.holds] == []
    if Task.TEXT_TO_IMAGE in family.tasks:
        assert len({cell.task for cell in cells}) == 3
