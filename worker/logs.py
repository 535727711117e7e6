"""What the worker says of itself on standard error: text or JSON lines, with job and trace, without prompts."""

from __future__ import annotations

import atexit
import json
import logging
import sys
from datetime import UTC, datetime
from typing import Literal, TextIO, cast

from worker.jobs.events import Cancelled, Completed, Event, Failed, Queued, Started
from worker.jobs.job import Job
from worker.queued_stream import QueuedStream

logger = logging.getLogger(__name__)

CONTEXT = ("job_id", "trace_id")
"""What a record may carry beside its message, given as `extra`."""


class TextFormatter(logging.Formatter):
    """One line, its context at the end as `name=value`."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        """The line before a traceback."""
        return " ".join([super().formatMessage(record), *(f"{name}={value}" for name, value in _context(record))])


class JsonFormatter(logging.Formatter):
    """One JSON object a line: `time`, `level`, `logger`, `message`, the context, and `exception` where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        """RFC 3339 in UTC."""
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line = {
            "time": moment.replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **dict(_context(record)),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)


def configure(level: str, form: Literal["text", "json"]) -> None:
    """For the whole process: whatever is said on standard error, tracebacks and warnings too, is queued from now on."""
    formatter = JsonFormatter() if form == "json" else TextFormatter()

    def tell_dropped(count: int) -> str:
        said = "%d line(s) were dropped: standard error was not read"
        return formatter.format(logger.makeRecord(logger.name, logging.WARNING, "", 0, said, (count,), None))

    sys.stderr = cast(TextIO, QueuedStream(sys.stderr, tell_dropped))
    atexit.register(write_out)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # It tells of every request, with the address; what there is to say of the orchestrator the heartbeat says.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    for library in ("sse_starlette", "PIL"):  # which tell what pictures and events hold
        logging.getLogger(library).setLevel(max(logging.INFO, logging.getLogger().level))


def write_out() -> None:
    """What is still queued, within a short time; to be called before the process ends in any but the ordinary way."""
    if isinstance(sys.stderr, QueuedStream):
        sys.stderr.write_out()


def log_event(job: Job, event: Event, *, prompts: bool) -> None:
    """The turns of a job's life, one line each; its prompt with the first one, if the operator wants that."""
    match event:
        case Queued() if job.log.last_id == 1:
            said = f"accepted: {job.params.prompt!r}" if prompts else "accepted"
        case Started(attempt):
            said = "started" if attempt == 1 else f"started, attempt {attempt}"
        case Completed(images, timings):
            said = f"completed: {len(images)} image(s) in {timings.total_s} s"
        case Failed(code):
            said = f"failed: {code}"
        case Cancelled(reason):
            said = f"cancelled: {reason.value}"
        case _:
            return
    logger.info("job %s", said, extra={"job_id": job.id, "trace_id": job.trace_id})


def _context(record: logging.LogRecord) -> list[tuple[str, str]]:
    return [(name, value) for name in CONTEXT if (value := getattr(record, name, None)) is not None]
