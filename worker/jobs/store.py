"""The jobs the worker knows: running, waiting, and the ended ones for a while. Lives on the event loop alone.

What has ended is forgotten when it is too old, too many or too large; its id is remembered a while longer,
so that "expired" can be told from "never heard of".
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable

from worker import errors
from worker.jobs.facts import Limits
from worker.jobs.job import Job

REMEMBERED_IDS = 10_000


class JobStore:
    """Jobs by id, in order of acceptance. `on_forget` is told the ids of what is forgotten."""

    def __init__(self, limits: Limits, on_forget: Callable[[list[str]], None] = lambda job_ids: None) -> None:
        self._limits = limits
        self._on_forget = on_forget
        self._jobs: OrderedDict[str, Job] = OrderedDict()
        self._by_key: dict[str, tuple[bytes, str]] = {}
        self._key_of: dict[str, str] = {}
        self._unended: dict[str, Job] = {}
        self._ended: OrderedDict[str, Job] = OrderedDict()  # in order of ending
        self._expired: OrderedDict[str, None] = OrderedDict()
        self._held_bytes = 0

    def __len__(self) -> int:
        return len(self._jobs)

    def add(self, job: Job, key: str | None = None, digest: bytes = b"") -> None:
        """Know `job` from now on, and by its idempotency key if it has one."""
        self._jobs[job.id] = self._unended[job.id] = job
        if key is not None:
            self._by_key[key] = (digest, job.id)
            self._key_of[job.id] = key

    def restore(self, jobs: Iterable[tuple[Job, str | None, bytes]], expired: Iterable[str]) -> None:
        """Know what an earlier process knew."""
        ended = list[Job]()
        for job, key, digest in jobs:
            self.add(job, key, digest)
            if job.ended:
                del self._unended[job.id]
                ended.append(job)
        self._expired.update(dict.fromkeys(expired))
        for job in sorted(ended, key=lambda one: one.ended_at or 0.0):
            self._ended[job.id] = job
            self._held_bytes += job.log.held_bytes()
        self.expire()

    def discard(self, job: Job) -> None:
        """As if `job` had never been added; it has not ended."""
        del self._jobs[job.id]
        del self._unended[job.id]
        self._drop_key(job)

    def get(self, job_id: str) -> Job:
        """The job. Raises JobNotFound or JobExpired."""
        self.expire()
        job = self._jobs.get(job_id)
        if job is None:
            raise errors.JobExpired if job_id in self._expired else errors.JobNotFound
        return job

    def find(self, job_id: str) -> Job | None:
        """The job, if it is still known."""
        return self._jobs.get(job_id)

    def by_key(self, key: str, digest: bytes) -> Job | None:
        """The job that was posted with this key. Raises IdempotencyConflict if its body was another one."""
        self.expire()
        if key not in self._by_key:
            return None
        known, job_id = self._by_key[key]
        if known != digest:
            raise errors.IdempotencyConflict
        return self._jobs[job_id]

    def newest_first(self) -> list[Job]:
        """All jobs, the last accepted one first."""
        self.expire()
        return list(reversed(self._jobs.values()))

    def unended(self) -> list[Job]:
        """The jobs of which no ending was noted yet, oldest first."""
        return list(self._unended.values())

    def note_ended(self, job: Job) -> None:
        """Count what an ended job holds against the limits."""
        del self._unended[job.id]
        self._ended[job.id] = job
        self._held_bytes += job.log.held_bytes()
        self.expire()

    def expire(self) -> None:
        """Forget ended jobs that are too old, too many or too large, those that ended first before others."""
        limits, now, forgotten = self._limits, time.monotonic(), list[str]()
        while self._ended:
            job = next(iter(self._ended.values()))
            too_old = job.ended_at is not None and now - job.ended_at > limits.retained_s
            too_many = len(self._ended) > limits.retained_jobs
            if not too_old and not too_many and self._held_bytes <= limits.retained_bytes:
                break
            self._forget(job)
            forgotten.append(job.id)
        if forgotten:
            self._on_forget(forgotten)

    def _forget(self, job: Job) -> None:
        del self._jobs[job.id]
        del self._ended[job.id]
        self._drop_key(job)
        self._held_bytes -= job.log.held_bytes()
        self._expired[job.id] = None
        while len(self._expired) > REMEMBERED_IDS:
            self._expired.popitem(last=False)

    def _drop_key(self, job: Job) -> None:
        key = self._key_of.pop(job.id, None)
        # After a crash a job may be back that was forgotten, and its key another's since.
        if key is not None and self._by_key.get(key, (b"", ""))[1] == job.id:
            del self._by_key[key]
