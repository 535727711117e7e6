"""Waiting for a job within the request that posted it, for the APIs whose answer is the picture."""

from __future__ import annotations

from collections.abc import Callable

import anyio
from starlette.requests import ClientDisconnect
from starlette.types import Receive

from worker import errors
from worker.jobs.events import Cancelled, CancelReason, Completed, Ending, Event, Failed
from worker.jobs.job import Job
from worker.jobs.service import JobService


async def until_ended(
    service: JobService, job: Job, receive: Receive, see: Callable[[Event], None] = lambda event: None
) -> Completed:
    """The job's pictures; `see` is shown every event on the way. A client that leaves counts as a reader that leaves.

    Raises ClientDisconnect, or the RequestError that tells why there are none.
    """
    ending: Event | None = None
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_until_gone, receive, tasks.cancel_scope)
            entries = job.log.follow(0)
            try:
                async for entry in entries:
                    see(entry.event)
                    ending = entry.event
            finally:
                await entries.aclose()
            tasks.cancel_scope.cancel()
    finally:
        leave(service, job)
    if isinstance(ending, Completed):
        return ending
    if isinstance(ending, Ending) or job.log.closed:
        raise without_pictures(ending)
    raise ClientDisconnect


def leave(service: JobService, job: Job) -> None:
    """Tell that whoever waited for the job's pictures does so no more. Nobody can come back for them to the next
    process, so none is left to it."""
    if job.log.closed and not job.ended:
        service.cancel(job.id, CancelReason.SHUTDOWN)
    else:
        service.reader_left(job)


def without_pictures(last: Event | None) -> errors.RequestError:
    """Why a job whose log ended with `last` has no pictures to give."""
    match last:
        case Failed(code, message, retriable):
            return errors.JobFailed(code, message, retriable=retriable)
        case Cancelled(CancelReason.TIMEOUT):
            return errors.JobTimedOut()
        case Cancelled(CancelReason.REQUESTED | CancelReason.DISCONNECTED):
            return errors.JobCancelled()
        case _:  # ended by the shutdown
            return errors.Draining("The worker was shut down before the job's pictures were done")


async def _until_gone(receive: Receive, scope: anyio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()
