"""What stands between a client and a worker, and gets in the way: named by how it behaves."""

from __future__ import annotations

import contextlib
import http.server
import socket
import struct
import threading
from collections.abc import Iterator
from typing import Any

Answer = tuple[int, dict[str, str], bytes]


class CutsWhenTold:
    """Passes bytes to a worker and back; `cut` breaks every connection there is, as a network does."""

    def __init__(self, port: int) -> None:
        self._worker = ("127.0.0.1", port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._open: list[socket.socket] = []
        self._lock = threading.Lock()
        self.connections = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Resets, so that nobody takes it for a proper end."""
        with self._lock:
            for one in self._open:
                one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)
                one.close()
            self._open.clear()

    def close(self) -> None:
        """The end of it."""
        self._listener.close()
        self.cut()

    def passes_back(self, data: bytes) -> bool:
        """Whether the client gets this; False cuts the connection instead."""
        return True

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                worker = socket.create_connection(self._worker)
                with self._lock:
                    self._open += [client, worker]
                    self.connections += 1
                for source, sink, back in ((client, worker, False), (worker, client, True)):
                    threading.Thread(target=self._pump, args=(source, sink, back), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, back: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if back and not self.passes_back(data):
                    self.cut()
                    return
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)


class LosesFirstAnswer(CutsWhenTold):
    """The first answer to a post does not arrive."""

    lost = False

    def passes_back(self, data: bytes) -> bool:
        """Lost once, with the connection."""
        if not self.lost and b" 202 Accepted" in data:
            self.lost = True
            return False
        return True


class Answers:
    """A server that answers what it is told to, in order; `asked` holds (method, path, headers, body)."""

    def __init__(self, *answers: Answer) -> None:
        self.asked: list[tuple[str, str, dict[str, str], bytes]] = []
        outer, remaining = self, iter(answers)

        class Handler(http.server.BaseHTTPRequestHandler):
            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                headers = {name.lower(): value for name, value in self.headers.items()}
                outer.asked.append((self.command, self.path, headers, body))
                status, sent, content = next(remaining)
                self.send_response(status)
                for name, value in ({"Content-Length": str(len(content))} | sent).items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = do_DELETE = answer  # noqa: N815 - named by the methods

            def log_message(self, *arguments: Any) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def close(self) -> None:
        """The end of it."""
        self._server.shutdown()
        self._server.server_close()


@contextlib.contextmanager
def standing(between: Any) -> Iterator[Any]:
    """Until the block is left."""
    try:
        yield between
    finally:
        between.close()


def stream_of(*events: str) -> Answer:
    """A stream of these events, already in the form of the wire."""
    return 200, {"Content-Type": "text/event-stream"}, "".join(events).encode()


def event(number: int, name: str, data: str) -> str:
    """One event on the wire; `data` without its braces."""
    return f'id: {number}\nevent: {name}\ndata: {{"job_id": "a", {data}}}\n\n'
