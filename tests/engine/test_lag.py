"""A host that is late: the report of a run is the truth, however long the host was blocked or
stopped.

Each test blocks the host past the program's deadline, or past the time in which a program must
start, and at several points of the run. What the program did is known to the byte.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, TypeVar

import anyio
import anyio.lowlevel
import pytest

from dayfly import AsyncSandbox, ContainerLost, Limits, Outcome, Piece, Result, Sandbox
from dayfly import _deadline as deadline

T = TypeVar("T")

SMALL, LARGE = 1, 300_000
CODE = "import time\ntime.sleep({sleep})\nprint('x' * {size})"
SLEEP = 0.3
"""Seconds that the program takes; its deadline is far enough away for a busy machine."""
TIMEOUT_MS = 1_200
BLOCK = 2.0
"""Seconds for which the host is late: the deadline and every grace are over then."""
POINTS = [0.0, 0.15, 1.0]
"""Seconds from the hand-over at which the host becomes late: at once, in the middle, after the
program's end."""


@pytest.fixture
def anyio_backend() -> str:
    """One of the two suffices: what is tested is above the event loop, and each test takes
    seconds."""
    return "asyncio"


@pytest.fixture
async def sandbox() -> AsyncIterator[AsyncSandbox]:
    async with AsyncSandbox(1, max_containers=2) as sandbox:
        yield sandbox


@pytest.fixture
def blocking() -> Iterator[Sandbox]:
    with Sandbox(1, max_containers=2) as sandbox:
        yield sandbox


def check(result: Result, size: int) -> None:
    assert (result.outcome, result.exit_code, result.signal) == (Outcome.OK, 0, None)
    assert result.stdout == "x" * size + "\n"
    assert (result.stdout_truncated, result.stderr_truncated) == (False, False)
    assert result.wall_ms < TIMEOUT_MS


async def until_running(sandbox: AsyncSandbox) -> None:
    """Return when a run has its container; the program is handed over in the same pass of the loop,
    or the next."""
    while not sandbox.stats().running:
        await anyio.lowlevel.checkpoint()


async def blocked(call: Callable[[], Awaitable[T]], sandbox: AsyncSandbox, at: float, seconds: float = BLOCK) -> list[T]:
    """What a call returns if the loop is blocked `at` seconds after its container was leased."""
    results: list[T] = []

    async def run() -> None:
        results.append(await call())

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run)
        await until_running(sandbox)
        await anyio.sleep(at)
        time.sleep(seconds)  # noqa: ASYNC251 - it is what is tested
    return results


def hold_the_gil(seconds: float) -> None:
    """One call into C after another; each keeps the GIL for a good part of a second."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        sum(range(15_000_000))


# The event loop is blocked.


@pytest.mark.parametrize("size", [SMALL, LARGE])
@pytest.mark.parametrize("at", POINTS)
@pytest.mark.parametrize("block", [time.sleep, hold_the_gil], ids=["asleep", "GIL held"])
async def test_a_blocked_loop_changes_no_verdict(sandbox: AsyncSandbox, size: int, at: float, block: Any) -> None:
    results: list[Result] = []

    async def run() -> None:
        results.append(await sandbox.run(CODE.format(sleep=SLEEP, size=size), timeout_ms=TIMEOUT_MS))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run)
        await until_running(sandbox)
        await anyio.sleep(at)
        block(BLOCK)
    check(results[0], size)


async def test_a_loop_blocked_beyond_the_start_grace(sandbox: AsyncSandbox) -> None:
    results: list[Result] = []

    async def run() -> None:
        results.append(await sandbox.run("print('ran')", timeout_ms=10_000))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run)
        await until_running(sandbox)
        await anyio.lowlevel.checkpoint()
        time.sleep(5.4)  # noqa: ASYNC251 - it is what is tested
    assert (results[0].outcome, results[0].stdout) == (Outcome.OK, "ran\n")


async def test_a_loop_that_is_blocked_again_and_again(sandbox: AsyncSandbox) -> None:
    results: list[Result] = []

    async def run() -> None:
        results.append(await sandbox.run(CODE.format(sleep=SLEEP, size=900_000), timeout_ms=TIMEOUT_MS))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run)
        while not results:
            time.sleep(0.7)  # noqa: ASYNC251
            await anyio.lowlevel.checkpoint()
    check(results[0], 900_000)


async def test_a_program_that_is_late_is_late_on_a_blocked_host_too(sandbox: AsyncSandbox) -> None:
    results: list[Result] = []

    async def run() -> None:
        results.append(await sandbox.run("print('x' * 300_000, flush=True)\nwhile True: pass", timeout_ms=700))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run)
        await until_running(sandbox)
        time.sleep(BLOCK)  # noqa: ASYNC251
    assert (results[0].outcome, results[0].stdout) == (Outcome.TIMEOUT, "x" * 300_000 + "\n")
    assert results[0].stdout_truncated is False, "the runner has reported: the host did not judge alone"
    assert 700 <= results[0].wall_ms < 1_700


@pytest.mark.parametrize("at", POINTS)
async def test_both_streams_are_whole_on_a_blocked_host(sandbox: AsyncSandbox, at: float) -> None:
    code = f"import sys, time\ntime.sleep({SLEEP})\nsys.stderr.write('e' * {LARGE})\nprint('o' * 9)\nsys.exit(3)"
    result = (await blocked(lambda: sandbox.run(code, timeout_ms=TIMEOUT_MS), sandbox, at))[0]
    assert (result.outcome, result.exit_code, result.stdout, result.stderr) == (Outcome.ERROR, 3, "o" * 9 + "\n", "e" * LARGE)
    assert (result.stdout_truncated, result.stderr_truncated) == (False, False)


@pytest.mark.parametrize("at", POINTS)
async def test_an_oom_kill_on_a_blocked_host_is_one(sandbox: AsyncSandbox, at: float) -> None:
    code = "print('begun', flush=True)\nx = [bytearray(10**6) for _ in range(1000)]"
    result = (await blocked(lambda: sandbox.run(code, timeout_ms=TIMEOUT_MS), sandbox, at))[0]
    assert (result.outcome, result.signal, result.stdout) == (Outcome.OUT_OF_MEMORY, 9, "begun\n")


@pytest.mark.parametrize("at", [0.1, 0.3, 0.6])
async def test_an_oom_kill_of_the_runner_on_a_blocked_host(at: float) -> None:
    """Files fill the memory, so the kernel has nothing else left to kill: the engine is asked."""
    code = "for n in range(8): open(f'/tmp/{n}', 'wb').write(bytes(8_000_000))"
    limits = Limits(tmpfs_bytes=64_000_000, file_size_bytes=64_000_000)
    async with AsyncSandbox(memory_limit_mb=30, limits=limits) as greedy:
        result = (await blocked(lambda: greedy.run(code, timeout_ms=TIMEOUT_MS), greedy, at, 6.0))[0]
        assert result.outcome is Outcome.OUT_OF_MEMORY


@pytest.mark.parametrize("at", POINTS)
async def test_a_session_on_a_blocked_host_goes_on(sandbox: AsyncSandbox, at: float) -> None:
    async with sandbox.session() as session:

        async def both() -> list[Result]:
            first = await session.run(CODE.format(sleep=SLEEP, size=LARGE), timeout_ms=TIMEOUT_MS)
            return [first, await session.run(CODE.format(sleep=SLEEP, size=SMALL), timeout_ms=TIMEOUT_MS)]

        first, second = (await blocked(both, sandbox, at))[0]
        check(first, LARGE)
        check(second, SMALL)
        check(await session.run(CODE.format(sleep=0, size=SMALL), timeout_ms=TIMEOUT_MS), SMALL)


async def test_a_session_that_opens_on_a_blocked_host(sandbox: AsyncSandbox) -> None:
    session = sandbox.session()
    await blocked(session.open, sandbox, 0.0, 6.0)
    check(await session.run(CODE.format(sleep=0, size=SMALL), timeout_ms=TIMEOUT_MS), SMALL)
    await session.close()


async def test_a_silent_runner_is_ended_though_the_host_is_late(sandbox: AsyncSandbox, engine: Any) -> None:
    """The host's deadline ends silence: a lag puts it off once, and not for ever."""
    results: list[Result] = []
    begun = time.monotonic()

    async def run() -> None:
        results.append(await sandbox.run("print('begun', flush=True)\nwhile True: pass", timeout_ms=1_000))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run)
        await until_running(sandbox)
        await anyio.sleep(0.5)
        paused = running(engine)
        for container in paused:
            engine.call("POST", f"/containers/{container}/pause")
        time.sleep(BLOCK)  # noqa: ASYNC251
    assert paused
    assert (results[0].outcome, results[0].signal, results[0].exit_code) == (Outcome.TIMEOUT, 9, None)
    assert (results[0].stdout_truncated, results[0].stderr_truncated) == (None, None), "the host judged alone"
    assert results[0].stdout == "begun\n"
    assert time.monotonic() - begun < 0.5 + BLOCK + 3


async def test_a_warm_container_that_dies_is_never_a_lost_run(sandbox: AsyncSandbox, engine: Any) -> None:
    """Its end is noticed while a caller takes it, at each step of that."""
    for step in range(12):
        while sandbox.stats().warm < 1:
            await anyio.sleep(0.01)
        for container in running(engine):
            engine.call("POST", f"/containers/{container}/kill")
        time.sleep(0.2)  # noqa: ASYNC251 - the loop hears nothing of it yet
        for _ in range(step):
            await anyio.lowlevel.checkpoint()
        try:
            result = await sandbox.run("print('ran')")
        except ContainerLost:  # sent to a container that was dead already: whether it ran is not known
            continue
        assert result.stdout == "ran\n"


def running(engine: Any) -> list[str]:
    """The containers of this process that run, warm ones among them."""
    filters = {"label": [f"dayfly.pid={os.getpid()}"], "status": ["running"]}
    return [row["Id"] for row in engine.call("GET", "/containers/json", filters=filters)[1]]


# Consumers that are slow.


@pytest.mark.parametrize("pause", [0.02, 0.6])
async def test_a_slow_callback_changes_no_verdict(sandbox: AsyncSandbox, pause: float) -> None:
    def slow(piece: Piece) -> None:
        time.sleep(pause)

    code = CODE.format(sleep=0, size=LARGE)
    check(await sandbox.run(code, timeout_ms=TIMEOUT_MS, on_output=slow), LARGE)


async def test_callbacks_that_block_longer_than_any_grace(sandbox: AsyncSandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the deadline they block the loop for longer than the host reads at most; output is
    still unread then."""
    monkeypatch.setattr(deadline, "LONGEST", 1.0)

    def slow(piece: Piece) -> None:
        time.sleep(0.4)

    code = CODE.format(sleep=0, size=990_000)
    check(await sandbox.run(code, timeout_ms=TIMEOUT_MS, on_output=slow), 990_000)


async def test_a_slow_stream_consumer_changes_no_verdict(sandbox: AsyncSandbox) -> None:
    pieces: list[Piece] = []
    async for item in sandbox.stream(CODE.format(sleep=0, size=LARGE), timeout_ms=TIMEOUT_MS):
        if isinstance(item, Result):
            check(item, LARGE)
        else:
            pieces.append(item)
            await anyio.sleep(0.4)
    assert b"".join(piece.data for piece in pieces) == b"x" * LARGE + b"\n"


async def test_a_stream_consumer_that_blocks_the_loop(sandbox: AsyncSandbox) -> None:
    async for item in sandbox.stream(CODE.format(sleep=0, size=LARGE), timeout_ms=TIMEOUT_MS):
        if isinstance(item, Result):
            check(item, LARGE)
        else:
            time.sleep(0.5)  # noqa: ASYNC251


# Threads.


@pytest.mark.parametrize("size", [SMALL, LARGE])
@pytest.mark.parametrize("at", POINTS)
def test_a_held_gil_changes_no_verdict(blocking: Sandbox, size: int, at: float) -> None:
    results: list[Result] = []
    code = CODE.format(sleep=SLEEP, size=size)
    thread = threading.Thread(target=lambda: results.append(blocking.run(code, timeout_ms=TIMEOUT_MS)))
    thread.start()
    while not blocking.stats().running:
        time.sleep(0.001)
    time.sleep(at)
    hold_the_gil(BLOCK)
    thread.join()
    check(results[0], size)


@pytest.mark.parametrize("pause", [0.02, 0.6])
def test_a_slow_callback_in_a_thread_changes_no_verdict(blocking: Sandbox, pause: float) -> None:
    code = CODE.format(sleep=0, size=LARGE)
    check(blocking.run(code, timeout_ms=TIMEOUT_MS, on_output=lambda _: time.sleep(pause)), LARGE)


def test_a_slow_consumer_in_a_thread_changes_no_verdict(blocking: Sandbox) -> None:
    for item in blocking.stream(CODE.format(sleep=0, size=LARGE), timeout_ms=TIMEOUT_MS):
        if isinstance(item, Result):
            check(item, LARGE)
        else:
            time.sleep(0.4)


# The process is stopped, as a debugger, a shell (Ctrl-Z), a suspended machine or a cgroup freezer
# does.

HOST = """
import json, sys, threading, msgspec
from dayfly import Sandbox
with Sandbox(1, max_containers=2) as sandbox:
    for line in sys.stdin:
        size = int(line)
        code = f"import time\\ntime.sleep({SLEEP})\\nprint('x' * {size})"
        begun = lambda: print("begun", flush=True)
        result = sandbox.run(code, timeout_ms={TIMEOUT_MS}, on_start=begun)
        report = [result.outcome.value, len(result.stdout), result.exit_code, result.stdout_truncated, result.wall_ms]
        print(json.dumps(report), flush=True)
""".replace("{SLEEP}", str(SLEEP)).replace("{TIMEOUT_MS}", str(TIMEOUT_MS))


@pytest.fixture
def host() -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen([sys.executable, "-c", HOST], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(30) == 0


@pytest.mark.parametrize("size", [SMALL, LARGE])
@pytest.mark.parametrize(("at", "stopped"), [(0.0, BLOCK), (0.1, BLOCK), (0.1, 6.5), (1.0, BLOCK)])
def test_a_stopped_host_process_changes_no_verdict(host: subprocess.Popen[str], size: int, at: float, stopped: float) -> None:
    check_stopped(host, size, at, stopped)


@pytest.mark.parametrize(("size", "at", "stopped"), [(999_000, 0.0, 1.3), (999_000, 0.1, 6.5), (700_000, 0.1, 6.5)])
def test_a_large_output_waits_for_a_stopped_host(host: subprocess.Popen[str], size: int, at: float, stopped: float) -> None:
    """Docker keeps 800 KB and more for 2 s from the container's end only, so that has to wait."""
    check_stopped(host, size, at, stopped)


def check_stopped(host: subprocess.Popen[str], size: int, at: float, stopped: float) -> None:
    assert host.stdin is not None
    assert host.stdout is not None
    host.stdin.write(f"{size}\n")
    host.stdin.flush()
    assert host.stdout.readline() == "begun\n"
    time.sleep(at)
    host.send_signal(signal.SIGSTOP)
    time.sleep(stopped)
    host.send_signal(signal.SIGCONT)
    outcome, length, exit_code, truncated, wall_ms = json.loads(host.stdout.readline())
    assert (outcome, length, exit_code, truncated) == ("ok", size + 1, 0, False)
    assert wall_ms < TIMEOUT_MS
