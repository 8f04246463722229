"""The connections to one engine, over httpx: requests, each with a deadline, and the streams of
attached containers.

Owns the deadline of every request and the mapping of everything that can go wrong on a connection
to dayfly's own errors: nothing of httpx or httpcore gets past this file. It is loaded when an
engine is first spoken to: they are half of what `import dayfly` would cost.

Two rules come from how the engine behaves. A deadline is wall time for the whole request, since an
engine that answers one byte a second would pass any per-read time-out. And an attached stream that
nobody reads wedges every other call on its container (moby #41827), so a stream can be shut down at
any moment, without waiting.
"""

from __future__ import annotations

import errno
import select
import socket
import ssl
import weakref
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager, contextmanager, suppress
from typing import Any, Protocol

import anyio
import httpcore
import httpx
import msgspec

from ._endpoint import Endpoint
from ._errors import EngineError, EngineRefused, EngineUnreachable
from ._forks import hold, let_go, release

MAX_ANSWER = 64_000_000
"""Bytes of one answer; a list of ten thousand containers is a tenth of that."""
SAID = 1_000
"""Characters of the engine's own words that an error repeats."""
READ_SIZE = 262_144


class Connection:
    """All connections to one engine. `deadline` (seconds) is for requests that name none."""

    def __init__(self, endpoint: Endpoint, deadline: float) -> None:
        self._endpoint = endpoint
        self._deadline = deadline
        self._longest = float("inf")
        self._under_way: set[anyio.CancelScope] = set()
        self._streams: weakref.WeakSet[AttachedStream] = weakref.WeakSet()
        # httpx would make a context of its own for each transport, even for plain connections.
        self._tls = endpoint.ssl_context() or ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._transport = self._new_transport()

    def _new_transport(self) -> httpx.AsyncHTTPTransport:
        # The transport without a client: what that adds (cookies, redirects, the merging of
        # settings) is a third of a call's cost.
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=8, keepalive_expiry=30.0)
        return httpx.AsyncHTTPTransport(verify=self._tls, uds=self._endpoint.socket, trust_env=False, limits=limits)

    def hurry(self, seconds: float) -> None:
        """Let no request, under way or to come, last longer than this from now on."""
        self._longest = min(self._longest, seconds)
        for scope in self._under_way:
            scope.deadline = min(scope.deadline, anyio.current_time() + seconds)

    async def aclose(self) -> None:
        """Close all of them, attached streams too. Bounded in time; never raises."""
        for stream in list(self._streams):
            await stream.aclose()
        with anyio.move_on_after(1, shield=True):
            await self._transport.aclose()

    async def request(
        self,
        method: str,
        target: str,
        *,
        name: str,
        content: bytes | AsyncIterable[bytes] | None,
        headers: Mapping[str, str] | None,
        deadline: float | None,
        expect: tuple[int, ...],
    ) -> bytes:
        """Make one request and return the answer's body. Errors call it by its `name`.

        Raises EngineRefused for a status that is not expected, EngineUnreachable for no answer in
        time.
        """
        with self._bounded(name, deadline):
            response = await self._send(self._transport, method, target, content, headers)
            return await self._answer(name, response, expect)

    @asynccontextmanager
    async def lines(self, target: str, *, name: str) -> AsyncIterator[AsyncIterator[bytes]]:
        """Make a request whose answer has no end, and yield its lines. The caller bounds it in
        time.

        Raises what `request` raises, and EngineUnreachable when the connection breaks.
        """
        transport = self._new_transport()
        parts: AsyncIterator[bytes] | None = None
        try:
            response = await self._send(transport, "GET", target, None, None)
            if response.status_code != 200:
                await self._answer(name, response, ())
            parts = response.aiter_raw()
            async with aclosing(self._split(parts)) as lines:
                yield lines
        except _FOREIGN as error:
            raise EngineUnreachable(f"{name}: {self._why(error)}") from error
        finally:
            with anyio.move_on_after(1, shield=True):
                await transport.aclose()
                if parts is not None:
                    # To its end, which has come now: httpcore has generators inside that nobody
                    # else can close, and trio warns of those that are left to the garbage
                    # collector.
                    with suppress(*_FOREIGN):
                        async for _ in parts:
                            pass

    @staticmethod
    async def _split(parts: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
        rest = b""
        async for part in parts:
            *lines, rest = (rest + part).split(b"\n")
            for line in filter(None, lines):
                yield line
            if len(rest) > MAX_ANSWER:
                raise EngineError(f"a line of the engine's answer is larger than {MAX_ANSWER:,} bytes")

    async def attach(self, target: str, *, name: str, container: str) -> AttachedStream:
        """Ask for the raw stream of a container, in both directions. Raises what `request`
        raises."""
        # A transport of its own: in a common one, each request of all looks at every attached
        # stream.
        transport = self._new_transport()
        try:
            with self._bounded(name, None):
                response = await self._send(transport, "POST", target, None, {"Connection": "Upgrade", "Upgrade": "tcp"})
                # 101 is today's answer; engines before 1.21 of the API, and some proxies, upgrade
                # under a plain 200.
                if response.status_code not in (101, 200):
                    await self._answer(name, response, ())
        except BaseException:
            with anyio.CancelScope(shield=True):
                await transport.aclose()
            raise
        stream = AttachedStream(transport, response, container)
        self._streams.add(stream)
        return stream

    async def _send(
        self,
        transport: httpx.AsyncHTTPTransport,
        method: str,
        target: str,
        content: bytes | AsyncIterable[bytes] | None,
        headers: Mapping[str, str] | None,
    ) -> httpx.Response:
        """Return the answer's head; its body is still to be read. No deadline but `_bounded`'s."""
        request = httpx.Request(method, self._endpoint.base_url + target, content=content, headers=headers)
        return await transport.handle_async_request(request)

    @staticmethod
    async def _answer(name: str, response: httpx.Response, expect: tuple[int, ...]) -> bytes:
        """Return the answer's body; raise what it says if its status is not expected."""
        parts, size = [], 0
        try:
            async for part in response.aiter_raw():
                parts.append(part)
                size += len(part)
                if size > MAX_ANSWER:
                    raise EngineError(f"the engine's answer is larger than {MAX_ANSWER:,} bytes")
        finally:
            with anyio.CancelScope(shield=True):
                await response.aclose()
        answer = b"".join(parts)
        if response.status_code not in expect:
            raise _refusal(name, response.status_code, answer)
        return answer

    @contextmanager
    def _bounded(self, name: str, deadline: float | None) -> Any:
        deadline = min(self._deadline if deadline is None else deadline, self._longest)
        try:
            # Not fail_after: its TimeoutError could not be told from the network's ETIMEDOUT.
            with anyio.move_on_after(deadline) as scope:
                self._under_way.add(scope)
                try:
                    yield
                finally:
                    self._under_way.discard(scope)
        except _FOREIGN as error:
            sent = not isinstance(error, (httpx.ConnectError, httpcore.ConnectError))
            raise EngineUnreachable(f"{name}: {self._why(error)}", sent=sent) from error
        if scope.cancelled_caught:
            raise EngineUnreachable(f"{name}: no answer from the engine at {self._endpoint.address} within {deadline:g} s")

    def _why(self, error: Exception) -> str:
        text = f"the engine at {self._endpoint.address} cannot be reached: {_text(error)}"
        path = self._endpoint.socket
        if path is None or not isinstance(error, (httpx.ConnectError, httpcore.ConnectError)):
            return text
        match _number_of(error):
            case errno.ENOENT:
                return f"{text}; there is no socket {path}: is Docker installed and running?"
            case errno.EACCES:
                return f"{text}; this user may not write to {path}: add it to the socket's group, often 'docker'"
            case errno.ECONNREFUSED:
                return f"{text}; the socket exists, but no daemon answers on it"
            case errno.EMFILE | errno.ENFILE:
                return f"{text}; no descriptor is left to reach it with: raise the limit on open files"
        return text


class _NetworkStream(Protocol):
    """httpx's documented extension for the raw connection under a response."""

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes: ...
    async def write(self, buffer: bytes, timeout: float | None = None) -> None: ...
    def get_extra_info(self, info: str) -> Any: ...


class AttachedStream:
    """The raw stream of one attached container. One task may read while another writes.

    `read` and `write` raise EngineUnreachable when the connection breaks.
    """

    def __init__(self, transport: httpx.AsyncHTTPTransport, response: httpx.Response, container: str) -> None:
        self._transport = transport
        self._response = response
        self._container = container
        self._network: _NetworkStream = response.extensions["network_stream"]
        # Under a plain 200 the first bytes may already be in the HTTP parser's buffer, so they must
        # come through it.
        self._body: AsyncIterator[bytes] | None = response.aiter_raw() if response.status_code == 200 else None
        self._socket: socket.socket | None = self._network.get_extra_info("socket")
        hold(self)

    async def read(self) -> bytes:
        """The next bytes; empty at the end of the stream."""
        try:
            if self._body is not None:
                return await anext(self._body, b"")
            return await self._network.read(READ_SIZE)
        except _FOREIGN as error:
            raise EngineUnreachable(f"the attached stream of {self._container} broke: {_text(error)}") from error

    async def write(self, data: bytes) -> None:
        """Send all of `data`."""
        try:
            await self._network.write(data)
        except _FOREIGN as error:
            raise EngineUnreachable(f"the attached stream of {self._container} broke: {_text(error)}") from error

    def readable(self) -> bool:
        """Return whether bytes, or the end of the stream, can be read now."""
        if self._socket is None:
            return False
        poll = select.poll()
        try:
            poll.register(self._socket, select.POLLIN)
        except ValueError:  # closed
            return False
        return bool(poll.poll(0))

    def shut_down(self) -> None:
        """End both directions now, without waiting: the container reads the end of its stdin, and a
        pending `read` returns."""
        if self._socket is not None:
            try:
                self._socket.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # not connected any more: that is what was wanted

    def end_writing(self) -> None:
        """Let the container read the end of its stdin; `read` goes on."""
        if self._socket is not None:
            try:
                self._socket.shutdown(socket.SHUT_WR)
            except OSError:
                pass  # not connected any more: the container reads it as well

    async def aclose(self) -> None:
        """Close the connection. Bounded in time; never raises."""
        release(self)
        self.shut_down()
        with anyio.move_on_after(1, shield=True):
            try:
                if self._body is not None:
                    await self._response.aclose()
                await self._transport.aclose()
            except _FOREIGN:
                pass

    def forget(self) -> None:
        """In a fork of this process: let go of its copy of the socket, and leave the connection
        itself alone."""
        if self._socket is not None:
            let_go(self._socket.fileno())


# Everything that httpx, httpcore or the event loop may raise for a broken or senseless connection.
_FOREIGN = (
    *(httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, httpx.CookieConflict),
    *(httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException, httpcore.ProxyError),
    *(httpcore.ConnectionNotAvailable, httpcore.UnsupportedProtocol, OSError),
    *(anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream),
)


def _text(error: Exception) -> str:
    return str(error) or type(error).__name__


def _number_of(error: BaseException | None) -> int | None:
    """The errno at the bottom of an error, if there is one."""
    while error is not None and not isinstance(error, OSError):
        error = error.__cause__ or error.__context__
    return None if error is None else error.errno


def _refusal(call: str, status: int, answer: bytes) -> EngineRefused:
    try:
        said = str(msgspec.json.decode(answer, type=dict[str, Any])["message"])
    except (msgspec.DecodeError, RecursionError, KeyError):
        said = answer[:200].decode(errors="replace")
    said = said.strip()
    if len(said) > SAID:  # an engine may repeat all that it was sent
        said = f"{said[: SAID // 2]} … {said[-SAID // 2 :]}"
    return EngineRefused(f"{call}: the engine answered {status}: {said or 'nothing more'}", status=status)
