"""What happens to the host process: killed at any point, cancelled at any await, out of
descriptors. Nothing stays, nothing hangs."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Awaitable, Callable, Coroutine, Generator
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest

from dayfly import AsyncSandbox, DayflyError, PoolClosed, Sandbox, StartFailed

from . import proxy as faults
from .conftest import Oracle, eventually
from .proxy import Proxy

WAVES, AT_ONCE = 10, 5

# One interpreter that has imported everything, and forks hosts: fifty starts of Python would take
# longer than all the rest.
HOSTS = """
    import os, random, signal, sys, time
    from dayfly import Sandbox

    def host(dice):
        while True:
            with Sandbox(pool_size=2) as sandbox:
                sandbox.run("print(1)")
                time.sleep(dice.uniform(0, 0.1))
                sandbox.run("while True: pass", timeout_ms=100)

    dice = random.Random(int(sys.argv[1]))
    for wave in sys.stdin:
        ends = {}
        for _ in range(int(wave)):
            seed, begun = dice.random(), time.monotonic()
            pid = os.fork()
            if pid == 0:
                host(random.Random(seed))
            ends[pid] = begun + dice.uniform(0, 1.5)
        for pid, end in sorted(ends.items(), key=lambda item: item[1]):
            time.sleep(max(0, end - time.monotonic()))
            os.kill(pid, signal.SIGKILL)
        assert all(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL for pid in ends)
        print(*ends, flush=True)
"""


@pytest.mark.alone
def test_a_host_killed_at_fifty_random_points_leaves_nothing(oracle: Oracle) -> None:
    """H23. A living sibling's containers are left alone meanwhile, and what looks after the dead
    ones' ends as well."""
    mark = f"dayfly-test-{os.getpid()}"
    command = [sys.executable, "-c", textwrap.dedent(HOSTS), "1"]
    environment = {**os.environ, "DAYFLY_TEST": mark}
    with (
        Sandbox() as sibling,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment) as hosts,
    ):
        assert hosts.stdin is not None and hosts.stdout is not None
        (theirs,) = oracle.mine()
        for _ in range(WAVES):
            print(AT_ONCE, file=hosts.stdin, flush=True)
            killed = [int(pid) for pid in hosts.stdout.readline().split()]
            assert len(killed) == AT_ONCE
            within(5, lambda killed=killed: not any(oracle.mine(pid) for pid in killed))  # type: ignore[misc]
        hosts.stdin.close()
        assert hosts.wait(10) == 0
        assert [row["Id"] for row in oracle.mine()] == [theirs["Id"]]
        assert sibling.run("print(1)").stdout == "1\n"
    within(20, lambda: not processes(mark))


def within(seconds: float, condition: Callable[[], bool]) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds:g} s"
        time.sleep(0.05)


def processes(mark: str) -> list[str]:
    """Command lines of the processes with this mark in their environment."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (folder / "environ").read_bytes():
                found.append((folder / "cmdline").read_text().replace("\0", " "))
        except OSError:
            pass
    return found


# Cancellation.


class CancelAt:
    """Awaits a coroutine, and cancels the scope when it awaits something for the nth time."""

    def __init__(self, work: Coroutine[Any, Any, Any], number: int, scope: anyio.CancelScope) -> None:
        self._work, self._number, self._scope = work, number, scope
        self.reached = False

    def __await__(self) -> Generator[Any, Any, Any]:
        inner = self._work.__await__()
        step: Callable[[], Any] = partial(next, inner)
        count = 0
        while True:
            try:
                waits_for = step()
            except StopIteration as end:
                return end.value
            if count == self._number:
                self.reached = True
                self._scope.cancel()
            count += 1
            try:
                got = yield waits_for
                step = partial(inner.send, got)
            except BaseException as error:  # noqa: BLE001 - the cancellation, on its way in
                step = partial(inner.throw, error)


async def cancelled_at_every_await(work: Callable[[], Coroutine[Any, Any, Any]], then: Callable[[], Awaitable[None]]) -> int:
    """Run the work again and again, cancelled one await later each time, until it ends before.
    Return the number of its awaits."""
    number = 0
    while True:
        with anyio.CancelScope() as scope:
            attempt = CancelAt(work(), number, scope)
            await attempt
        await then()
        if not attempt.reached:
            return number
        number += 1


@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
async def test_a_run_cancelled_at_every_await(oracle: Oracle, anyio_backend: str) -> None:
    async with AsyncSandbox(pool_size=2) as sandbox:

        async def then() -> None:
            assert (await sandbox.run("print(1)")).stdout == "1\n"

        assert await cancelled_at_every_await(lambda: sandbox.run("import time; time.sleep(0.01)"), then) >= 2
        await eventually(lambda: sandbox.stats().warm == len(oracle.mine()) == 2)
        assert sandbox.stats().running == sandbox.stats().waiting == 0


@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
async def test_a_stream_cancelled_at_every_await(oracle: Oracle, anyio_backend: str) -> None:
    async with AsyncSandbox(pool_size=2) as sandbox:

        async def stream() -> None:
            async for _ in sandbox.stream("import os; os.write(1, b'x')"):
                pass

        async def then() -> None:
            assert (await sandbox.run("print(1)")).stdout == "1\n"

        assert await cancelled_at_every_await(stream, then) >= 2
        await eventually(lambda: sandbox.stats().warm == len(oracle.mine()) == 2)


@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
async def test_initialize_and_close_cancelled_at_every_await(oracle: Oracle, anyio_backend: str) -> None:
    made: list[AsyncSandbox] = []

    async def whole() -> None:
        made.append(AsyncSandbox())
        async with made[-1] as sandbox:
            await sandbox.run("print(1)")

    async def then() -> None:
        assert not oracle.mine()

    assert await cancelled_at_every_await(whole, then) >= 3


@pytest.mark.parametrize(("what", "anyio_backend"), [("_live", "trio"), ("container", "asyncio")])
async def test_the_work_in_the_background_cancelled_at_every_await(
    what: str, oracle: Oracle, monkeypatch: pytest.MonkeyPatch, anyio_backend: str
) -> None:
    """What `close` can interrupt: the preparation, and each step of a container's life from its
    creation to its removal."""
    at: list[int] = [0]
    attempts: list[CancelAt] = []
    if what == "container":
        from dayfly._container import Container as Owner

        method = "live"
    else:
        from dayfly._sandbox import AsyncSandbox as Owner  # type: ignore[assignment]

        method = "_live"
    original = getattr(Owner, method)

    async def interrupted(self: Any, *arguments: Any, **options: Any) -> None:
        with anyio.CancelScope() as scope:
            attempts.append(CancelAt(original(self, *arguments, **options), at[0], scope))
            await attempts[-1]
        if attempts[-1].reached:
            raise StartFailed("interrupted")

    monkeypatch.setattr(Owner, method, interrupted)
    while True:
        attempts.clear()
        sandbox = AsyncSandbox(queue_timeout_ms=100)
        with anyio.move_on_after(10):
            try:
                async with sandbox:
                    await sandbox.run("print(1)")
            except DayflyError:
                pass
        assert not oracle.mine()
        if not attempts[0].reached:
            break
        at[0] += 1
    assert at[0] > 10


async def test_close_in_another_task_at_any_moment_of_initialize(oracle: Oracle, proxy: Proxy) -> None:
    for site in ("version", "info", "image", "list", "create", "inspect", "attach", "start"):
        proxy.fault(site, faults.slow)
        sandbox = AsyncSandbox(docker_host=proxy.address)
        async with anyio.create_task_group() as tasks:

            async def initialize(sandbox: AsyncSandbox = sandbox) -> None:
                with pytest.raises(PoolClosed, match="closed while it was being initialized"):
                    await sandbox.initialize()

            tasks.start_soon(initialize)
            await eventually(lambda site=site: proxy.hit[site] > 0)  # type: ignore[misc]
            await sandbox.close()
        proxy.clear()
        assert not oracle.mine()


async def test_close_is_bounded_while_the_engine_hangs(oracle: Oracle, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    """H14: every connection is accepted, and nothing is ever answered; the streams stand still as
    well."""
    monkeypatch.setattr("dayfly._sandbox.CALL_DEADLINE_AT_CLOSE", 0.5)
    monkeypatch.setattr("dayfly._sandbox.CLOSE_DEADLINE", 1.5)
    sandbox = AsyncSandbox(pool_size=3, docker_host=proxy.address)
    await sandbox.initialize()
    ends: list[DayflyError] = []

    async def run() -> None:
        with pytest.raises(DayflyError) as caught:
            await sandbox.run("while True: pass")
        ends.append(caught.value)

    async with anyio.create_task_group() as tasks:
        for _ in range(2):
            tasks.start_soon(run)
        await eventually(lambda: sandbox.stats().running == 2)
        for site in faults.SITES:
            proxy.fault(site, faults.hang)
        proxy.stream_fault = faults.IN_MID_RUN["swallow"]
        tasks.start_soon(run)
        await eventually(lambda: proxy.hit["create"] > 0)
        begun = time.monotonic()
        await sandbox.close()
        took = time.monotonic() - begun
    assert took < 3.5, "close is shielded, so its time is measured"
    assert [type(end) for end in ends] == [PoolClosed] * 3
    # What runs ends with its connection. What was created and not started yet waits for an engine
    # that answers.
    await eventually(lambda: all(row["State"] == "created" for row in oracle.mine()), 5)
    proxy.clear()
    await eventually(lambda: not oracle.mine(), 15)


# Descriptors.

NO_DESCRIPTORS = """
    import os, resource
    import anyio
    from dayfly import AsyncSandbox, DayflyError, PoolTimeout

    HARD = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    held = []

    def leave(descriptors):
        while held:
            os.close(held.pop())
        if descriptors is not None:
            resource.setrlimit(resource.RLIMIT_NOFILE, (128, HARD))
            try:
                while True:
                    held.append(os.dup(1))
            except OSError:
                for _ in range(descriptors):
                    os.close(held.pop())

    async def use(sandbox):
        for number in range(3):
            assert (await sandbox.run(f"print({number})")).stdout == f"{number}\\n"

    async def initialize_with_none_left():
        failed = 0
        for free in range(12):
            sandbox = AsyncSandbox(queue_timeout_ms=1_000)
            leave(free)
            try:
                async with sandbox:
                    await use(sandbox)
            except DayflyError as error:
                assert "descriptor" in str(error) or isinstance(error, PoolTimeout), error
                failed += 1
            leave(None)
        assert failed, "no call ever failed"
        async with AsyncSandbox() as sandbox:
            await use(sandbox)

    async def none_left_in_use():
        async with AsyncSandbox(pool_size=2, queue_timeout_ms=1_000) as sandbox:
            for free in (0, 1):
                leave(free)
                try:
                    for _ in range(3):
                        await use(sandbox)
                except DayflyError as error:
                    assert "descriptor" in str(error) or isinstance(error, PoolTimeout), error
                leave(None)
                while sandbox.stats().warm < 2:
                    await anyio.sleep(0.05)
                await use(sandbox)

    before = len(os.listdir("/proc/self/fd"))
    anyio.run(initialize_with_none_left)
    anyio.run(none_left_in_use)
    assert len(os.listdir("/proc/self/fd")) == before
"""


def test_a_host_without_free_descriptors_says_so_and_recovers(oracle: Oracle) -> None:
    """H32. That it cannot read who is alive must not make it take a living sibling's containers for
    left over."""
    command = [sys.executable, "-c", textwrap.dedent(NO_DESCRIPTORS)]
    with Sandbox() as sibling:
        theirs = oracle.mine()
        done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
        assert done.returncode == 0, done.stderr
        assert [row["Id"] for row in oracle.mine()] == [row["Id"] for row in theirs]
        assert sibling.run("print(1)").stdout == "1\n"
