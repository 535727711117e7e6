"""How many files the process may have open, and how many of them may be connections."""

from __future__ import annotations

import contextlib
import sys

from worker.errors import ConfigurationError

WANTED = 10_240 if sys.platform == "darwin" else 65_536
"""As the limit, where the system grants it; macOS grants no more than its OPEN_MAX for certain."""
OWN = 192
"""Of them no connection's: for the model, the device, the journal, pictures, imports, the orchestrator and probes."""
LEAST = 256


def room_for_connections() -> int:
    """Raise the limit as far as is wanted and may be; how many connections it leaves room for, beside all that the
    worker opens itself. Raises ConfigurationError."""
    if sys.platform == "win32":  # where sockets are no files, and nothing limits them
        return sys.maxsize
    import resource

    limit, highest = (
        WANTED if number == resource.RLIM_INFINITY else number for number in resource.getrlimit(resource.RLIMIT_NOFILE)
    )
    wanted = min(highest, WANTED)
    if limit < wanted:
        with contextlib.suppress(OSError, ValueError):  # refused: what there is must do
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
            limit = wanted
    if limit < LEAST:
        raise ConfigurationError(f"only {limit} files may be open, and the worker needs {LEAST}: raise ulimit -n")
    return limit - OWN
