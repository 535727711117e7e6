"""One HTTP connection: uvicorn's own, cut where its peer sends half a request or reads nothing of the answer, and with
what HTTP asks of a server and uvicorn leaves out."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import sys
from urllib.parse import unquote

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from worker.api.headers import EVERYWHERE, NO_STORE, NOTHING
from worker.api.problems import problem
from worker.errors import MalformedRequest

RECEIVE_S = 10.0
"""For a request's head to arrive whole, and for each next piece of its body; uvicorn itself would wait for ever."""
STALL_S = 10.0
"""For a peer to read anything of what waits for it; uvicorn itself would wait for ever."""
SPARE = 16
"""So many connections beyond the bound are still heard, for one request each: probes are answered, all else refused."""
SPARE_RECEIVE_S = 1.0
"""For a request's head to arrive on one of these, of which others have need."""
BODY_TIMES = 6
"""So many times as long the whole may take, however its pieces drip in; what is refused for that is soon cut."""
ABSOLUTE_FORM = re.compile(rb"https?://([^/@#]+)(/.*)?", re.IGNORECASE)
"""Of a request's target, up to its query: the host, and the path."""
CLOSE = (b"connection", b"close")


class Connection(H11Protocol):
    """A connection that half a request ends, or a peer that reads nothing of what it is sent, however slowly it may
    read; with four things for the application in `scope["state"]`: `closing` tells that it is about to end, `late`
    that a request's body takes too long, `write` continues a streamed body, `crowded` is whether it is one too many."""

    receive_s = RECEIVE_S
    stall_s = STALL_S
    bound = sys.maxsize
    _asks_for_head = False
    _begun_at: float | None = None
    _deadline: asyncio.TimerHandle | None = None
    _patience: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take along what the application may do with it.

        asyncio sends small pieces at once only where a socket names its protocol, which one from `create_server` does
        not; a head and a body, or two events, would then lie 40 ms apart (RFC 896 against RFC 1122, 4.2.3.2).
        """
        super().connection_made(transport)
        if len(self.connections) > self.bound + SPARE:
            transport.abort()
            return
        if crowded := len(self.connections) > self.bound:
            self.receive_s = min(self.receive_s, SPARE_RECEIVE_S)
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.app_state = {
            **self.app_state,
            "closing": transport.is_closing,
            "late": self._is_late,
            "write": self.write,
            "crowded": crowded,
        }
        self._watch()

    def write(self, data: bytes) -> bool:
        """One more piece of a body that is under way; False where it must take the usual way, which can wait.

        A body of unknown length is chunked from HTTP/1.1 on (RFC 9112, 7.1), and a chunk changes nothing in what h11
        knows of the connection.
        """
        if self.flow.write_paused or self.transport.is_closing() or self.conn.their_http_version != b"1.1":
            return False
        self.transport.write(b"%x\r\n%b\r\n" % (len(data), data))
        return True

    def data_received(self, data: bytes) -> None:
        """Whatever came, look how long the rest of the request may take."""
        had_body_to_come, before = self.conn.their_state is h11.SEND_BODY, self.cycle
        super().data_received(data)
        if had_body_to_come and self.cycle is not before:  # the rest is another request's
            self._begun_at = None
        elif had_body_to_come and self.conn.their_state is h11.IDLE:  # the rest of a body that was answered before
            self._begun_at = None
            if not self.conn.trailing_data[0]:
                self._wait_for_another()
                return
        self._watch()

    def handle_events(self) -> None:
        """Whatever request begins, its scope is set right before the application sees it."""
        if self.conn.their_state is h11.IDLE:
            self._asks_for_head = self.conn.trailing_data[0].startswith(b"HEAD ")
        before = self.cycle
        super().handle_events()
        if self.cycle is not before:
            self._close_if_ambiguous()
            self._read_absolute_form()

    def _close_if_ambiguous(self) -> None:
        """What stands behind a body of two lengths may be a part of it (RFC 9112, 6.1)."""
        if {b"content-length", b"transfer-encoding"} <= {name for name, _ in self.headers}:
            self.headers.append(CLOSE)

    def _read_absolute_form(self) -> None:
        """A target that names the host too, as proxies are asked (RFC 9112, 3.2.2)."""
        found = ABSOLUTE_FORM.fullmatch(self.scope["raw_path"])
        if found is not None:
            host, path = found[1], found[2] or b"/"
            self.scope["raw_path"], self.scope["path"] = path, unquote(path.decode("ascii"))
            self.headers[:] = [(b"host", host), *(one for one in self.headers if one[0] != b"host")]

    def send_400_response(self, msg: str) -> None:
        """Refuse what is not HTTP as anything else is refused, if nothing is answered yet."""
        if self.cycle is not None:
            self.cycle.disconnected = True  # the application has no say any more
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            answer = problem(MalformedRequest())
            answer.headers.update(EVERYWHERE | {"Cache-Control": NO_STORE, "Content-Security-Policy": NOTHING})
            headers = [*self.server_state.default_headers, *answer.raw_headers, CLOSE]
            self.transport.write(self.conn.send(h11.Response(status_code=400, headers=headers, reason=b"Bad Request")))
            if not self._asks_for_head:
                self.transport.write(self.conn.send(h11.Data(data=bytes(answer.body))))
        self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is awaited any more."""
        for timer in (self._deadline, self._patience):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """The peer takes less than it is sent: it must not stop altogether."""
        super().pause_writing()
        self._watch_peer()

    def resume_writing(self) -> None:
        """The peer took it."""
        super().resume_writing()
        if self._patience is not None:
            self._patience.cancel()
        self._watch_last_bytes()

    def on_response_complete(self) -> None:
        """What comes behind it must come in time; where nothing does, all of it must be taken."""
        super().on_response_complete()
        behind_it = self.conn.their_state is h11.IDLE and self.conn.trailing_data[0]
        if behind_it or self.conn.their_state is h11.SEND_BODY:  # a part of another request had come already
            self._watch()
        self._watch_last_bytes()

    def timeout_keep_alive_handler(self) -> None:
        """Nothing more was asked for."""
        super().timeout_keep_alive_handler()
        self._watch_last_bytes()

    def _watch_last_bytes(self) -> None:
        """Closing waits until the peer has read what was sent, which it must go on with."""
        if self.transport.is_closing() and self.transport.get_write_buffer_size():
            self._watch_peer()

    def _watch_peer(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
        self._patience = self.loop.call_later(self.stall_s, self._cut_if_stalled, self._untaken_bytes())

    def _cut_if_stalled(self, before: int) -> None:
        if self._untaken_bytes() < before:
            self._watch_peer()
        else:
            self.transport.abort()

    def _untaken_bytes(self) -> int:
        """Of what was to be sent, what the peer has not taken; also in the system's buffer, where it tells: it has room
        for megabytes there, and takes more of ours only when a good part of them is gone."""
        return self.transport.get_write_buffer_size() + _queued_bytes(self.transport.get_extra_info("socket").fileno())

    def _wait_for_another(self) -> None:
        """As behind any answer; what came meanwhile has put an end to it."""
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        self._unset_keepalive_if_required()
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def _is_late(self) -> bool:
        return self._begun_at is not None and self.loop.time() >= self._begun_at + BODY_TIMES * self.receive_s

    def _watch(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        if self.conn.their_state not in (h11.IDLE, h11.SEND_BODY):
            self._begun_at = self._deadline = None
            return
        now = self.loop.time()
        if self._begun_at is None:
            self._begun_at = now
        ends_at = self._begun_at + self.receive_s
        if self.conn.their_state is h11.SEND_BODY:
            ends_at = min(now + self.receive_s, self._begun_at + (BODY_TIMES + 1) * self.receive_s)
        self._deadline = self.loop.call_at(ends_at, self._too_late)

    def _too_late(self) -> None:
        if self.flow.read_paused:  # the application has not taken yet what came: it is not the peer who is late
            self._begun_at = None
            self._watch()
        else:
            self.transport.abort()


def _queued_bytes(descriptor: int) -> int:
    """What a socket holds that its peer has not acknowledged (Linux, tcp(7), SIOCOUTQ)."""
    if sys.platform != "linux":
        return 0
    import fcntl
    import termios

    with contextlib.suppress(OSError):  # it is closed already
        return int.from_bytes(fcntl.ioctl(descriptor, termios.TIOCOUTQ, bytes(4)), sys.byteorder)
    return 0
