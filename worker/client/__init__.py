"""A client of the worker's HTTP contract, for programs and notebooks: `from worker.client import Client`.

Imports nothing of the worker itself: no model, no engine, no web framework.
"""

from worker.client.asynchronous import AsyncClient
from worker.client.client import Client
from worker.client.errors import (
    BadAnswer,
    ClientError,
    FieldFault,
    JobCancelled,
    JobFailed,
    Refused,
    Unreachable,
)
from worker.client.events import Cancelled, Completed, Event, Failed, Preview, Progress, Queued, Started
from worker.client.job import ImageLink, Job, Result, Timings
from worker.client.notebook import NotebookDisplay
from worker.client.request import JobFields

__all__ = [
    "AsyncClient",
    "BadAnswer",
    "Cancelled",
    "Client",
    "ClientError",
    "Completed",
    "Event",
    "Failed",
    "FieldFault",
    "ImageLink",
    "Job",
    "JobCancelled",
    "JobFailed",
    "JobFields",
    "NotebookDisplay",
    "Preview",
    "Progress",
    "Queued",
    "Refused",
    "Result",
    "Started",
    "Timings",
    "Unreachable",
]
