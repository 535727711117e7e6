"""The network between a browser and the worker, which can be cut and mended, or held at a moment of a job."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from typing import Self

EVENT_END = b"\n\n"


class Line:
    """Passes bytes between a port of its own and the worker's."""

    def __init__(self, worker_port: int) -> None:
        self._worker_port = worker_port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._down = False
        self._mark: bytes | None = None
        self._free = threading.Event()
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.let_go()
        self.cut()

    def cut(self) -> None:
        """End every connection, and let no new one through."""
        with self._lock:
            self._down = True
            for one in self._open:
                with suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)

    def mend(self) -> None:
        """Let connections through again."""
        with self._lock:
            self._down = False

    def hold_at(self, event: str) -> None:
        """From the next event of that name on, its stream says nothing more: the page stays at that moment."""
        self._free.clear()
        self._mark = f"event: {event}\n".encode()

    def let_go(self) -> None:
        """Let the held stream through, and hold none."""
        self._mark = None
        self._free.set()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                if self._down:
                    near.close()
                    continue
                far = socket.create_connection(("127.0.0.1", self._worker_port))
                self._open |= {near, far}
            for one, other in ((near, far), (far, near)):
                threading.Thread(target=self._pass, args=(one, other), daemon=True).start()

    def _pass(self, one: socket.socket, other: socket.socket) -> None:
        with suppress(OSError):
            unsent = b""
            while data := one.recv(65536):
                unsent += data
                if mark := self._mark:
                    passed, found, _ = unsent.partition(mark)
                    event, whole, after = unsent[len(passed) :].partition(EVENT_END)
                    if found and not whole:
                        continue  # the rest of the event is on its way
                    if found:
                        other.sendall(passed + event + whole)
                        self._free.wait()
                        unsent = after
                other.sendall(unsent)
                unsent = b""
        for end in (one, other):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        with self._lock:
            known = one in self._open
            self._open.discard(one)
        if known:
            one.close()
