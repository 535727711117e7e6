"""The tree of errors is whole, and drawn as it is."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from worker import errors
from worker.errors import FieldFault, RequestError, WorkerError


def tree(root: type[WorkerError]) -> Iterator[type[WorkerError]]:
    yield root
    for child in root.__subclasses__():
        if child.__module__ == errors.__name__:
            yield from tree(child)


ALL = list(tree(WorkerError))
GROUPS = {WorkerError, *WorkerError.__subclasses__()}
CONCRETE = [error for error in ALL if error not in GROUPS]


def test_codes_are_unique() -> None:
    codes = [error.code for error in ALL]
    assert len(set(codes)) == len(codes)
    assert all(re.fullmatch(r"[a-z_]+", code) for code in codes)
    inherited = [error.__name__ for error in ALL if "code" not in vars(error)]
    assert inherited == []


@pytest.mark.parametrize("error", ALL, ids=lambda error: error.__name__)
def test_the_docstring_is_the_title_and_the_detail_unless_there_is_one(error: type[WorkerError]) -> None:
    title = error.title()
    assert error.__doc__
    assert error.__doc__.split("\n")[0] == f"{title}."
    instance = error(3) if error is errors.QueueFull else error()
    assert instance.detail == str(instance)
    assert "\n" not in instance.detail
    if error is not errors.QueueFull:
        assert instance.detail == title


def test_every_request_error_has_a_status_of_its_own() -> None:
    for error in tree(RequestError):
        assert "status" in vars(error), error
        assert 400 <= error.status < 600, error  # type: ignore[attr-defined]


def test_the_drawn_tree_is_the_tree() -> None:
    drawn = re.findall(r"[├└]── (\w+) +(?:(\d{3}) )?(\w+)$", errors.__doc__ or "", re.MULTILINE)
    actual = [(error.__name__, str(getattr(error, "status", "")), error.code) for error in CONCRETE]
    assert sorted(drawn) == sorted(actual)
    for group in GROUPS:
        assert re.search(rf"\b{group.__name__}\b", errors.__doc__ or ""), group


def test_what_can_be_tried_again() -> None:
    retriable = {error.code for error in ALL if error.retriable}
    refusals = {"queue_full", "draining", "storage_full", "too_many_connections", "worker_failed"}
    assert retriable == {*refusals, "engine_failed", "signing_failed"}
    assert errors.QueueFull(7).headers == {"Retry-After": "7"}
    for error in (errors.Draining, errors.StorageFull, errors.TooManyConnections, errors.WorkerFailed):
        assert int(error.headers["Retry-After"]) > 0


def test_an_invalid_request_names_all_its_faults() -> None:
    faults = FieldFault("steps", "too many"), FieldFault("seed", "too large")
    invalid = errors.InvalidRequest(*faults)
    assert invalid.errors == faults
    assert invalid.detail == "steps: too many; seed: too large"
    assert len(errors.InvalidRequest(*faults * 100).detail) <= 1000
