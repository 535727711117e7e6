"""Requests of every kind that the OpenAPI document allows, and of many that it does not: never a 5xx, never a leak."""

from __future__ import annotations

import contextlib
from collections import Counter
from typing import Any

import pytest
import schemathesis
from hypothesis import given
from hypothesis.errors import Unsatisfiable
from schemathesis.generation import GenerationMode

from tests.reliability.conftest import Report
from tests.serving import LEAKS, ServedWorker, smaller

MODES = (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)


@pytest.mark.guard(7200)
def test_whatever_is_asked_of_every_operation(report: Report, leaving: list[ServedWorker]) -> None:
    # A short memory, for many jobs.
    worker = ServedWorker(limits=smaller(queue_capacity=10_000, retained_jobs=50), sdapi=True)
    seen: Counter[int] = Counter()

    def ask(case: Any) -> None:
        response = case.call()
        seen[response.status_code] += 1
        assert response.status_code < 500 or case.path == "/ready", response.text
        if response.status_code >= 400:
            openai = case.path.startswith(("/v1/images/", "/v1/models"))
            shape = "application/json" if openai else "application/problem+json"
            assert response.headers["content-type"] == [shape], response.text
            assert not [leak for leak in LEAKS if leak in response.text], response.text

    document = schemathesis.openapi.from_url(f"{worker.url}/openapi.json")
    operations = [found.ok() for found in document.get_all_operations()]
    assert len(operations) >= 9
    for operation in operations:
        for mode in MODES:
            with contextlib.suppress(Unsatisfiable):  # nothing can be wrong with a request that has no parameters
                given(case=operation.as_strategy(generation_mode=mode))(ask)()
    worker.leave()
    leaving.append(worker)
    statuses = ", ".join(f"{count} x {status}" for status, count in sorted(seen.items()))
    report.add("Hostile input", "no 5xx, no leak", f"{seen.total()} requests made from the OpenAPI document", statuses)
    assert seen[202], "some jobs were accepted"
    assert seen[422], "and some refused"
