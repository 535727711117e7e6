"""uvicorn with a shutdown that ends every stream: drain first, with the server still answering, then close."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import sys
from collections.abc import Awaitable, Callable
from types import FrameType
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from worker.connection import RECEIVE_S, STALL_S, Connection
from worker.errors import ConfigurationError

BACKLOG = 2048
ACCEPTED_AT_ONCE = 1
"""What is accepted has a descriptor before anything can count it."""
KEEP_ALIVE_S = 75
"""Longer than the usual 60 s of reverse proxies, which otherwise race a closing connection."""
CLOSE_S = 2
EXHAUSTED_S = 60.0
"""Between two lines that tell of it."""
logger = logging.getLogger(__name__)


class Server(uvicorn.Server):
    """On the first SIGTERM or SIGINT awaits `drain` and exits; on every further one calls `hurry`."""

    def __init__(self, config: uvicorn.Config, drain: Callable[[], Awaitable[None]], hurry: Callable[[], None]) -> None:
        super().__init__(config)
        self._drain = drain
        self._hurry = hurry
        self._draining: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._exhausted_at: float | None = None

    @property
    def stopping(self) -> bool:
        """Whether it was told to."""
        return self._draining is not None

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Remember the loop: signals arrive outside it."""
        self._loop = asyncio.get_running_loop()
        self._loop.set_exception_handler(self._tell)
        await super().serve(sockets)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """asyncio takes the `backlog` both for the queue and for how many it accepts at once."""
        await super().startup(sockets)
        for listener in sockets or []:
            listener.listen(BACKLOG)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Called by Python between two bytecodes of the main thread."""
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self.begin_shutdown)

    def begin_shutdown(self) -> None:
        """Start to drain, or hurry if that has begun; on the event loop."""
        if self._draining is None:
            self._draining = asyncio.get_running_loop().create_task(self._drain_and_exit())
        else:
            self._hurry()

    def _tell(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """As asyncio does, but in one line a minute where the system has no descriptor for a connection: asyncio tells
        of each attempt, every second."""
        error = context.get("exception")
        if not (isinstance(error, OSError) and "socket" in context):
            loop.default_exception_handler(context)
        elif self._exhausted_at is None or loop.time() >= self._exhausted_at + EXHAUSTED_S:
            self._exhausted_at = loop.time()
            logger.error("connections wait, since the system has no room for them: %s", error.strerror)

    async def _drain_and_exit(self) -> None:
        try:
            await self._drain()
        finally:
            self.should_exit = True


def make_server(
    app: ASGIApp,
    drain: Callable[[], Awaitable[None]],
    hurry: Callable[[], None],
    receive_s: float = RECEIVE_S,
    stall_s: float = STALL_S,
    connections: int = sys.maxsize,
) -> Server:
    """h11 bounds headers; access lines are left to the proxy in front. uvicorn's own `limit_concurrency` refuses probes
    too, and bounds no connection that is silent."""
    config = uvicorn.Config(
        app,
        http=type("Connection", (Connection,), {"receive_s": receive_s, "stall_s": stall_s, "bound": connections}),
        ws="none",
        lifespan="off",
        access_log=False,
        server_header=False,
        log_config=None,
        log_level="warning",
        backlog=ACCEPTED_AT_ONCE,
        forwarded_allow_ips="*",  # for links alone, which go to whoever sent the header; a proxy has any address
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=CLOSE_S,
    )
    return Server(config, drain, hurry)


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one. Raises ConfigurationError."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.create_server((host, port), family=family, backlog=BACKLOG)
    except (OSError, UnicodeError) as error:  # UnicodeError: a host that is no name at all
        in_use = isinstance(error, OSError) and error.errno == errno.EADDRINUSE
        what = "is in use already" if in_use else "cannot be bound"
        raise ConfigurationError(f"--host {host} --port {port} {what}") from None
    listener.setblocking(False)
    return listener


def address_of(host: str, listener: socket.socket) -> str:
    """The URL of a listener on `host`."""
    shown = f"[{host}]" if ":" in host else host
    return f"http://{shown}:{listener.getsockname()[1]}"
