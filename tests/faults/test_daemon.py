"""The daemon itself stops, dies and freezes, at each point of a container's life (H11 to H14): well
again within 5 s of its return."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
from collections.abc import Iterator

import anyio
import pytest

from dayfly import AsyncSandbox, ContainerLost, DayflyError, Outcome, PoolTimeout, Result

from . import proxy as faults
from .conftest import Oracle, eventually
from .daemon import Daemon
from .proxy import Exchange, Fault, Proxy

BACK_WITHIN = 5.0
FROZEN = 1.5
"""Seconds; longer than every deadline below."""
AT = ("idle", "run", "create", "start", "delete")


@pytest.fixture(scope="module")
def daemon(oracle: Oracle, image: str) -> Iterator[Daemon]:
    if os.geteuid() != 0 or shutil.which("dockerd") is None:
        pytest.skip("a daemon of the tests' own needs root and dockerd")
    daemon = Daemon()
    try:
        daemon.start()
        daemon.load(oracle, image)
        yield daemon
    finally:
        daemon.close()


@pytest.fixture
def proxy(daemon: Daemon) -> Iterator[Proxy]:
    """Only to know the moment: at which call the daemon is."""
    if not daemon.answers():  # the test before this one has failed
        daemon.start()
    try:
        with Proxy(daemon.oracle.path) as proxy:
            yield proxy
    finally:
        daemon.kill_programs()  # what one test leaves must not be the next one's failure


@pytest.fixture(autouse=True)
def _short_deadlines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dayfly._engine_api.DEFAULT_DEADLINE", 1.0)
    monkeypatch.setattr("dayfly._container.READY_DEADLINE", 1.0)
    monkeypatch.setattr("dayfly._cleaner.REMOVE_DEADLINE", 1.0)
    monkeypatch.setattr("dayfly._container.START_GRACE", 1.0)


def in_mid_call(daemon: Daemon, number: signal.Signals) -> Fault:
    """The daemon has the request, and gets the signal before it can have answered."""

    async def fault(call: Exchange) -> None:
        call.proxy.clear()
        await call.forward(call.request)
        daemon.signal(number)
        await call.relay()

    return fault


async def gone(daemon: Daemon) -> None:
    await eventually(lambda: not daemon.containers(), 15)
    await eventually(lambda: not daemon.programs())


async def gone_but_for_the_forgotten(daemon: Daemon) -> None:
    """A daemon that ends while it starts a container, most of all by SIGKILL, may know nothing of
    it afterwards, and its shim keeps its stdin open.

    So one may be left in which nothing has run but our runner, if that, as SECURITY.md says.
    """
    await eventually(lambda: not daemon.containers(), 15)
    with anyio.move_on_after(10):
        while daemon.programs():
            await anyio.sleep(0.02)
    forgotten = daemon.programs()
    assert len(forgotten) <= 2, "no more than were being made"
    assert {pid: daemon.runs(pid) for pid in forgotten if not daemon.has_no_program(pid)} == {}


async def fault_at(point: str, number: signal.Signals, sandbox: AsyncSandbox, daemon: Daemon, proxy: Proxy) -> None:
    """Make the daemon get the signal at this point, with a program running if that is the point."""
    if point in faults.SITES:
        proxy.fault(point, in_mid_call(daemon, number))
        code = "while True: pass" if point == "delete" else "print(1)"
        with contextlib.suppress(DayflyError), anyio.move_on_after(0.3):
            await sandbox.run(code)
        await eventually(lambda: proxy.hit[point] > 0)
    elif point == "run":
        stream = sandbox.stream("import os, time\nos.write(1, b'begun')\ntime.sleep(4)\nos.write(1, b'end')", timeout_ms=20_000)
        try:
            async for item in stream:
                if getattr(item, "text", None) == "begun":
                    daemon.signal(number)
                    if number is signal.SIGSTOP:
                        await anyio.sleep(FROZEN)
                        daemon.signal(signal.SIGCONT)
                if isinstance(item, Result):
                    assert number is signal.SIGSTOP
                    assert (item.outcome, item.stdout) == (Outcome.OK, "begunend")
        except ContainerLost as error:
            assert error.delivered and number is not signal.SIGSTOP
    else:
        daemon.signal(number)


async def answers(sandbox: AsyncSandbox) -> bool:
    try:
        assert (await sandbox.run("print(2)")).stdout == "2\n"
    except DayflyError:
        return False
    return True


@pytest.mark.parametrize("point", AT)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGSTOP], ids=lambda number: number.name)
async def test_the_pool_is_well_soon_after_the_daemon_is_back(
    number: signal.Signals, point: str, daemon: Daemon, proxy: Proxy, image: str
) -> None:
    async with AsyncSandbox(pool_size=2, image=image, docker_host=proxy.address, queue_timeout_ms=1_000) as sandbox:
        with anyio.fail_after(40):
            await fault_at(point, number, sandbox, daemon, proxy)
            if number is signal.SIGSTOP:
                if point != "run":
                    await anyio.sleep(FROZEN)
                daemon.signal(signal.SIGCONT)
            else:
                await anyio.to_thread.run_sync(daemon.wait)
                with pytest.raises((PoolTimeout, ContainerLost)):
                    await sandbox.run("print(1)")
                await anyio.to_thread.run_sync(daemon.start)
            await eventually(daemon.answers)
            with anyio.fail_after(BACK_WITHIN):
                while not await answers(sandbox):
                    pass
            await eventually(lambda: sandbox.stats().warm == len(daemon.containers()) == 2, 15)
            assert await answers(sandbox)
    forgets = number is signal.SIGKILL or (number is signal.SIGTERM and point == "start")
    await (gone_but_for_the_forgotten if forgets else gone)(daemon)


async def test_a_container_that_outlives_its_daemon_is_removed(daemon: Daemon, proxy: Proxy, image: str) -> None:
    """H12: with live-restore, containers run on without a daemon, and what is attached to them is
    lost all the same."""
    daemon.signal(signal.SIGTERM)
    await anyio.to_thread.run_sync(daemon.wait)
    await anyio.to_thread.run_sync(daemon.start, "--live-restore")
    async with AsyncSandbox(pool_size=2, image=image, docker_host=proxy.address, queue_timeout_ms=1_000) as sandbox:
        with anyio.fail_after(40):
            await fault_at("run", signal.SIGTERM, sandbox, daemon, proxy)
            await anyio.to_thread.run_sync(daemon.wait)
            await anyio.to_thread.run_sync(daemon.start, "--live-restore")
            with anyio.fail_after(BACK_WITHIN):
                while not await answers(sandbox):
                    pass
            await eventually(lambda: sandbox.stats().warm == len(daemon.containers()) == 2, 15)
    await gone(daemon)


async def test_a_killed_shim_is_a_lost_container(daemon: Daemon, proxy: Proxy, image: str) -> None:
    """H13."""
    async with AsyncSandbox(image=image, docker_host=proxy.address, max_containers=1) as sandbox:
        with pytest.raises(ContainerLost) as caught:
            async for item in sandbox.stream("import os, time\nos.write(1, b'begun')\ntime.sleep(60)", timeout_ms=60_000):
                assert getattr(item, "text", None) == "begun"
                daemon.kill_shims()
        assert caught.value.delivered
        assert await answers(sandbox)
    await gone(daemon)
