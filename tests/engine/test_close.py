"""`close` from anywhere, at any time, and what a sandbox does after a fault: measured, bounded,
nothing left.

No deadline of anyio's stands round a call here: `close` is shielded, so such a deadline could not
fail.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from tests.conftest import within

from dayfly import AsyncSandbox, ContainerLost, EngineError, EngineUnreachable, PoolClosed, Sandbox
from dayfly import _sandbox as sandbox_module

FOREVER = "print('begun', flush=True)\nimport time\ntime.sleep(3600)"
QUICKLY = 5.0
"""Seconds in which a sandbox closes where the engine answers. An idle machine needs 0.5."""


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "dayfly sandbox"]


def run_python(program: str, *, seconds: float = 40) -> subprocess.CompletedProcess[str]:
    """Run a program in a process of its own; a deadlock ends with a traceback of every thread."""
    guard = f"import faulthandler; faulthandler.dump_traceback_later({seconds - 10}, exit=True)\n"
    command = [sys.executable, "-X", "dev", "-W", "error::ResourceWarning", "-c", guard + textwrap.dedent(program)]
    return subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)


# B2: what raises between lease and run.


class Boom(Exception):
    pass


def boom(*_: object) -> None:
    raise Boom


async def whole(sandbox: AsyncSandbox) -> None:
    """All slots are back: as many runs as there are containers at most, at once."""
    with within(20):
        async with anyio.create_task_group() as tasks:
            for _ in range(sandbox.max_containers):
                tasks.start_soon(sandbox.run, "print(1)")
    for _ in range(300):
        stats = sandbox.stats()
        if (stats.warm, stats.running, stats.ending) == (sandbox.pool_size, 0, 0):
            return
        await anyio.sleep(0.02)
    pytest.fail(f"slots are lost: {sandbox.stats()}")


@pytest.mark.parametrize("callback", ["on_start", "on_output"])
async def test_a_callback_that_raises_costs_no_slot(callback: Any) -> None:
    async with AsyncSandbox(1, max_containers=2, queue_timeout_ms=10_000) as sandbox:
        for _ in range(3):
            options: Any = {callback: boom}
            with pytest.raises(Boom):
                await sandbox.run(FOREVER, **options)
        await whole(sandbox)


async def test_an_on_start_that_cancels_its_run_costs_no_slot() -> None:
    async with AsyncSandbox(1, max_containers=2, queue_timeout_ms=10_000) as sandbox:
        for _ in range(3):
            with anyio.CancelScope() as scope:
                await sandbox.run(FOREVER, on_start=scope.cancel)
            assert scope.cancelled_caught
        await whole(sandbox)


@pytest.mark.parametrize("callback", ["on_start", "on_output"])
def test_a_callback_that_raises_in_a_thread_costs_no_slot(callback: Any) -> None:
    with Sandbox(1, max_containers=2, queue_timeout_ms=10_000) as sandbox:
        for _ in range(3):
            options: Any = {callback: boom}
            with pytest.raises(Boom):
                sandbox.run(FOREVER, **options)
        with within(20):
            assert [sandbox.run("print(1)").stdout for _ in range(3)] == ["1\n"] * 3


# B3: a creation whose answer is lost, under a name that is a sibling's.


async def test_a_lost_create_harms_no_sibling_of_that_name(monkeypatch: pytest.MonkeyPatch) -> None:
    uids = range(1_955_555_555, 1_955_555_556)
    results: list[str] = []

    async def run() -> None:
        results.append((await sibling.run("import time\ntime.sleep(3)\nprint('done')")).stdout)

    async with AsyncSandbox(1, max_containers=1, uids=uids) as sibling, anyio.create_task_group() as tasks:
        tasks.start_soon(run)
        while not sibling.stats().running:
            await anyio.sleep(0.01)
        other = AsyncSandbox(1, max_containers=1, uids=uids)

        async def lost(name: str, body: Any) -> str:
            raise EngineUnreachable("POST /containers/create: connection reset")

        monkeypatch.setattr(other._engine, "create", lost)
        monkeypatch.setattr(sandbox_module, "CLOSE_DEADLINE", 1.0)
        with pytest.raises(EngineUnreachable, match="connection reset"):
            await other.initialize()
    assert results == ["done\n"]


# B4: an engine that hangs.


class Hanging:
    """A proxy before the engine which passes nothing on any more once `hangs` is set."""

    def __init__(self, target: str, path: str) -> None:
        self.target, self.path, self.hangs = target, path, False
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[Any]] = set()

    async def __aenter__(self) -> Hanging:
        self._server = await asyncio.start_unix_server(self._serve, self.path)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        theirs, to_them = await asyncio.open_unix_connection(self.target)
        try:
            await asyncio.gather(self._pump(reader, to_them), self._pump(theirs, writer))
        finally:
            to_them.close()
            writer.close()

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(65_536):
                if self.hangs:
                    await asyncio.sleep(3600)
                sink.write(data)
                await sink.drain()
            sink.close()


@pytest.fixture
def anyio_backend() -> str:
    """What is tested here is above the event loop."""
    return "asyncio"


@pytest.fixture
async def hanging(engine: Any, tmp_path: Path) -> AsyncIterator[Hanging]:
    async with Hanging(engine.path, str(tmp_path / "proxy.sock")) as proxy:
        yield proxy


@pytest.mark.parametrize("busy", [False, True], ids=["idle", "a run in progress"])
async def test_close_is_bounded_while_the_engine_hangs(hanging: Hanging, busy: bool, monkeypatch: pytest.MonkeyPatch, engine: Any) -> None:
    monkeypatch.setattr(sandbox_module, "CALL_DEADLINE_AT_CLOSE", 0.5)
    monkeypatch.setattr(sandbox_module, "CLOSE_DEADLINE", 1.5)
    monkeypatch.setattr(sandbox_module, "CLOSE_MARGIN", 1.0)
    sandbox = AsyncSandbox(1, docker_host=f"unix://{hanging.path}", max_containers=1)
    await sandbox.initialize()
    errors: list[type[BaseException]] = []

    async def run() -> None:
        with pytest.raises(PoolClosed) as caught:
            await sandbox.run(FOREVER, timeout_ms=100_000)
        errors.append(caught.type)

    try:
        async with anyio.create_task_group() as tasks:
            if busy:
                tasks.start_soon(run)
                await anyio.sleep(0.5)
            hanging.hangs = True
            with within(1.5 + 1.0 + 1.0):
                await sandbox.close()
            with within(1.0):
                await sandbox.close()
        assert errors == [PoolClosed] * busy
    finally:
        for row in engine.containers(os.getpid()):
            engine.call("DELETE", f"/containers/{row['Id']}", force="1", v="1")


async def test_close_in_a_thread_is_bounded_while_the_engine_hangs(hanging: Hanging, monkeypatch: pytest.MonkeyPatch, engine: Any) -> None:
    monkeypatch.setattr(sandbox_module, "CALL_DEADLINE_AT_CLOSE", 0.5)
    monkeypatch.setattr(sandbox_module, "CLOSE_DEADLINE", 1.5)
    monkeypatch.setattr(sandbox_module, "CLOSE_MARGIN", 1.0)
    sandbox = Sandbox(1, docker_host=f"unix://{hanging.path}", max_containers=1)
    errors: list[BaseException] = []
    taken: list[float] = []

    def run() -> None:
        try:
            sandbox.run(FOREVER, timeout_ms=100_000)
        except PoolClosed as error:
            errors.append(error)

    def close() -> None:
        begun = time.monotonic()
        sandbox.close()
        taken.append(time.monotonic() - begun)

    runner = threading.Thread(target=run)
    closers = [threading.Thread(target=close) for _ in range(2)]
    try:
        await anyio.to_thread.run_sync(sandbox.initialize)
        runner.start()
        while not sandbox.stats().running:
            await anyio.sleep(0.01)
        hanging.hangs = True
        for closer in closers:
            closer.start()
        for thread in (*closers, runner):
            await anyio.to_thread.run_sync(thread.join)
        assert max(taken) < 1.5 + 1.0 + 1.0
        assert len(taken) == 2
        assert [type(error) for error in errors] == [PoolClosed]
        assert threads() == []
    finally:
        for row in engine.containers(os.getpid()):
            engine.call("DELETE", f"/containers/{row['Id']}", force="1", v="1")


def test_the_documented_bound_is_the_sum_of_its_parts() -> None:
    assert "(18 s)" in (AsyncSandbox.close.__doc__ or "")
    assert sandbox_module.CLOSE_DEADLINE + sandbox_module.CLOSE_MARGIN == 18


# B5: an internal error.


async def test_an_internal_error_is_the_cause_of_later_refusals(caplog: pytest.LogCaptureFixture) -> None:
    sandbox = AsyncSandbox(1)
    await sandbox.initialize()
    fault = KeyError("a fault of ours")

    async def broken(**_: object) -> Any:
        raise fault

    assert sandbox._cleaner is not None
    sandbox._cleaner.sweep, working = broken, sandbox._cleaner.sweep  # type: ignore[method-assign]
    assert (await sandbox.run("print(1)")).stdout == "1\n"
    for _ in range(300):
        if sandbox._owner is not None and sandbox._owner.error is not None:
            break
        await anyio.sleep(0.02)
        sandbox._cleaner.sweep = working if caplog.records else broken  # type: ignore[method-assign]
    with pytest.raises(PoolClosed, match="internal error") as caught:
        await sandbox.run("print(1)")
    assert caught.value.__cause__ is fault
    assert "a fault of ours" in caplog.text and "Traceback" in caplog.text
    sandbox._cleaner.sweep = working  # type: ignore[method-assign]
    await sandbox.close()


def test_cancelling_all_tasks_of_the_loop_is_not_silent(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        sandbox = AsyncSandbox(1)
        await sandbox.initialize()
        for task in asyncio.all_tasks():
            if task is not asyncio.current_task():
                task.cancel()
        for _ in range(2):  # while the clean-up is under way, and after it
            await asyncio.sleep(0)
            with pytest.raises(PoolClosed) as caught:
                await sandbox.run("print(1)")
            assert "something other than dayfly" in str(caught.value.__cause__)
            assert sandbox._owner is not None
            await sandbox._owner._over.wait()
        with within(QUICKLY):
            await sandbox.close()

    asyncio.run(main())
    assert "something other than dayfly" in caplog.text


@pytest.mark.parametrize("victim", ["dayfly container", "dayfly cleaner"])
async def test_a_single_task_cancelled_is_told_to_its_caller(victim: str) -> None:
    """A container's task costs that run alone; without the cleaner the sandbox cannot go on."""
    async with AsyncSandbox(1, max_containers=2) as sandbox:
        errors: list[BaseException] = []

        async def run() -> None:
            try:
                await sandbox.run(FOREVER)
            except (ContainerLost, PoolClosed) as error:
                errors.append(error)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run)
            while not sandbox.stats().running:
                await anyio.sleep(0.01)
            await anyio.sleep(0.3)
            for task in asyncio.all_tasks():
                if victim in task.get_name():
                    task.cancel()
        (error,) = errors
        if victim == "dayfly cleaner":
            assert isinstance(error, PoolClosed)
            assert "something other than dayfly" in str(error.__cause__)
        else:
            assert isinstance(error, ContainerLost)
            assert "something other than dayfly" in str(error)
            assert (await sandbox.run("print(1)")).stdout == "1\n"


# B6: stats from threads.


def test_stats_from_threads_never_fail() -> None:
    failures: list[BaseException] = []
    done = threading.Event()

    def poll(sandbox: Sandbox) -> None:
        while not done.is_set():
            try:
                assert sandbox.stats().warm >= 0
            except BaseException as error:  # noqa: BLE001 - reported below
                failures.append(error)

    with Sandbox(2, max_containers=4) as sandbox:
        pollers = [threading.Thread(target=poll, args=(sandbox,)) for _ in range(3)]
        runners = [threading.Thread(target=lambda: [sandbox.run("print(1)") for _ in range(4)]) for _ in range(4)]
        for thread in [*pollers, *runners]:
            thread.start()
        for thread in runners:
            thread.join()
        done.set()
        for thread in pollers:
            thread.join()
        assert sandbox.stats().runs == {"ok": 16}
    assert failures == []


# B7, B8: close from a signal handler, a callback, the sandbox's own thread, and twice at once.


def test_close_from_a_signal_handler_during_close() -> None:
    done = run_python("""
    import os, signal, threading, time
    from dayfly import Sandbox
    sandbox = Sandbox(1)
    sandbox.initialize()
    signal.signal(signal.SIGTERM, lambda *_: (sandbox.close(), print("handler")))
    last = sandbox._sandbox.close
    async def slow():
        import anyio
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGTERM)).start()
        await anyio.sleep(0.5)
        await last()
    sandbox._loop._last = slow
    sandbox.close()
    print("closed", [thread.name for thread in threading.enumerate() if thread.name == "dayfly sandbox"])
    """)
    assert (done.stdout, done.returncode) == ("handler\nclosed []\n", 0), done.stderr


def test_close_from_a_signal_handler_during_a_run() -> None:
    done = run_python("""
    import os, signal, threading, time
    from dayfly import PoolClosed, Sandbox
    sandbox = Sandbox(1)
    sandbox.initialize()
    signal.signal(signal.SIGTERM, lambda *_: sandbox.close())
    try:
        sandbox.run("import time; time.sleep(60)", on_start=threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM)).start)
    except PoolClosed as error:
        print("PoolClosed", error.delivered)
    sandbox.close()
    """)
    assert (done.stdout, done.returncode) == ("PoolClosed True\n", 0), done.stderr


@pytest.mark.parametrize("callback", ["on_start", "on_output"])
def test_close_from_a_callback(callback: Any) -> None:
    sandbox = Sandbox(1)
    sandbox.initialize()
    options: Any = {callback: lambda *_: sandbox.close()}
    with within(QUICKLY), pytest.raises(PoolClosed):
        sandbox.run(FOREVER, **options)
    assert threads() == []
    with pytest.raises(PoolClosed, match="closed"):
        sandbox.run("print(1)")


@pytest.mark.parametrize("callback", ["on_start", "on_output"])
async def test_close_from_a_callback_on_the_loop(callback: Any) -> None:
    """A callback cannot wait: it starts the close."""
    sandbox = AsyncSandbox(1)
    await sandbox.initialize()
    async with anyio.create_task_group() as tasks:
        options: Any = {callback: lambda *_: tasks.start_soon(sandbox.close)}
        with within(QUICKLY), pytest.raises(PoolClosed):
            await sandbox.run(FOREVER, **options)


def test_close_in_the_sandboxs_own_thread_changes_nothing() -> None:
    with Sandbox(1) as sandbox:
        loop = sandbox._open_loop()

        async def inside() -> list[str]:
            said = []
            calls: list[Callable[[], object]] = [sandbox.close, lambda: sandbox.run("1"), lambda: next(iter(sandbox.stream("1")))]
            for call in calls:
                with pytest.raises(RuntimeError, match="own thread") as caught:
                    call()
                said.append(str(caught.value))
            return said

        assert len(loop.call(inside)) == 3
        assert sandbox.run("print(1)").stdout == "1\n"
    assert threads() == []


def test_close_twice_at_once_from_two_threads() -> None:
    sandbox = Sandbox(2)
    sandbox.initialize()
    errors: list[BaseException] = []

    def close() -> None:
        try:
            sandbox.close()
            assert threads() == []
        except BaseException as error:  # noqa: BLE001 - reported below
            errors.append(error)

    closers = [threading.Thread(target=close) for _ in range(4)]
    with within(QUICKLY):
        for thread in closers:
            thread.start()
        for thread in closers:
            thread.join()
    assert errors == []


async def test_close_twice_at_once_on_the_loop() -> None:
    sandbox = AsyncSandbox(2)
    await sandbox.initialize()
    with within(QUICKLY):
        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(sandbox.close)


# B11: an interpreter that exits without close. `make test-pythons` runs it on every Python that is
# at hand.


def test_exit_without_close() -> None:
    done = run_python("""
    from dayfly import Sandbox
    import dayfly._sync
    first, second = Sandbox(1), Sandbox(1)
    first.initialize()
    second.initialize()
    print(first.run("print(1)").stdout, end="")
    """)
    assert (done.stdout, done.stderr, done.returncode) == ("1\n", "", 0)


def test_a_close_that_fails_at_exit_keeps_no_other_open() -> None:
    done = run_python("""
    import logging
    logging.basicConfig()
    from dayfly import Sandbox
    import dayfly._sync
    first, second = Sandbox(1), Sandbox(1)
    first.initialize()
    second.initialize()
    bad, good = list(dayfly._sync._open)
    close = bad.close
    def fail():
        close()
        raise RuntimeError("the first one fails")
    bad.close = fail
    dayfly._sync._close_all()
    print("open:", [one._loop.open for one in (bad, good)])
    """)
    assert (done.stdout, done.returncode) == ("open: [False, False]\n", 0), done.stderr
    assert "the first one fails" in done.stderr


# B14: nulls of the engine.


async def test_a_null_for_the_runtimes_is_an_error_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    sandbox = AsyncSandbox(1, runtime="crun")
    real = sandbox._engine.call

    async def call(method: str, path: str, **options: Any) -> bytes:
        return b'{"Runtimes":null}' if path == "/info" else await real(method, path, **options)

    monkeypatch.setattr(sandbox._engine, "call", call)
    with pytest.raises(EngineError, match="has no runtime 'crun'"):
        await sandbox.initialize()


# B15: the wrong loop.


def test_close_on_another_loop_changes_nothing() -> None:
    home = asyncio.new_event_loop()
    sandbox = AsyncSandbox(1)
    try:
        home.run_until_complete(sandbox.initialize())
        for call in (sandbox.close, lambda: sandbox.run("print(1)")):
            with pytest.raises(RuntimeError, match="another event loop"):
                asyncio.run(call())
        assert home.run_until_complete(sandbox.run("print(1)")).stdout == "1\n"
        home.run_until_complete(sandbox.close())
    finally:
        home.close()


# B13: trio in guest mode.


def test_a_run_in_trios_guest_mode() -> None:
    done = run_python("""
    import asyncio, trio
    from dayfly import AsyncSandbox
    async def guest():
        async with AsyncSandbox(1) as sandbox:
            return (await sandbox.run("print('guest')")).stdout
    async def host():
        loop, done = asyncio.get_running_loop(), asyncio.Future()
        trio.lowlevel.start_guest_run(guest, run_sync_soon_threadsafe=loop.call_soon_threadsafe, done_callback=done.set_result)
        print((await done).unwrap(), end="")
    asyncio.run(host())
    """)
    assert (done.stdout, done.returncode) == ("guest\n", 0), done.stderr


# B10, B9: the watchdog's interpreter.


def test_a_frozen_application_is_never_started_again(tmp_path: Path) -> None:
    done = run_python(f"""
    import logging, subprocess, sys
    logging.basicConfig()
    calls, real = [], subprocess.Popen
    class Popen(real):
        def __init__(self, command, **options):
            if "ldconfig" not in command[0]:  # trio's import looks for a library
                calls.append(command[0])
            super().__init__(command, **options)
    subprocess.Popen = Popen
    sys.executable, sys.frozen = {str(tmp_path / "app")!r}, True
    from dayfly import Sandbox
    with Sandbox(1) as sandbox:
        print(sandbox.run("print(1)").stdout, end="")
    print(calls)
    """)
    assert done.stdout == "1\n[]\n", done.stderr
    assert "no watchdog" in done.stderr and "DAYFLY_PYTHON" in done.stderr


def test_a_signal_that_kills_writers_of_pipes_does_no_harm() -> None:
    done = run_python("""
    import os, signal, subprocess, time
    processes, real = [], subprocess.Popen
    class Popen(real):
        def __init__(self, command, **options):
            super().__init__(command, **options)
            if "watchdog_process" in command[-1]:
                processes.append(self.pid)
    subprocess.Popen = Popen
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    from dayfly import Sandbox
    with Sandbox(1) as sandbox:
        os.kill(*processes, signal.SIGKILL)
        print("killed", flush=True)
        time.sleep(0.2)
        print(sandbox.run("print(1)").stdout, end="")
    print("alive")
    """)
    assert (done.stdout, done.returncode) == ("killed\n1\nalive\n", 0), done.stderr


@pytest.mark.alone
def test_the_engine_is_reached_over_a_relative_path(engine: Any, tmp_path: Path) -> None:
    """Also by the watchdog, whose working directory is another one: it removes what a killed host
    left."""
    (tmp_path / "engine.sock").symlink_to(engine.path)
    program = """
    import os, signal
    from dayfly import Sandbox
    sandbox = Sandbox(1, docker_host="unix://engine.sock")
    sandbox.initialize()
    print(sandbox._sandbox._cleaner._instance, flush=True)
    signal.pause()
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        label = f"dayfly.instance={process.stdout.readline().strip()}"
        # One that was never started: the end of a connection does not end it.
        (row,) = engine.call("GET", "/containers/json", all="1", filters={"label": [label]})[1]
        created = engine_create(engine, row)
        process.kill()
    with within(15):
        while engine.call("GET", f"/containers/{created}/json")[0] != 404:
            time.sleep(0.1)


def engine_create(engine: Any, row: dict[str, Any]) -> str:
    """Create a container with the labels of another one, and do not start it."""
    import http.client
    import json

    connection = http.client.HTTPConnection("localhost", timeout=30)
    connection.sock = socket.socket(socket.AF_UNIX)
    with contextlib.closing(connection):
        connection.sock.connect(engine.path)
        body = json.dumps({"Image": row["ImageID"], "Labels": row["Labels"]})
        connection.request("POST", "/containers/create", body, {"Content-Type": "application/json"})
        answer = json.loads(connection.getresponse().read())
    return str(answer["Id"])


def test_an_interrupted_call_is_cancelled() -> None:
    done = run_python("""
    import os, signal, threading
    from dayfly import Sandbox
    with Sandbox(1, max_containers=1) as sandbox:
        threading.Timer(1, os.kill, (os.getpid(), signal.SIGINT)).start()
        try:
            sandbox.run("import time; time.sleep(60)", timeout_ms=60_000)
        except KeyboardInterrupt:
            print("interrupted", sandbox.stats().running)
        print(sandbox.run("print(1)").stdout, end="")
    """)
    assert (done.stdout, done.returncode) == ("interrupted 0\n1\n", 0), done.stderr
    assert signal.getsignal(signal.SIGINT) is not None
