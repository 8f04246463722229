"""What others do to the engine and its containers meanwhile, sockets that lead nowhere, slow
engines, clocks that jump."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest
from tests.conftest import within

from dayfly import AsyncSandbox, ContainerLost, EngineError, EngineUnreachable, Outcome, Result, Sandbox

from . import proxy as faults
from .conftest import Oracle, eventually
from .proxy import Exchange, Proxy

ENDLESS = "import os\nos.write(1, b'begun')\nwhile True: pass"


@pytest.mark.parametrize("length", [-5, 0, 5])
async def test_the_end_and_the_deadline_at_once(length: int) -> None:
    """H1: one or the other, never both, never neither, and the run's own clock agrees."""
    code = f"import time; time.sleep({(60 + length) / 1_000})"
    outcomes = set()
    async with AsyncSandbox(pool_size=3) as sandbox:
        for _ in range(10):
            result = await sandbox.run(code, timeout_ms=60)
            outcomes.add(result.outcome)
            assert result.outcome in (Outcome.OK, Outcome.TIMEOUT)
            assert result.timed_out is result.is_error is (result.outcome is Outcome.TIMEOUT)
            assert (result.exit_code == 0) is (result.outcome is Outcome.OK)
            if result.outcome is Outcome.TIMEOUT:
                assert result.wall_ms >= 59
    assert outcomes


async def test_the_shortest_deadline_and_a_far_one() -> None:
    """H4."""
    async with AsyncSandbox(pool_size=2) as sandbox:
        assert (await sandbox.run("while True: pass", timeout_ms=1)).outcome is Outcome.TIMEOUT
        begun = time.monotonic()
        assert (await sandbox.run("print(1)", timeout_ms=3_600_000)).stdout == "1\n"
        assert time.monotonic() - begun < 60


async def test_a_clock_that_jumps_changes_no_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    """H5: by an hour and back, before and in the middle of a run."""
    clock, jump = time.time, [0.0]
    monkeypatch.setattr(time, "time", lambda: clock() + jump[0])
    async with AsyncSandbox(pool_size=2) as sandbox:
        for hour in (3_600, -3_600):
            jump[0], pieces = hour, []
            async for item in sandbox.stream("import os, time\nos.write(1, b'a')\ntime.sleep(0.2)\nos.write(1, b'b')", timeout_ms=5_000):
                jump[0] = -hour
                pieces.append(item)
            assert pieces[-1].outcome is Outcome.OK and pieces[-1].wall_ms < 5_000  # type: ignore[union-attr]
        late = await sandbox.run("while True: pass", timeout_ms=200)
        assert late.outcome is Outcome.TIMEOUT and late.wall_ms >= 199


async def test_the_oom_event_may_come_after_the_end(oracle: Oracle, proxy: Proxy) -> None:
    """Seen with gVisor, once in forty: a container that the kernel had killed was reported as
    lost."""
    death = b'{"Action":"die","Actor":{"Attributes":{"exitCode":"137"}}}\n'
    asked = 0

    async def tell(call: Exchange) -> None:
        nonlocal asked
        asked += 1
        await faults.reply(200, death if asked < 4 else death + b'{"Action":"oom"}\n')(call)

    proxy.fault("events", tell)
    async with AsyncSandbox(docker_host=proxy.address) as sandbox:
        items = []
        async for item in sandbox.stream(ENDLESS):
            items.append(item)
            for row in oracle.mine():
                oracle.call("POST", f"/containers/{row['Id']}/kill")
    assert isinstance(items[-1], Result) and items[-1].outcome is Outcome.OUT_OF_MEMORY
    assert (items[-1].stdout, asked) == ("begun", 4)


async def test_a_slow_start_is_not_billed_to_the_program(proxy: Proxy) -> None:
    """H6: the engine takes far longer for a start than the program may take."""

    async def take_long(call: Exchange) -> None:
        await call.answer_later(1.5)

    proxy.fault("start", take_long)
    async with AsyncSandbox(docker_host=proxy.address) as sandbox:
        for number in range(2):
            assert (await sandbox.run(f"print({number})", timeout_ms=500)).stdout == f"{number}\n"


async def test_a_renamed_container_is_found_by_its_label(oracle: Oracle) -> None:
    """H10."""
    async with AsyncSandbox(max_containers=2) as sandbox:
        with anyio.move_on_after(30):
            async for _ in sandbox.stream(ENDLESS):
                for row in oracle.mine():
                    oracle.call("POST", f"/containers/{row['Id']}/rename", name=f"somebody-elses-{row['Id'][:12]}")
                break
        assert (await sandbox.run("print(1)")).stdout == "1\n"
        await eventually(lambda: sandbox.stats().warm == len(oracle.mine()) == 1)
    assert not oracle.mine()


async def test_a_container_restarted_in_mid_run_is_lost(oracle: Oracle) -> None:
    """H10: it comes back without the program, and with nobody who wants it."""
    async with AsyncSandbox(max_containers=1) as sandbox:
        with pytest.raises(ContainerLost) as caught:
            async for _ in sandbox.stream(ENDLESS):
                (row,) = oracle.mine()
                await anyio.to_thread.run_sync(lambda: oracle.call("POST", f"/containers/{row['Id']}/restart", t="0"))  # noqa: B023
        assert caught.value.delivered
        assert (await sandbox.run("print(1)")).stdout == "1\n"
    assert not oracle.mine()


async def test_an_image_that_is_tagged_anew_changes_nothing_for_a_pool(oracle: Oracle, image: str, image_python2: str) -> None:
    """H29: a sandbox keeps the image that it has looked at, by its id."""
    repository, tag = "dayfly/test-retagged", str(os.getpid())
    name = f"{repository}:{tag}"

    def retag(image: str) -> None:
        assert oracle.call("POST", f"/images/{image}/tag", repo=repository, tag=tag)[0] == 201

    retag(image)
    try:
        async with AsyncSandbox(image=name, max_containers=1) as sandbox:
            retag(image_python2)
            for _ in range(2):
                assert (await sandbox.run("print(1)")).stdout == "1\n"
            await eventually(lambda: sandbox.stats().warm == 1)
            assert {row["ImageID"] for row in oracle.mine()} == {image}
    finally:
        oracle.call("DELETE", f"/images/{name}")


async def test_a_stranger_s_container_is_not_touched(oracle: Oracle, image: str) -> None:
    """H33: neither one without our label, nor one of another sandbox, whatever its name says."""
    async with AsyncSandbox() as other, AsyncSandbox() as sandbox:
        theirs = {row["Id"] for row in oracle.mine()}
        for _ in range(2):
            with anyio.move_on_after(0.1):
                await sandbox.run("while True: pass")
        await eventually(lambda: sandbox.stats().warm == 1 and len(oracle.mine()) == 2)
        assert len(theirs & {row["Id"] for row in oracle.mine()}) == 1
        assert (await other.run("print(1)")).stdout == "1\n"


@pytest.mark.parametrize("lacking", ["MemoryLimit", "PidsLimit", "CpuCfsQuota", "SecurityOptions"])
async def test_an_engine_without_the_means_is_refused_by_name(lacking: str, proxy: Proxy, oracle: Oracle) -> None:
    """H31."""
    info = {**oracle.call("GET", "/info")[1], lacking: None}
    proxy.fault("info", faults.reply(200, json.dumps(info).encode()))
    with pytest.raises(EngineError, match=r"does not enforce (memory|limits on processes|processor|seccomp)"):
        await AsyncSandbox(docker_host=proxy.address).initialize()
    assert proxy.seen["create"] == 0


async def test_another_event_loop_is_told_so() -> None:
    """I10."""
    async with AsyncSandbox() as sandbox:

        def elsewhere() -> None:
            with pytest.raises(RuntimeError, match="another event loop"):
                asyncio.run(sandbox.run("print(1)"))

        await anyio.to_thread.run_sync(elsewhere)
        assert (await sandbox.run("print(1)")).stdout == "1\n"


def test_a_forgotten_sandbox_warns(oracle: Oracle) -> None:
    """I14: and it is closed."""
    before = set(threading.enumerate())  # an adapter's sandbox lives as long as this process
    sandbox = Sandbox()
    sandbox.initialize()
    assert oracle.mine()
    with pytest.warns(ResourceWarning, match="was not closed"):
        del sandbox
    end = time.monotonic() + 10
    while oracle.mine() or any(thread.name.startswith("dayfly") for thread in set(threading.enumerate()) - before):
        assert time.monotonic() < end
        time.sleep(0.05)


async def test_bytes_that_detach_a_terminal_pass() -> None:
    """I15: Ctrl-P, Ctrl-Q, Ctrl-D mean something on a terminal, and there is none."""
    keys = bytes(range(32)) + b"\x10\x11\x04"
    async with AsyncSandbox() as sandbox:
        result = await sandbox.run("import sys; sys.stdout.buffer.write(sys.stdin.buffer.read())", stdin=keys)
        assert result.stdout.encode() == keys


# Sockets that lead nowhere (H15).


@pytest.fixture
def path() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="dayfly-") as folder:
        yield Path(folder) / "s"


async def said_at(path: Path) -> str:
    with within(10), pytest.raises(EngineUnreachable) as caught:
        await AsyncSandbox(docker_host=f"unix://{path}").initialize()
    return str(caught.value)


async def test_no_socket(path: Path) -> None:
    assert f"there is no socket {path}" in await said_at(path)


async def test_a_socket_that_nobody_listens_on(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    assert "no daemon answers on it" in await said_at(path)


# anyio leaves the socket of a connection that it gave up waiting for to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_a_listener_whose_queue_is_full(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dayfly._engine_api.DEFAULT_DEADLINE", 0.5)
    with socket.socket(socket.AF_UNIX) as deaf:
        deaf.bind(str(path))
        deaf.listen(0)
        crowd = [socket.socket(socket.AF_UNIX) for _ in range(3)]
        try:
            for one in crowd:
                one.setblocking(False)
                try:
                    one.connect(str(path))
                except BlockingIOError:
                    pass
            assert await said_at(path)
        finally:
            for one in crowd:
                one.close()
    gc.collect()


async def test_a_file_that_is_no_socket() -> None:
    assert await said_at(Path(__file__))


async def test_a_socket_that_this_user_may_not_use(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as theirs:
        theirs.bind(str(path))
        theirs.listen()
        os.chmod(path, 0)  # noqa: PTH101 - it takes no time
        os.chmod(path.parent, 0o755)  # noqa: PTH101
        user = os.geteuid()
        if user == 0:  # whom no mode keeps out
            os.seteuid(65_534)
        try:
            assert "may not write" in await said_at(path)
        finally:
            os.seteuid(user)
