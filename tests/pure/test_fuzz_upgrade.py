"""Any bytes for an answer to `attach`, or to a plain call: what comes back is a stream, a value or
an error of ours, and soon (H17)."""

from __future__ import annotations

import asyncio
import itertools
import tempfile
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dayfly._engine_api import EngineAPI
from dayfly._errors import EngineError

DEADLINE = 2.0
VERSION = b'HTTP/1.1 200 OK\r\nContent-Length: 21\r\n\r\n{"ApiVersion":"1.41"}'
LINES = [
    b"Connection: Upgrade",
    b"Upgrade: tcp",
    b"Upgrade: websocket",
    b"Content-Type: application/vnd.docker.raw-stream",
    b"Content-Length: 5",
    b"Content-Length: 4, 5",
    b"Content-Length: -1",
    b"Content-Length: 99999999999999999999",
    b"Transfer-Encoding: chunked",
    b"Transfer-Encoding: gzip, chunked",
    b"Content-Encoding: gzip",
    b"Connection: close",
    b": no name",
    b"no colon",
    b" folded",
    b"X: \xff\x00\x7f",
    b"X: " + b"y" * 5_000,
]
STATUS = [b"101 UPGRADED", b"101 Switching Protocols", b"101", b"200 OK", b"100 Continue", b"204 No Content", b"304 Not Modified"]
STATUS += [b"404 Not Found", b"409 Conflict", b"500 Internal Server Error", b"999 Nothing", b"0", b"-1 X", b"1e2 X", b"\xff"]
BODIES = [b"", b"5\r\nhello\r\n0\r\n\r\n", b"ZZ\r\n", b"hello", b"\1\0\0\0\0\0\0\5hello", b'{"message": "x"}', b"[" * 3_000, b"\xff" * 100]

heads = st.builds(
    lambda version, status, lines, end, body: b"".join([version, b" ", status, b"\r\n", *(line + b"\r\n" for line in lines), end, body]),
    st.sampled_from([b"HTTP/1.1", b"HTTP/1.0", b"HTTP/2", b"http/1.1", b"ICY"]),
    st.sampled_from(STATUS),
    st.lists(st.sampled_from(LINES), max_size=5),
    st.sampled_from([b"\r\n", b"\r\n", b"\r\n", b"\n", b"", b"\r"]),
    st.sampled_from(BODIES) | st.binary(max_size=50),
)
answers = heads | st.binary(max_size=200)


class Server:
    """Says what `/version` asks for, then these bytes to any request, in pieces, then nothing
    more."""

    def __init__(self, path: str, answer: bytes, cuts: list[int]) -> None:
        self.path = path
        bounds = sorted({0, len(answer), *(cut % (len(answer) + 1) for cut in cuts)})
        self.pieces = [answer[start:end] for start, end in itertools.pairwise(bounds)]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                if head.startswith(b"GET /version"):
                    writer.write(VERSION)
                    continue
                for piece in self.pieces:
                    writer.write(piece)
                    await writer.drain()
                    await asyncio.sleep(0)
                break
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass
        finally:
            writer.close()


@pytest.fixture(scope="module")
def path() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="dayfly-") as folder:
        yield str(Path(folder) / "s")


def talk(server: Server, *, attach: bool) -> bytes | None:
    """What could be read; None for an error of ours. Anything else that happens is the test's
    failure."""

    async def use(engine: EngineAPI) -> bytes:
        if not attach:
            await engine.containers("dayfly.instance")
            return b""
        stream = await engine.attach("x")
        try:
            read = b""
            while data := await stream.read():
                read += data
            return read
        finally:
            await stream.aclose()

    async def main() -> bytes | None:
        listening = await asyncio.start_unix_server(server.serve, server.path)
        try:
            with anyio.fail_after(DEADLINE):
                async with EngineAPI(f"unix://{server.path}", deadline=DEADLINE / 2) as engine:
                    return await use(engine)
        except EngineError as error:
            assert str(error)
            return None
        finally:
            listening.close()

    return asyncio.run(main())


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(answer=answers, cuts=st.lists(st.integers(0, 5_000), max_size=4))
def test_any_answer_to_attach_is_a_stream_or_an_error_of_ours(path: str, answer: bytes, cuts: list[int]) -> None:
    talk(Server(path, answer, cuts), attach=True)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(answer=answers, cuts=st.lists(st.integers(0, 5_000), max_size=4))
def test_any_answer_to_a_call_is_an_answer_or_an_error_of_ours(path: str, answer: bytes, cuts: list[int]) -> None:
    talk(Server(path, answer, cuts), attach=False)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(stream=st.binary(max_size=500), cuts=st.lists(st.integers(0, 5_000), max_size=4), reason=st.sampled_from([b"UPGRADED", b"OK", b""]))
def test_no_byte_that_is_glued_to_the_upgrade_is_lost(path: str, stream: bytes, cuts: list[int], reason: bytes) -> None:
    head = b"HTTP/1.1 101 " + reason + b"\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n"
    assert talk(Server(path, head + stream, cuts), attach=True) == stream
