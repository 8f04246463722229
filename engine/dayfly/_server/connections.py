"""The connections of the server: how many, how long a request may take to arrive, how large it is.

Each connection is an asyncio.Protocol around uvicorn's own: nothing of uvicorn is subclassed, and
only the public methods of asyncio protocols are called. Without these bounds, clients without a key
could take every descriptor, and memory for as long as they like.

A connection waits (for a request's head), or is at work (from the middleware's `begun` to
`finished`). At the bound on connections, the one that has waited longest is closed: idle ones
cannot keep others out.
"""

from __future__ import annotations

import asyncio
import resource
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD = 16_384
"""Bytes of a request's line and headers."""
MAX_HEADERS = 100
BACKLOG = 128
"""Connections that the kernel keeps, and that asyncio accepts in one pass before it looks up."""
RESERVED = 2 * BACKLOG + 64
"""Descriptors that clients never get, beside four for each container."""

_HEAD_TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


def raise_descriptor_limit() -> int:
    """Raise the soft limit of open descriptors to the hard one, and return it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = 1_048_576 if hard == resource.RLIM_INFINITY else hard
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        soft = most
    return most if soft == resource.RLIM_INFINITY else soft


class Connections:
    """All connections. `seconds`: for a request to arrive, and for a client to go on reading."""

    def __init__(self, most: int, *, seconds: float, request_bytes: int) -> None:
        self.most = most
        self.seconds = seconds
        self.request_bytes = request_bytes
        self._waiting: dict[Connection, None] = {}
        self._all: dict[tuple[Any, ...], Connection] = {}

    def protocol(self, **arguments: Any) -> asyncio.Protocol:
        """Return the protocol of a new connection, for uvicorn."""
        return Connection(self, HttpToolsProtocol(**arguments))

    def of(self, scope: Any) -> Connection | None:
        """Return the connection that a request came by; None if it is gone."""
        return self._all.get(tuple(scope.get("client") or ()))

    def made(self, connection: Connection) -> None:
        """Note a new connection. At the bound, close the one that has waited longest."""
        self._all[connection.client] = connection
        self._waiting[connection] = None
        if len(self._all) > self.most:
            next(iter(self._waiting)).abort()

    def lost(self, connection: Connection) -> None:
        """Note that a connection is gone."""
        self._waiting.pop(connection, None)
        if self._all.get(connection.client) is connection:
            del self._all[connection.client]

    def at_work(self, connection: Connection, *, works: bool) -> None:
        """Note whether a connection has a request."""
        self._waiting.pop(connection, None)
        if not works and self._all.get(connection.client) is connection:
            self._waiting[connection] = None


class Connection(asyncio.Protocol):
    """One connection, around uvicorn's protocol."""

    def __init__(self, connections: Connections, inner: asyncio.Protocol) -> None:
        self._connections = connections
        self._inner = inner
        self._transport: asyncio.Transport | None = None
        self._arriving: asyncio.TimerHandle | None = None
        self._reading: asyncio.TimerHandle | None = None
        self._working = False
        self._head_done = False
        self._whole = False
        """The request has arrived whole."""
        self._size = 0
        """Bytes since the last request was answered; since it arrived, once it has."""
        self._lines = 0
        self._tail = b""
        self.client: tuple[Any, ...] = ()

    # What the middleware says.

    def begun(self, *, whole: bool) -> None:
        """Note that a request's head has arrived; `whole`: it has no body."""
        self._working, self._head_done = True, True
        self._connections.at_work(self, works=True)
        if whole:
            self.arrived()
        elif self._arriving is None:
            self._arriving = self._timer()

    def arrived(self) -> None:
        """Note that the request has arrived whole."""
        self._whole, self._size = True, 0
        self._arriving = self._stop(self._arriving)

    def finished(self) -> None:
        """Note that the request was answered."""
        if self._whole:
            self._arriving = self._stop(self._arriving)
        self._working = self._head_done = self._whole = False
        self._size, self._lines, self._tail = 0, 0, b""
        self._connections.at_work(self, works=False)

    def abort(self) -> None:
        """Close it at once."""
        if self._transport is not None:
            self._connections.lost(self)
            self._transport.abort()

    # What asyncio says.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        peer = transport.get_extra_info("peername") or ()
        self.client = (str(peer[0]), int(peer[1])) if peer else ()
        self._inner.connection_made(transport)
        self._arriving = self._timer()
        self._connections.made(self)

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        if not self._working and self._arriving is None:
            self._arriving = self._timer()
        self._size += len(data)
        if not self._head_done and not self._fits(data):
            assert self._transport is not None
            self._transport.write(_HEAD_TOO_LARGE)
            self._transport.close()
            return
        if self._size > (MAX_HEAD if self._whole else self._wire_bytes):
            self.abort()
            return
        self._inner.data_received(data)

    @property
    def _wire_bytes(self) -> int:
        # Chunked bodies have their own overhead; a client that makes it larger than the body is
        # cut.
        return 2 * self._connections.request_bytes + 262_144 + MAX_HEAD

    def _fits(self, data: bytes) -> bool:
        """Look for the end of the head; False if it is too large."""
        text = self._tail + data
        end = text.find(b"\r\n\r\n")
        self._head_done = end >= 0
        head = len(data) if end < 0 else max(0, end + 4 - len(self._tail))
        self._lines += data.count(b"\n", 0, head)
        self._tail = data[-3:] if len(data) >= 3 else text[-3:]
        return self._size - len(data) + head <= MAX_HEAD and self._lines <= MAX_HEADERS + 2

    def eof_received(self) -> bool | None:
        """See asyncio.Protocol."""
        return self._inner.eof_received()

    def pause_writing(self) -> None:
        """See asyncio.Protocol."""
        self._inner.pause_writing()
        self._reading = self._stop(self._reading) or self._timer()

    def resume_writing(self) -> None:
        """See asyncio.Protocol."""
        self._inner.resume_writing()
        self._reading = self._stop(self._reading)

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        self._arriving = self._stop(self._arriving)
        self._reading = self._stop(self._reading)
        self._connections.lost(self)
        self._inner.connection_lost(exc)

    def _timer(self) -> asyncio.TimerHandle:
        loop = asyncio.get_running_loop()
        return loop.call_later(self._connections.seconds, self.abort)

    @staticmethod
    def _stop(timer: asyncio.TimerHandle | None) -> None:
        if timer is not None:
            timer.cancel()
