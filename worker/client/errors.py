"""What can go wrong between a client and a worker.

ClientError            code, retriable; str() is one line for people
├── Unreachable        unreachable: nothing answers, or it has not come back in time
├── Refused            an HTTP error; code, status, errors (fault by field) and retry_after_s are the worker's
├── BadAnswer          bad_answer: what answers does not speak the contract
├── JobFailed          the job ended as `failed`; code and retriable are the worker's
└── JobCancelled       cancelled: the job ended as `cancelled`; `reason` says why
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

RETRIABLE_STATUSES = frozenset({429, 502, 503, 504})
LONGEST_DETAIL = 1000


@dataclass(frozen=True, slots=True)
class FieldFault:
    """What is wrong with one field of a job."""

    field: str
    message: str


class ClientError(Exception):
    """Base of all. `retriable`: the same call may do better later."""

    def __init__(self, message: str, code: str, *, retriable: bool) -> None:
        super().__init__(message)
        self.code = code
        self.retriable = retriable


class Unreachable(ClientError):
    """Nothing answers at the worker's address, or it was away for longer than the client's patience."""

    def __init__(self, message: str) -> None:
        super().__init__(message, "unreachable", retriable=True)


class BadAnswer(ClientError):
    """The answer is not what the contract says: there is something else than a worker, or one of another version."""

    def __init__(self, message: str) -> None:
        super().__init__(message, "bad_answer", retriable=False)


class Refused(ClientError):
    """The worker answered with an error (RFC 9457)."""

    def __init__(
        self,
        message: str,
        code: str,
        status: int,
        errors: tuple[FieldFault, ...] = (),
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message, code, retriable=status in RETRIABLE_STATUSES)
        self.status = status
        self.errors = errors
        self.retry_after_s = retry_after_s


class JobFailed(ClientError):
    """The job ended without its pictures."""

    def __init__(self, job_id: str, code: str, message: str, *, retriable: bool) -> None:
        super().__init__(f"the job failed: {message} ({code})", code, retriable=retriable)
        self.job_id = job_id


class JobCancelled(ClientError):
    """The job was cancelled: `requested`, `disconnected`, `timeout` or `shutdown`."""

    def __init__(self, job_id: str, reason: str) -> None:
        super().__init__(f"the job was cancelled ({reason})", "cancelled", retriable=reason == "shutdown")
        self.job_id = job_id
        self.reason = reason


def refusal(status: int, headers: Mapping[str, str], body: bytes) -> Refused:
    """The error that an answer of `status` tells of, whoever on the way has given it."""
    problem = _problem(body)
    errors = tuple(
        FieldFault(str(one.get("field", "")), str(one.get("message", "")))
        for one in problem.get("errors") or []
        if isinstance(one, dict)
    )
    faults = "; ".join(f"{fault.field}: {fault.message}" for fault in errors)
    detail = faults or str(problem.get("detail") or f"HTTP {status}")
    code = str(problem.get("code") or f"http_{status}")
    return Refused(f"{detail[:LONGEST_DETAIL]} ({code}, {status})", code, status, errors, _seconds(headers))


def _problem(body: bytes) -> dict[str, Any]:
    """The members of a problem+json; none where a proxy answers in its own words."""
    try:
        problem = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return problem if isinstance(problem, dict) else {}


def _seconds(headers: Mapping[str, str]) -> float | None:
    """`Retry-After` in seconds; as a date, which the worker never sends, it counts for nothing."""
    text = headers.get("retry-after", "").strip()
    return float(text) if text.isascii() and text.isdecimal() and len(text) < 9 else None
