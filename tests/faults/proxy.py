"""A Unix socket between dayfly and the Docker Engine, where what can go wrong with a call goes
wrong on demand.

Calls are told apart by method and path (`SITES`). A fault is a coroutine that gets one call, the
`Exchange`, and does with it what it likes: passes on a part, answers by itself, says nothing, hangs
up. The proxy runs an event loop of its own in a thread of its own, so that it is as foreign to
dayfly as the engine is. It never makes anything better: what no fault is set for goes through byte
by byte.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import tempfile
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

SITES = {
    "version": r"GET /version",
    "info": r"GET /info",
    "image": r"GET /images/.+/json",
    "list": r"GET /containers/json",
    "inspect": r"GET /containers/[^/]+/json",
    "create": r"POST /containers/create",
    "attach": r"POST /containers/[^/]+/attach",
    "start": r"POST /containers/[^/]+/start",
    "delete": r"DELETE /containers/[^/]+",
    "events": r"GET /events",
}
"""Every call that a sandbox makes to the engine, by method and path, without the version prefix."""
_END = b"\r\n\r\n"


class HangUp(Exception):
    """Close this connection now, on both sides."""


class Exchange:
    """One call: what was asked, and the two connections it goes over. Upstream is opened when it is
    first asked for."""

    def __init__(self, proxy: Proxy, head: bytes, body: bytes, client: tuple[asyncio.StreamReader, asyncio.StreamWriter]) -> None:
        self.proxy = proxy
        self.request = head + body
        self.hears, self.says = client
        self.upstream: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def forward(self, data: bytes) -> None:
        """Send bytes to the engine."""
        if self.upstream is None:
            self.upstream = await asyncio.open_unix_connection(self.proxy.engine)
        self.upstream[1].write(data)
        await self.upstream[1].drain()

    async def ask(self) -> bytes:
        """Send the whole request on and return the engine's whole answer; of an upgrade, its
        head."""
        await self.forward(self.request)
        assert self.upstream is not None
        reader = self.upstream[0]
        answer = await reader.readuntil(_END)
        status = int(answer.split(None, 2)[1])
        if status in (101, 204, 304):
            return answer
        if length := _header(answer, b"content-length"):
            return answer + await reader.readexactly(int(length))
        if b"chunked" not in _header(answer, b"transfer-encoding"):
            return answer + await reader.read()
        while True:
            size = await reader.readuntil(b"\r\n")
            answer += size + await reader.readexactly(int(size, 16) + 2)
            if int(size, 16) == 0:
                return answer

    async def answer(self, data: bytes) -> None:
        """Send bytes to dayfly."""
        self.says.write(data)
        await self.says.drain()

    async def answer_later(self, seconds: float) -> None:
        """Let the engine do it now, and pass its answer on later."""
        answer = await self.ask()
        await asyncio.sleep(seconds)
        await self.answer(answer)

    async def relay(self, change: Callable[[bytes], Awaitable[None]] | None = None) -> None:
        """After an upgrade: pass bytes on in both directions until one side ends. What the engine
        says goes through `change`."""
        assert self.upstream is not None
        up = asyncio.ensure_future(self._pump(self.hears, self.forward))
        down = asyncio.ensure_future(self._pump(self.upstream[0], change or self._as_it_is))
        done, pending = await asyncio.wait([up, down], return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
        for task in done:
            if (error := task.exception()) is not None:
                raise error
        raise HangUp

    async def _as_it_is(self, data: bytes) -> None:
        fault = self.proxy.stream_fault
        await (fault(self, data) if fault else self.answer(data))

    @staticmethod
    async def _pump(reader: asyncio.StreamReader, write: Callable[[bytes], Awaitable[None]]) -> None:
        while data := await reader.read(65_536):
            await write(data)

    async def until_the_client_leaves(self) -> None:
        """Say nothing until dayfly gives up."""
        while await self.hears.read(65_536):
            pass
        raise HangUp

    def close(self) -> None:
        if self.upstream is not None:
            self.upstream[1].transport.abort()


Fault = Callable[[Exchange], Coroutine[Any, Any, None]]
"""Serves one call. Returning keeps the connection, HangUp closes it."""
StreamFault = Callable[[Exchange, bytes], Coroutine[Any, Any, None]]
"""Is given what the engine says on an attached stream, piece by piece, instead of dayfly."""


async def no_fault(call: Exchange) -> None:
    answer = await call.ask()
    await call.answer(answer)
    if answer.split(None, 2)[1] == b"101":
        await call.relay()


class Proxy:
    """The socket. `address` is for dayfly; `fault` sets what happens from now on at one site,
    `clear` nothing any more."""

    def __init__(self, engine: str) -> None:
        self.engine = engine
        self._folder = tempfile.TemporaryDirectory(prefix="dayfly-proxy-")
        self._path = str(Path(self._folder.name) / "s")
        self._faults: dict[str, Fault] = {}
        self.stream_fault: StreamFault | None = None
        """What happens to all attached streams that are open, from now on."""
        self._loop = asyncio.new_event_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fault proxy")
        self.address = f"unix://{self._path}"
        self.seen: Counter[str] = Counter()
        """Calls by site; those that no site knows by their request line."""
        self.hit: Counter[str] = Counter()
        """Calls that met a fault, by site."""

    def __enter__(self) -> Proxy:
        self._thread.start()
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.setblocking(False)
        self._listener.bind(self._path)
        self._listener.listen(100)
        # Not asyncio's server: if it is closed while it accepts, a connection stays open (3.11).
        self._loop.call_soon_threadsafe(self._loop.add_reader, self._listener, self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        self._within(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._folder.cleanup()

    def fault(self, site: str, fault: Fault) -> None:
        assert site in SITES
        self._faults[site] = fault

    def clear(self) -> None:
        self._faults.clear()
        self.stream_fault = None

    def _within(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    def _accept(self) -> None:
        connection, _ = self._listener.accept()
        task = self._loop.create_task(self._serve_all(connection))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _end(self) -> None:
        self._loop.remove_reader(self._listener)
        self._listener.close()
        await asyncio.sleep(0)  # each task has begun now, and will close its connection
        for task in self._tasks:
            task.cancel()
        while others := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(others)

    async def _serve_all(self, connection: socket.socket) -> None:
        with contextlib.suppress(HangUp, OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            reader, writer = await asyncio.open_unix_connection(sock=connection, limit=2**20)
            try:
                while True:
                    await self._serve(reader, writer)
            finally:
                writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(_END)
        length = _header(head, b"content-length")
        call = Exchange(self, head, await reader.readexactly(int(length or 0)), (reader, writer))
        site = name_of(head)
        self.seen[site] += 1
        fault = self._faults.get(site)
        if fault is not None:
            self.hit[site] += 1
        try:
            await (fault or no_fault)(call)
        finally:
            call.close()


def name_of(head: bytes) -> str:
    """The site of a request, or its method and path where none fits."""
    method, target, _ = head.decode("latin-1").split(" ", 2)
    line = f"{method} {re.sub(r'^/v1[.][0-9]+', '', target.partition('?')[0])}"
    return next((name for name, pattern in SITES.items() if re.fullmatch(pattern, line)), line)


def _header(head: bytes, name: bytes) -> bytes:
    for line in head.split(b"\r\n")[1:]:
        key, _, value = line.partition(b":")
        if key.strip().lower() == name:
            return value.strip()
    return b""


# The faults.


def reply(status: int, body: bytes, kind: str = "application/json") -> Fault:
    """The engine's own answer is never asked for."""

    async def fault(call: Exchange) -> None:
        head = f"HTTP/1.1 {status} Whatever\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
        await call.answer(head.encode() + body)

    return fault


def raw(data: bytes, times: int = 1) -> Fault:
    """Bytes instead of an answer, then the end."""

    async def fault(call: Exchange) -> None:
        for _ in range(times):
            await call.answer(data)
        raise HangUp

    return fault


async def close_at_once(call: Exchange) -> None:
    raise HangUp


async def cut_request(call: Exchange) -> None:
    """The engine gets the half of it."""
    await call.forward(call.request[: len(call.request) // 2])
    raise HangUp


async def lose_answer(call: Exchange) -> None:
    """The engine has done it, and nobody is told."""
    await call.ask()
    raise HangUp


async def cut_head(call: Exchange) -> None:
    await call.answer((await call.ask())[:10])
    raise HangUp


async def cut_end(call: Exchange) -> None:
    await call.answer((await call.ask())[:-1])
    raise HangUp


async def hang(call: Exchange) -> None:
    """The engine is not even asked."""
    await call.until_the_client_leaves()


async def hang_when_done(call: Exchange) -> None:
    await call.ask()
    await call.until_the_client_leaves()


async def trickle(call: Exchange) -> None:
    """A byte in 50 ms: no single read ever waits long."""
    for byte in await call.ask():
        await call.answer(bytes([byte]))
        await asyncio.sleep(0.05)
    await call.until_the_client_leaves()


async def fail_when_done(call: Exchange) -> None:
    """The engine has done it, and says that it could not."""
    await call.ask()
    await reply(500, b'{"message": "context deadline exceeded"}')(call)


async def delay(call: Exchange) -> None:
    await asyncio.sleep(0.1)
    await no_fault(call)


async def slow(call: Exchange) -> None:
    """Long enough for something else to happen meanwhile."""
    await asyncio.sleep(0.5)
    await no_fault(call)


async def one_by_one(call: Exchange) -> None:
    """Bytes by themselves, the attached stream's too: the first hundred of each piece, which has
    the headers. The rest comes seven by seven: byte by byte it would take seconds on a loaded
    machine, and the engine resets a stream 2 s after the end of its container."""

    async def slowly(data: bytes) -> None:
        for start in [*range(min(100, len(data))), *range(100, len(data), 7)]:
            await call.answer(data[start : start + (1 if start < 100 else 7)])
            await asyncio.sleep(0)

    answer = await call.ask()
    await slowly(answer)
    if answer.split(None, 2)[1] == b"101":
        await call.relay(slowly)


async def glue_junk(call: Exchange) -> None:
    """Bytes that nobody asked for, behind a good answer."""
    await call.answer(await call.ask() + b"HTTP/1.1 200 OK\r\n")
    raise HangUp


# Those of the attached stream.

STDERR_PIECE = b"\2\0\0\0\0\0\0\6hello\n"


def upgrade(head: bytes) -> Fault:
    """Another head than the engine's, over the same stream."""

    async def fault(call: Exchange) -> None:
        await call.ask()
        await call.answer(head + _END)
        await call.relay()

    return fault


def upgrade_glued(first: bytes) -> Fault:
    """The stream's first bytes come in one piece with the head; what is missing of a piece of
    stderr follows."""

    async def fault(call: Exchange) -> None:
        await call.answer(await call.ask() + first)
        await asyncio.sleep(0.02)
        await call.answer(STDERR_PIECE[len(first) :])
        await call.relay()

    return fault


def drop_stream(after: int) -> Fault:
    """The stream ends after so many of its bytes."""

    async def fault(call: Exchange) -> None:
        left = after

        async def count(data: bytes) -> None:
            nonlocal left
            await call.answer(data[:left])
            left -= min(left, len(data))
            if not left:
                raise HangUp

        await call.answer(await call.ask())
        await call.relay(count)

    return fault


def spoil_stream(header: bytes) -> Fault:
    """Bytes of nobody's in the stream, before all others."""

    async def fault(call: Exchange) -> None:
        await call.answer(await call.ask() + header)
        await call.relay()

    return fault


async def silent_stream(call: Exchange) -> None:
    """Upgraded, and then not a word in either direction."""
    await call.answer(await call.ask())
    await call.until_the_client_leaves()


HARMLESS: dict[str, Fault] = {
    "delay": delay,
    "one_by_one": one_by_one,
}
"""Nobody may notice these."""

HARMFUL: dict[str, Fault] = {
    "close_at_once": close_at_once,
    "cut_request": cut_request,
    "cut_head": cut_head,
    "cut_end": cut_end,
    "hang": hang,
    "trickle": trickle,
    "glue_junk": glue_junk,
    "400": reply(400, b'{"message": "bad parameter"}'),
    "404": reply(404, b'{"message": "no such thing"}'),
    "409": reply(409, b'{"message": "conflict"}'),
    "429": reply(429, b'{"message": "too many requests"}'),
    "500": reply(500, b'{"message": "driver failed to remove root filesystem: device or resource busy"}'),
    "502_html": reply(502, b"<html><h1>Bad gateway</h1></html>", "text/html"),
    "200_html": reply(200, b"<html>Sign in to the hotel's network</html>", "text/html"),
    "200_empty": reply(200, b""),
    "200_null": reply(200, b"null"),
    "200_list": reply(200, b"[1, null, {}]"),
    "200_object": reply(200, b'{"Id": 5, "Names": 3, "Config": "x"}'),
    "200_deep": reply(200, b"[" * 100_000),
    "no_http": raw(b"SSH-2.0-OpenSSH_9.2\r\n"),
    "bad_chunk": raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n"),
    "endless_head": raw(b"HTTP/1.1 200 OK\r\n" + b"X: " + b"x" * 60_000 + b"\r\n", 1_000),
    "endless_body": raw(b"HTTP/1.1 200 OK\r\n\r\n" + b" " * 1_000_000, 100),
}
"""At any site: dayfly's own errors, or none."""

HARMFUL_WHEN_DONE: dict[str, Fault] = {
    "lose_answer": lose_answer,
    "hang_when_done": hang_when_done,
    "fail_when_done": fail_when_done,
}
"""The engine has done what it was asked for, and dayfly is not told."""

HARMLESS_STREAM: dict[str, Fault] = {
    "another_reason": upgrade(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: tcp"),
    "200_for_101": upgrade(b"HTTP/1.1 200 OK\r\nContent-Type: application/vnd.docker.raw-stream"),
    "glued_in_header": upgrade_glued(STDERR_PIECE[:5]),
    "glued_whole": upgrade_glued(STDERR_PIECE),
}
HARMFUL_STREAM: dict[str, Fault] = {
    "drop_at_once": drop_stream(0),
    "drop_in_header": drop_stream(4),
    "drop_in_payload": drop_stream(100),
    "systemerr": spoil_stream(b"\3\0\0\0\0\0\0\5error"),
    "unknown_stream": spoil_stream(b"\7\0\0\0\0\0\0\0"),
    "huge_length": spoil_stream(b"\1\0\0\0\xff\xff\xff\xff"),
    "huge_frame": spoil_stream(b"\1\0\0\0\0\0\0\4\xff\xff\xff\xff"),
    "silent": silent_stream,
}


async def _drop(call: Exchange, data: bytes) -> None:
    raise HangUp


async def _drop_in_header(call: Exchange, data: bytes) -> None:
    await call.answer(data[:5])
    raise HangUp


async def _drop_in_payload(call: Exchange, data: bytes) -> None:
    await call.answer(data[: 8 + 6])
    raise HangUp


async def _drop_last_byte(call: Exchange, data: bytes) -> None:
    await call.answer(data[:-1])
    raise HangUp


async def _spoil(call: Exchange, data: bytes) -> None:
    await call.answer(b"\7" + data[1:])


async def _forge_frame(call: Exchange, data: bytes) -> None:
    await call.answer(b"\1\0\0\0\0\0\0\6\0\0\0\2{}" + data)


async def _swallow(call: Exchange, data: bytes) -> None:
    pass


IN_MID_RUN: dict[str, StreamFault] = {
    "drop": _drop,
    "drop_in_header": _drop_in_header,
    "drop_in_payload": _drop_in_payload,
    "drop_last_byte": _drop_last_byte,
    "spoil": _spoil,
    "forge_frame": _forge_frame,
    "swallow": _swallow,
}
"""What can happen to the stream of a program that is running."""
