"""Cancellation, death and races first: whatever happens to a caller, a container or the host
process, no slot is lost and nothing stays."""

from __future__ import annotations

import gc
import json
import os
import random
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import httpx
import pytest

from dayfly import AsyncSandbox, ContainerLost, DayflyError, Limits, Outcome, PoolClosed, PoolFull, PoolTimeout, Sandbox
from dayfly._engine_api import EngineAPI
from dayfly._owner import OwnerTask
from dayfly._post_mortem import Death

Oracle = Callable[..., Any]
FOREVER = "import os, time\nos.write(1, b'begun\\n')\ntime.sleep(3600)"


@pytest.fixture
def oracle(engine: Any) -> Oracle:
    """The engine as it is, not as dayfly sees it: one raw HTTP call."""

    def call(method: str, path: str, **query: str) -> Any:
        return engine.call(method, path, **query)[1]

    return call


def containers(oracle: Oracle, pid: int | None = None) -> list[dict[str, Any]]:
    """All containers, in any state, that this process has made, or another one: the engine may have
    other users."""
    filters = {"label": [f"dayfly.pid={pid or os.getpid()}"]}
    rows: list[dict[str, Any]] = oracle("GET", "/containers/json", all="1", filters=json.dumps(filters))
    return rows


async def eventually(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    with anyio.fail_after(seconds):
        while not condition():
            await anyio.sleep(0.02)


async def works(sandbox: AsyncSandbox) -> None:
    """The next runs are right, and the pool is back at its size."""
    for number in range(sandbox.pool_size + 1):
        assert (await sandbox.run(f"print({number})")).stdout == f"{number}\n"
    await eventually(lambda: sandbox.stats().warm == sandbox.pool_size)
    assert sandbox.stats().running == 0


async def cancel_after(seconds: float, call: Callable[[], Awaitable[object]]) -> None:
    with anyio.move_on_after(seconds):
        await call()


async def test_a_run_cancelled_at_any_moment_leaks_nothing(oracle: Oracle) -> None:
    dice = random.Random(1)
    async with AsyncSandbox(pool_size=2) as sandbox:
        for _ in range(25):
            await cancel_after(dice.choice([0, 0.0005, 0.002, 0.005, 0.05]), lambda: sandbox.run(FOREVER))
        await works(sandbox)
        await eventually(lambda: len(containers(oracle)) == 2)


async def test_callers_cancelled_in_the_queue_leave_it() -> None:
    async with AsyncSandbox(pool_size=1, max_containers=1) as sandbox:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(cancel_after, 0.4, lambda: sandbox.run(FOREVER))
            for _ in range(20):
                tasks.start_soon(cancel_after, 0.2, lambda: sandbox.run("print(1)"))
        assert sandbox.stats().waiting == 0
        await works(sandbox)


async def test_initialize_cancelled_at_any_moment_leaves_nothing(oracle: Oracle) -> None:
    for seconds in (0, 0.005, 0.02, 0.05, 0.1, 0.2):
        sandbox = AsyncSandbox(pool_size=2)
        await cancel_after(seconds, sandbox.initialize)
        await sandbox.close()
        assert containers(oracle) == []


async def test_close_ends_runs_and_waiters_with_pool_closed(oracle: Oracle) -> None:
    sandbox = AsyncSandbox(pool_size=1, max_containers=1)
    await sandbox.initialize()
    delivered: list[bool] = []

    async def run() -> None:
        with pytest.raises(PoolClosed) as caught:
            await sandbox.run(FOREVER)
        delivered.append(caught.value.delivered)

    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(run)
        await eventually(lambda: sandbox.stats().running == 1 and sandbox.stats().waiting == 2)
        await sandbox.close()
    assert sorted(delivered) == [False, False, True]
    assert containers(oracle) == []
    with pytest.raises(PoolClosed):
        await sandbox.run("print(1)")
    await sandbox.close()


async def test_an_end_during_a_read_reports_nothing_to_the_loop(tmp_path: Path) -> None:
    """Asyncio's exception handler would have an InvalidStateError to log, which fails any test
    here."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()

        async def live(started: Callable[[], None]) -> None:
            async with await anyio.connect_unix(tmp_path / "s") as stream:
                started()
                await stream.receive()

        for _ in range(5):
            home = OwnerTask(live, lambda _: None)
            await home.started()
            other, _ = listener.accept()
            with other:
                await anyio.wait_all_tasks_blocked()
                other.send(b"x")
                await anyio.lowlevel.checkpoint()  # in the next pass of the loop, this task comes before the bytes
                await home.end()


async def test_initialize_in_one_task_and_close_in_another() -> None:
    sandbox = AsyncSandbox()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(sandbox.initialize)
    assert (await sandbox.run("print(1)")).stdout == "1\n"
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(sandbox.close)


async def test_a_dead_warm_container_is_replaced_before_a_lease(oracle: Oracle) -> None:
    async with AsyncSandbox(pool_size=2) as sandbox:
        for row in containers(oracle):
            oracle("DELETE", f"/containers/{row['Id']}", force="1")
        await eventually(lambda: sandbox.stats().failed == 2)
        await works(sandbox)


async def test_runs_whose_containers_die_first_go_to_others(oracle: Oracle) -> None:
    async with AsyncSandbox(pool_size=1) as sandbox:
        for _ in range(5):
            await eventually(lambda: sandbox.stats().warm == 1)
            killer = threading.Thread(target=oracle, args=("POST", f"/containers/{containers(oracle)[0]['Id']}/kill"))
            killer.start()
            try:
                assert (await sandbox.run("print(1)")).stdout == "1\n"
            except ContainerLost as error:
                assert error.delivered  # the one case in which a second try might run it twice
            await anyio.to_thread.run_sync(killer.join)


async def test_events_that_are_left_early_leave_nothing_open(docker_host: str, oracle: Oracle) -> None:
    """Trio warns of an async generator that is left to the garbage collector, which fails any test
    here."""
    async with AsyncSandbox(pool_size=1) as sandbox, EngineAPI(docker_host) as engine:
        assert sandbox.stats().warm == 1
        async with engine.events(containers(oracle)[0]["Id"]) as events:
            async for _ in events:
                break
        del events
        gc.collect()
        await anyio.lowlevel.checkpoint()


async def test_a_container_killed_from_outside_is_container_lost(oracle: Oracle) -> None:
    async with AsyncSandbox(pool_size=1, max_containers=1) as sandbox:
        for path, method in (("/containers/{}/kill", "POST"), ("/containers/{}", "DELETE")):
            with pytest.raises(ContainerLost, match="from outside") as caught:
                async for piece in sandbox.stream(FOREVER):
                    assert getattr(piece, "text", None) == "begun\n"
                    oracle(method, path.format(containers(oracle)[0]["Id"]), force="1")
            assert caught.value.delivered
        await works(sandbox)


async def test_a_container_paused_before_a_run_is_container_lost(oracle: Oracle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dayfly._container.START_GRACE", 0.5)
    async with AsyncSandbox(pool_size=1, max_containers=1) as sandbox:
        oracle("POST", f"/containers/{containers(oracle)[0]['Id']}/pause")
        with pytest.raises(ContainerLost, match="did not start"):
            await sandbox.run("print(1)", timeout_ms=60_000)
        await works(sandbox)


@pytest.mark.parametrize(
    ("code", "actions", "why"),
    [
        ("print(1)", None, "died before the program began"),
        ("print(1)", {"die", "oom"}, "died of an OOM kill before the program began"),
        # More than the container's pipe takes: part of the program was never handed over.
        (f"print(1){'#' * 900_000}", {"die", "oom"}, None),
    ],
    ids=["killed", "out of memory", "out of memory before the whole program was there"],
)
async def test_a_death_before_the_program_began_is_no_verdict(
    code: str, actions: set[str] | None, why: str | None, oracle: Oracle, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def died(*_: object, **__: object) -> Death:
        assert actions is not None
        return Death("137", actions)

    async with AsyncSandbox(pool_size=1, max_containers=1) as sandbox:
        container = f"/containers/{containers(oracle)[0]['Id']}"
        oracle("POST", f"{container}/pause")
        if actions is not None:
            monkeypatch.setattr("dayfly._container.post_mortem", died)

        async def kill() -> None:
            await eventually(lambda: sandbox.stats().running == 1)
            await anyio.sleep(0.3)
            oracle("POST", f"{container}/kill")

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(kill)
            if why is None:
                # It is known that the program has not begun, so another container is given it.
                assert (await sandbox.run(code)).stdout == "1\n"
            else:
                with pytest.raises(ContainerLost, match=why) as caught:
                    await sandbox.run(code)
                assert caught.value.delivered
        await works(sandbox)


async def test_a_container_paused_in_mid_run_ends_at_the_deadline(oracle: Oracle) -> None:
    async with AsyncSandbox(pool_size=1, max_containers=1) as sandbox:
        result = None
        async for item in sandbox.stream(FOREVER, timeout_ms=600):
            if getattr(item, "text", None) == "begun\n":
                oracle("POST", f"/containers/{containers(oracle)[0]['Id']}/pause")
            result = item
        assert result.outcome is Outcome.TIMEOUT and result.stdout == "begun\n"  # type: ignore[union-attr]
        await works(sandbox)


async def test_a_stream_left_early_ends_its_run(oracle: Oracle) -> None:
    async with AsyncSandbox(pool_size=1, max_containers=1) as sandbox:
        stream = sandbox.stream(FOREVER)
        async for _ in stream:
            break
        await stream.aclose()  # type: ignore[attr-defined]
        await works(sandbox)


async def test_what_on_output_raises_ends_the_run_and_is_raised() -> None:
    def fail(_: object) -> None:
        raise ZeroDivisionError("mine")

    async with AsyncSandbox(pool_size=1, max_containers=1) as sandbox:
        with pytest.raises(ZeroDivisionError, match="mine"):
            await sandbox.run(FOREVER, on_output=fail)
        await works(sandbox)


async def test_the_queue_is_bounded_in_length_and_in_time() -> None:
    async with (
        AsyncSandbox(pool_size=1, max_containers=1, max_waiting=1, queue_timeout_ms=300) as sandbox,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(cancel_after, 2, lambda: sandbox.run(FOREVER))
        await eventually(lambda: sandbox.stats().running == 1)

        async def wait() -> None:
            with pytest.raises(PoolTimeout, match="queue_timeout_ms"):
                await sandbox.run("print(1)")

        tasks.start_soon(wait)
        await eventually(lambda: sandbox.stats().waiting == 1)
        with pytest.raises(PoolFull, match="max_waiting"):
            await sandbox.run("print(1)")


async def test_a_burst_over_the_pool_gets_each_its_own_answer() -> None:
    answers: dict[int, str] = {}
    alive: list[int] = []
    async with AsyncSandbox(pool_size=3) as sandbox:

        async def run(number: int) -> None:
            answers[number] = (await sandbox.run(f"print({number})")).stdout
            stats = sandbox.stats()
            alive.append(stats.warm + stats.making + stats.running + stats.ending)

        async with anyio.create_task_group() as tasks:
            for number in range(30):
                tasks.start_soon(run, number)
        await works(sandbox)
    assert answers == {number: f"{number}\n" for number in range(30)}
    assert max(alive) <= 6


async def test_a_program_that_ends_at_its_deadline_is_ok_or_late() -> None:
    async with AsyncSandbox(pool_size=4, limits=Limits()) as sandbox:
        for extra in (-6, -3, -1, 0, 1, 3, 6):
            # One write: `print` makes two, and the deadline may come between them on a busy
            # machine.
            code = f"import os, time; os.write(1, b'begun'); time.sleep({(100 + extra) / 1000})"
            result = await sandbox.run(code, timeout_ms=100)
            assert result.outcome in (Outcome.OK, Outcome.TIMEOUT)
            assert result.timed_out is (result.outcome is Outcome.TIMEOUT) is result.is_error
            assert result.stdout == "begun" or (result.timed_out and not result.stdout)


def test_threads_share_a_sandbox() -> None:
    with Sandbox(pool_size=2) as sandbox:
        answers: dict[int, str] = {}
        threads = [threading.Thread(target=lambda n=n: answers.update({n: sandbox.run(f"print({n})").stdout})) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert answers == {n: f"{n}\n" for n in range(8)}


def test_close_from_another_thread_ends_a_sync_run() -> None:
    sandbox = Sandbox()
    sandbox.initialize()
    threading.Timer(0.3, sandbox.close).start()
    with pytest.raises(PoolClosed):
        sandbox.run(FOREVER)
    sandbox.close()


HOST = textwrap.dedent("""
    import os, sys, threading, time
    from dayfly import Sandbox
    sandbox = Sandbox(pool_size=2)
    sandbox.initialize()
    def show(piece):
        print("running", flush=True)
    if "run" in sys.argv:
        threading.Thread(target=lambda: sandbox.run("print('begun', flush=True)\\nwhile True: pass", on_output=show), daemon=True).start()
    else:
        print("running", flush=True)
""")


def host(code: str, *arguments: str) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", HOST + textwrap.dedent(code), *arguments], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "running\n"
    return process


def gone_within(oracle: Oracle, pid: int, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while containers(oracle, pid):
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


@pytest.mark.alone
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("state", ["run", "idle"])
def test_a_killed_host_leaves_nothing(oracle: Oracle, number: signal.Signals, state: str) -> None:
    with host("time.sleep(3600)", state) as process:
        process.send_signal(number)
        process.wait(20)
    assert gone_within(oracle, process.pid, 5)


@pytest.mark.alone
def test_an_interpreter_that_exits_without_close_leaves_nothing(oracle: Oracle) -> None:
    with host("sys.exit(3)") as process:
        assert process.wait(20) == 3
    assert gone_within(oracle, process.pid, 5)


@pytest.mark.alone
def test_a_fork_of_the_host_leaves_its_containers_alone(oracle: Oracle) -> None:
    code = """
        from dayfly import PoolClosed
        pid = os.fork()
        if pid == 0:
            try:
                sandbox.run("print(1)")
            except PoolClosed as error:
                print(error, flush=True)
            sandbox.close()
            os.close(1)
            time.sleep(60)
        print(sandbox.run("print('parent')").stdout, end="", flush=True)
        print(pid, flush=True)
        os.kill(os.getpid(), 9)
    """
    with host(code) as process:
        assert process.stdout is not None
        said = process.stdout.read()
        process.wait(20)
    child = int(said.split()[-1])
    try:
        assert "fork" in said and "parent\n" in said
        assert gone_within(oracle, process.pid, 5)
        os.kill(child, 0)  # it lives, and holds nothing
    finally:
        os.kill(child, signal.SIGKILL)


@pytest.mark.alone
def test_only_containers_of_dead_hosts_are_removed(oracle: Oracle, image: str, docker_host: str) -> None:
    with host("time.sleep(3600)") as living:
        theirs = {row["Id"] for row in containers(oracle, living.pid)}
        body = {"Image": image, "Labels": {"dayfly.instance": "feed", "dayfly.boot": "another"}}
        transport = httpx.HTTPTransport(uds=docker_host.removeprefix("unix://"))
        with httpx.Client(transport=transport, base_url="http://engine") as client:
            left = client.post("/containers/create", params={"name": "dayfly-4711"}, json=body).json()["Id"]
        with Sandbox() as sandbox:
            assert left not in {row["Id"] for row in oracle("GET", "/containers/json", all="1")}
            assert sandbox.run("print(1)").stdout == "1\n"
        assert {row["Id"] for row in containers(oracle, living.pid)} == theirs
        living.kill()
        living.wait()
    assert gone_within(oracle, living.pid, 5)


async def test_the_pool_recovers_from_an_engine_that_was_gone(tmp_path_factory: pytest.TempPathFactory, docker_host: str) -> None:
    """The engine's socket is a path of the test's own: taking it away is an engine that is gone,
    for new connections."""
    folder = tmp_path_factory.mktemp("s")
    link = folder / "engine.sock"
    link.symlink_to(docker_host.removeprefix("unix://"))
    async with AsyncSandbox(docker_host=f"unix://{link}", queue_timeout_ms=700) as sandbox:
        link.rename(folder / "away")
        # What connections are open already stay open, so runs go on until none of them is.
        with pytest.raises(PoolTimeout, match="creating one fails") as caught:
            for _ in range(20):
                await sandbox.run("print(1)")
        assert isinstance(caught.value.__cause__, DayflyError)
        (folder / "away").rename(link)
        await eventually(lambda: sandbox.stats().warm == 1, 6)
        await works(sandbox)
