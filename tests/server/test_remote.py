"""dayfly.remote against real servers: what a sandbox here does, a sandbox there does too."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import anyio
import pytest

from dayfly import (
    ContainerLost,
    EngineRefused,
    EngineUnreachable,
    Job,
    Outcome,
    Piece,
    PoolClosed,
    PoolFull,
    PoolTimeout,
    Result,
    Sandbox,
    SessionLost,
)
from dayfly.remote import AsyncRemoteSandbox, RemoteSandbox

from .conftest import NewServer, Server, key_new, servers, wait_for


@pytest.fixture(scope="module")
def there(image: str) -> Iterator[Server]:
    with servers(image) as new:
        yield new("--pool-size", "2", "--rate-per-minute", "0", "--max-timeout-ms", "20000").ready()


@pytest.fixture(scope="module")
def remote(there: Server) -> Iterator[RemoteSandbox]:
    with RemoteSandbox(there.url) as sandbox:
        yield sandbox


@pytest.fixture(scope="module")
def local(image: str) -> Iterator[Sandbox]:
    with Sandbox(2, image=image) as sandbox:
        yield sandbox


JOBS = {
    "ok": Job(code="print('hi')"),
    "error": Job(code="import sys; print('x', file=sys.stderr); sys.exit(3)"),
    "signal": Job(code="import os; os.abort()"),
    "timeout": Job(code="print(1, flush=True)\nwhile True: pass", timeout_ms=500),
    "out of memory": Job(code="x = [bytearray(10**6) for _ in range(10**3)]"),
    "all kinds of input": Job(
        code=b"import os, sys, sandbox; print(sys.stdin.buffer.read(), sys.argv[1:], os.environ['K'], open('a/b').read()); "
        b"sandbox.send(sandbox.data); open('out.bin', 'wb').write(b'\\xff')",
        stdin_bytes=b"\xff\n",
        args=["a", "\u2028"],
        env={"K": "v"},
        data={"x": [1, None, "é"]},
        files={"a/b": b"file"},
        fetch=["out.bin", "missing"],
        v3=True,
    ),
    "displays and the last value": Job(code="import sandbox; sandbox.display([1])\n[6 * 7]", figures=True, last_value=True),
    "bytes that are not text": Job(code="import os; os.write(1, b'a\\xff'); os.write(2, b'\\xe2\\x82')"),
    "separators of lines": Job(code="print('a\\u2028b\\x0cc\\x85d\\r\\n\\n\\ndata: x')"),
    "a lone surrogate in the code": Job(code="print('\ud800')"),
    "merged": Job(code="import sys; print(1); print(2, file=sys.stderr)", merge_stderr=True),
}
SAME = (
    *("outcome", "stdout", "stderr", "is_error", "timed_out", "exit_code", "signal", "stdout_truncated", "messages"),
    *("files", "files_skipped", "stdout_bytes", "stderr_bytes", "preloaded"),
)


@pytest.mark.parametrize("name", JOBS)
def test_a_result_is_that_of_a_sandbox_here(name: str, remote: RemoteSandbox, local: Sandbox) -> None:
    there, here = remote.run(JOBS[name]), local.run(JOBS[name])
    assert [(field, getattr(there, field)) for field in SAME] == [(field, getattr(here, field)) for field in SAME]
    assert isinstance(there.outcome, Outcome)
    assert there.wall_ms > 0


def test_bad_input_is_the_same_error_before_anything_is_sent(remote: RemoteSandbox, local: Sandbox) -> None:
    bad: list[tuple[Any, dict[str, Any]]] = [(1, {}), ("", {"timeout_ms": 0}), ("", {"files": {"../x": b""}}), ("", {"other": 1})]
    for code, options in bad:
        told = []
        for sandbox in (remote, local):
            with pytest.raises((TypeError, ValueError)) as caught:
                sandbox.run(code, **options)
            told.append((caught.type, str(caught.value)))
        assert told[0] == told[1]
    with pytest.raises(ValueError, match="max_timeout_ms"):
        remote.run("", timeout_ms=20_001)
    with pytest.raises(ValueError, match="code_bytes"):
        remote.run("#" * 1_000_001)


def test_output_arrives_while_the_program_writes(remote: RemoteSandbox) -> None:
    seen: list[Any] = []
    threads = set()

    def on_output(piece: Piece) -> None:
        seen.append((piece.stream, piece.data, time.monotonic()))
        threads.add(threading.get_ident())

    code = "import os, time; os.write(1, b'\\xff'); time.sleep(1); os.write(2, b'b')"
    result = remote.run(code, on_output=on_output, on_start=lambda: seen.append("started"))
    assert seen[0] == "started"
    assert [piece[:2] for piece in seen[1:]] == [("stdout", b"\xff"), ("stderr", b"b")]
    assert seen[2][2] - seen[1][2] > 0.7
    assert threads == {threading.get_ident()}
    assert result.stdout_bytes == b"\xff"


def test_leaving_a_stream_or_an_error_in_it_ends_the_run(there: Server, remote: RemoteSandbox) -> None:
    before = there.metric("dayfly_clients_gone_total")
    for item in remote.stream("print(1, flush=True)\nimport time; time.sleep(15)"):
        assert isinstance(item, Piece)
        break

    def fail(_: Piece) -> None:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        remote.run("print(1, flush=True)\nimport time; time.sleep(15)", on_output=fail)
    wait_for(lambda: True if there.metric("dayfly_clients_gone_total") == before + 2 else None, there)
    assert [type(item) for item in remote.stream("print(1)")][-1] is Result


@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
async def test_the_async_one_runs_streams_and_is_cancelled(anyio_backend: str, there: Server) -> None:
    async with AsyncRemoteSandbox(there.url) as sandbox:
        results: list[str] = []

        async def one(number: int) -> None:
            results.append((await sandbox.run(f"print({number})")).stdout)

        async with anyio.create_task_group() as tasks:
            for number in range(4):
                tasks.start_soon(one, number)
        assert sorted(results) == ["0\n", "1\n", "2\n", "3\n"]
        with anyio.move_on_after(0.5) as scope:
            await sandbox.run("while True: pass")
        assert scope.cancelled_caught
        async with sandbox.session() as session:
            await session.run("open('a', 'w').write('1')")
            items = [item async for item in session.stream("print(open('a').read())")]
            assert isinstance(items[-1], Result)
            assert items[-1].stdout == "1\n"


def test_a_session_is_that_of_a_sandbox_here(remote: RemoteSandbox, local: Sandbox) -> None:
    for sandbox in (local, remote):
        with sandbox.session(max_runs=4) as session:
            session.run("open('a', 'w').write('1')")
            kept = session.run("print(open('a').read(), open('b').read())", files={"b": b"2"}, fetch=["*", "none"])
            assert (kept.stdout, kept.files, [skipped.path for skipped in kept.files_skipped]) == ("1 2\n", {"a": b"1"}, ["none"])
            assert session.run("import os; print(os.listdir())", clean=True).stdout == "['main.py']\n"
            for item in session.stream("print(1, flush=True)\nimport time; time.sleep(15)"):
                assert isinstance(item, Piece)
                break
            assert session.runs == 4
            with pytest.raises(SessionLost, match="max_runs") as caught:
                session.run("")
            assert not caught.value.delivered
        with pytest.raises(SessionLost, match="closed"):
            session.run("")
        with sandbox.session() as session:
            thread = threading.Thread(target=session.run, args=("import time; time.sleep(1.5)",))
            thread.start()
            time.sleep(0.6)
            with pytest.raises(RuntimeError, match="one program at a time"):
                session.run("")
            thread.join()


def test_a_server_that_is_not_there_and_a_key_that_is_wrong(serve: NewServer, tmp_path: Path) -> None:
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as listener:
        port = listener.getsockname()[1]
    sandbox = RemoteSandbox(f"http://127.0.0.1:{port}", queue_timeout_ms=500)
    with pytest.raises(PoolClosed, match="not initialized"):
        sandbox.run("")
    with pytest.raises(EngineUnreachable):
        sandbox.initialize()
    key = key_new("alice", tmp_path / "keys")
    server = serve("--pool-size", "1", "--keys-file", str(tmp_path / "keys")).ready()
    with pytest.raises(EngineRefused, match="No API key") as caught:
        RemoteSandbox(server.url, "wrong").initialize()
    assert caught.value.status == 403
    with RemoteSandbox(server.url, key, queue_timeout_ms=700) as sandbox:
        assert sandbox.run("print(1)").stdout == "1\n"
        server.stop()
        begun = time.monotonic()
        with pytest.raises(PoolTimeout, match="not reached") as late:
            sandbox.run("print(1)")
        assert not late.value.delivered
        assert isinstance(late.value.__cause__, EngineUnreachable)
        assert 0.2 < time.monotonic() - begun < 10
    with pytest.raises(PoolClosed, match="closed"):
        sandbox.run("")


def test_an_address_or_a_key_that_cannot_be_is_refused_at_once() -> None:
    for url in ("", "localhost:8000", "ftp://x", "http://", "http://x:99999", "http://x:0", "http://x:y", "http://[::1"):
        with pytest.raises(ValueError, match="url must be the http or https URL"):
            RemoteSandbox(url)
    for key in ("two\nlines", "a blank", "\u00e9"):
        with pytest.raises(ValueError, match="key must be visible ASCII") as caught:
            RemoteSandbox("http://x", key)
        assert key not in str(caught.value)
    wrong: Any = 5
    with pytest.raises(TypeError, match="url must be a str, not int"):
        RemoteSandbox(wrong)
    with pytest.raises(TypeError, match="key must be a str, not int"):
        RemoteSandbox("http://x", wrong)


def test_a_server_that_dies_in_mid_run_has_run_it_perhaps(serve: NewServer) -> None:
    server = serve("--pool-size", "1").ready()
    with RemoteSandbox(server.url, queue_timeout_ms=500) as sandbox:
        for kill in (lambda _: os.kill(server.process.pid, signal.SIGKILL),):
            with pytest.raises(ContainerLost) as caught:
                sandbox.run("print(1, flush=True)\nimport time; time.sleep(15)", on_output=kill)
            assert caught.value.delivered


def test_a_full_server_is_asked_again_and_each_program_runs_once(serve: NewServer) -> None:
    server = serve(
        "--pool-size", "1", "--max-containers", "1", "--max-waiting", "0", "--concurrency", "2", "--rate-per-minute", "0"
    ).ready()
    with RemoteSandbox(server.url) as sandbox, ThreadPoolExecutor(6) as threads:
        outputs = list(threads.map(lambda number: sandbox.run(f"print({number})").stdout, range(6)))
    assert outputs == [f"{number}\n" for number in range(6)]
    assert server.metric("dayfly_runs_total") == 6
    assert server.metric("dayfly_refused_total") > 0
    with RemoteSandbox(server.url, queue_timeout_ms=100) as hasty, ThreadPoolExecutor(1) as thread:
        long = thread.submit(hasty.run, "import time; time.sleep(2)")
        time.sleep(0.7)
        with pytest.raises(PoolFull) as caught:
            hasty.run("print(1)")
        assert not caught.value.delivered
        assert long.result().outcome is Outcome.OK


REFUSED = b'{"type": "/problems/queue-full", "title": "", "status": 503, "detail": "", "error": ""}'
FULL = b"HTTP/1.1 503 x\r\nretry-after: %b\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" + REFUSED


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_closing_ends_the_wait_for_a_full_server(backend: str) -> None:
    async def main(url: str) -> None:
        async with AsyncRemoteSandbox(url) as sandbox, anyio.create_task_group() as tasks:

            async def late() -> None:
                with pytest.raises(PoolClosed, match="closed") as caught:
                    await sandbox.run("print(1)")
                assert not caught.value.delivered

            tasks.start_soon(late)
            await anyio.sleep(0.5)
            await sandbox.close()

    begun = time.monotonic()
    for url in answering(FULL % (b"30", len(REFUSED))):
        anyio.run(main, url, backend=backend)
    assert time.monotonic() - begun < 10


@pytest.mark.parametrize("header", [b"Wed, 21 Oct 2015 07:28:00 GMT", b"nan", b"-1", b"", b"\xb2"])
def test_a_pause_that_is_not_a_number_is_no_other_error(header: bytes) -> None:
    for url in answering(FULL % (header, len(REFUSED))):
        with RemoteSandbox(url, queue_timeout_ms=300) as sandbox, pytest.raises(PoolFull):
            sandbox.run("print(1)")


@pytest.mark.parametrize("place", ["run", "session", "silence"])
def test_closing_ends_a_run_as_in_a_sandbox_here(place: str, there: Server, local: Sandbox) -> None:
    code = "print(1, flush=True)\nimport time; time.sleep(15)"
    with Sandbox(1, image=local._sandbox.image) as here, RemoteSandbox(there.url) as remote:
        for sandbox in (here, remote):
            running = sandbox.session() if place == "session" else sandbox
            with contextlib.ExitStack() as stack, ThreadPoolExecutor(1) as thread:
                if place == "session":
                    running.open()  # type: ignore[union-attr]
                begun = threading.Event()
                run = thread.submit(running.run, code, on_start=begun.set)
                assert begun.wait(20)
                if place == "silence":
                    time.sleep(0.5)
                sandbox.close()
                with pytest.raises(PoolClosed) as caught:
                    run.result(10)
                assert caught.value.delivered
                stack.close()
            with pytest.raises(PoolClosed):
                running.run("")


def test_closing_while_it_connects_runs_nothing() -> None:
    sandbox: Any = None
    for url in answering(b""):
        sandbox = RemoteSandbox(url)
        sandbox.initialize()
    with socket.create_server(("127.0.0.1", int(url.rpartition(":")[2])), backlog=0) as full:
        stuck = [socket.socket() for _ in range(4)]  # the kernel takes no more: a connection is not answered
        for one in stuck:
            one.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                one.connect(full.getsockname())
        with ThreadPoolExecutor(1) as thread:
            run = thread.submit(sandbox.run, "print(1)")
            time.sleep(0.7)
            begun = time.monotonic()
            sandbox.close()
            with pytest.raises(PoolClosed):
                run.result(10)
            assert time.monotonic() - begun < 3
        for one in stuck:
            one.close()


SESSION = b"HTTP/1.1 201 Created\r\nconnection: close\r\ncontent-length: %d\r\n\r\n"


@pytest.mark.parametrize(
    "text", [SESSION % 100 + b'{"id', SESSION % 2 + b"[]", SESSION % 4 + b"\xff\xff\xff\xff", SESSION % 12 + b'{"id": true}', SESSION % 0]
)
def test_an_answer_that_names_no_session_opens_none(text: bytes) -> None:
    for url in answering(text):
        with RemoteSandbox(url) as sandbox, pytest.raises(SessionLost) as caught, sandbox.session():
            raise AssertionError
        assert not caught.value.delivered


def test_closing_a_session_of_a_dead_server_takes_no_minute() -> None:
    sandbox: Any = None
    session: Any = None
    for url in answering(SESSION % 11 + b'{"id": "x"}'):
        sandbox = RemoteSandbox(url)
        sandbox.initialize()
        session = sandbox.session()
        session.open()
    begun = time.monotonic()
    session.close()
    assert time.monotonic() - begun < 20
    sandbox.close()


def answering(text: bytes) -> Iterator[str]:
    """A server that gives every request for a run one answer. What it answers to `initialize` is
    right."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    with connection:
                        asked = connection.recv(65_536)
                        body = b'{"maxTimeoutMs": 1000}' if b"/v1/limits" in asked else b"[]"
                        good = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
                        connection.sendall(text if asked.startswith(b"POST") else good)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(5)


BEGUN = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\nevent: started\ndata: {}\n\n"


@pytest.mark.parametrize(
    ("text", "delivered"),
    [
        (b"", True),
        (b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 3\r\nconnection: close\r\n\r\nbad", True),
        (b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nconnection: close\r\n\r\n", True),
        (b"no HTTP at all\r\n\r\n", True),
        (BEGUN, True),
        (BEGUN + b"event: result\ndata: {}\n\n", True),
        (BEGUN + b"event: output\ndata: [\n\n", True),
        (BEGUN + b"event: output\ndata: \xff\n\n", True),
        (BEGUN + b'event: output\ndata: {"stream":"stdout","text":"\xff"}\n\n', True),
        (BEGUN + b"event: error\ndata: " + b"[" * 100_000 + b"\n\n", True),
        (b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 3\r\nconnection: close\r\n\r\n\xff\xff\xff", True),
        (b"HTTP/1.1 502 Bad Gateway\r\ncontent-encoding: gzip\r\ncontent-length: 3\r\nconnection: close\r\n\r\nbad", True),
        (b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 3\r\nconnection: close\r\n\r\nbad", True),
        (BEGUN + b'event: error\ndata: {"type": "/problems/container-lost", "status": 502, "delivered": true}\n\n', True),
    ],
)
def test_what_a_proxy_or_a_broken_server_says_is_never_a_result(text: bytes, delivered: bool) -> None:
    for url in answering(text):
        with RemoteSandbox(url, queue_timeout_ms=2_000) as sandbox, pytest.raises(ContainerLost) as caught:
            sandbox.run("print(1)")
        assert caught.value.delivered is delivered


def test_one_that_is_left_open_is_closed_at_exit(there: Server) -> None:
    code = f"""
from dayfly.remote import RemoteSandbox
sandbox = RemoteSandbox({there.url!r})
sandbox.initialize()
print(sandbox.run("print(1)").stdout, end="")
"""
    done = subprocess.run([sys.executable, "-W", "always", "-c", code], check=False, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "1\n", "")


def test_it_needs_no_package_of_the_server() -> None:
    code = "import sys, dayfly.remote; print({'litestar', 'uvicorn', 'typer', 'structlog'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60, check=True).stdout == b"set()\n"
