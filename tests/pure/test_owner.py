"""The owner task: it outlives its callers, and cannot end silently. On asyncio, trio, and trio on
asyncio."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
import textwrap
import types
from collections.abc import Callable
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from dayfly import EngineError
from dayfly._owner import OwnerTask, event_loop


class Failures(list[BaseException]):
    """What `on_failure` was called with."""


async def forever(started: Callable[[], None]) -> None:
    started()
    await anyio.sleep_forever()


async def test_it_starts_and_ends() -> None:
    cleaned = []

    async def main(started: Callable[[], None]) -> None:
        try:
            await forever(started)
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0.01)
                cleaned.append(True)

    failures = Failures()
    owner = OwnerTask(main, failures.append)
    await owner.started()
    owner.check_loop()
    await owner.end()
    await owner.end()
    assert (cleaned, failures, owner.error) == ([True], [], None)


async def test_an_internal_error_is_logged_kept_and_told(caplog: pytest.LogCaptureFixture) -> None:
    fault = KeyError("a fault of ours")
    fail = anyio.Event()

    async def main(started: Callable[[], None]) -> None:
        started()
        await fail.wait()
        raise fault

    failures = Failures()
    owner = OwnerTask(main, failures.append)
    await owner.started()
    fail.set()
    await owner._over.wait()
    assert failures == [fault]
    assert owner.error is fault
    (record,) = (record for record in caplog.records if record.name == "dayfly.owner")
    assert record.levelno == logging.ERROR
    assert record.exc_info is not None
    assert record.exc_info[2] is not None
    assert "a fault of ours" in caplog.text
    assert "Traceback" in caplog.text
    with pytest.raises(KeyError) as caught:
        await owner.started()
    assert caught.value is fault
    await owner.end()


async def test_an_error_before_its_start_goes_to_who_waits(caplog: pytest.LogCaptureFixture) -> None:
    async def main(started: Callable[[], None]) -> None:
        await checkpoint()
        raise EngineError("no engine")

    failures = Failures()
    owner = OwnerTask(main, failures.append)
    for _ in range(2):
        with pytest.raises(EngineError, match="no engine"):
            await owner.started()
    await owner.end()
    assert failures == [], "who waits was told"
    assert caplog.records == [], "one of dayfly's own errors needs no traceback"


async def test_the_error_inside_a_task_group_is_told_itself() -> None:
    async def main(started: Callable[[], None]) -> None:
        async with anyio.create_task_group() as outer, anyio.create_task_group() as inner:
            outer.start_soon(anyio.sleep_forever)
            inner.start_soon(anyio.sleep_forever)
            raise EngineError("alone")

    with pytest.raises(EngineError, match="alone"):
        await OwnerTask(main, Failures().append).started()


async def test_several_errors_at_once_are_kept_together(caplog: pytest.LogCaptureFixture) -> None:
    async def fail(number: int) -> None:
        raise ValueError(number)

    async def main(started: Callable[[], None]) -> None:
        started()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(fail, 1)
            tasks.start_soon(fail, 2)

    failures = Failures()
    owner = OwnerTask(main, failures.append)
    await owner._over.wait()
    error: Any = owner.error
    assert [str(one) for one in error.exceptions] in (["1", "2"], ["2", "1"])
    assert failures == [error]
    assert "internal error" in caplog.text


async def test_a_cancelled_caller_does_not_end_it() -> None:
    owner = OwnerTask(forever, Failures().append)
    with anyio.move_on_after(0.01) as scope:
        await owner.started()
        await anyio.sleep_forever()
    assert scope.cancelled_caught
    assert not owner._over.is_set()
    await owner.end()


async def test_an_error_while_it_is_cancelled_is_not_lost(caplog: pytest.LogCaptureFixture) -> None:
    async def main(started: Callable[[], None]) -> None:
        try:
            await forever(started)
        finally:
            raise RuntimeError("in the clean-up")

    failures = Failures()
    owner = OwnerTask(main, failures.append)
    await owner.started()
    await owner.end()
    assert str(owner.error) == "in the clean-up"
    assert failures == [owner.error]
    assert "in the clean-up" in caplog.text


# A cancellation by somebody else. trio has none, but for the end of its run.


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("victim", ["its own task", "a child"])
async def test_a_foreign_cancellation_is_not_silent(victim: str, caplog: pytest.LogCaptureFixture) -> None:
    cleaned = []

    async def main(started: Callable[[], None]) -> None:
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(anyio.sleep_forever, name="a child")
                await forever(started)
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0.01)
            cleaned.append(True)

    failures = Failures()
    owner = OwnerTask(main, failures.append)
    await owner.started()
    await checkpoint()
    task = owner._task if victim == "its own task" else next(task for task in asyncio.all_tasks() if task.get_name() == victim)
    task.cancel()
    await owner._over.wait()
    assert cleaned == [True]
    assert failures == [owner.error]
    assert isinstance(owner.error, RuntimeError)
    assert "something other than dayfly" in str(owner.error)
    assert "something other than dayfly" in caplog.text
    with pytest.raises(RuntimeError, match="something other"):
        await owner.started()
    await owner.end()
    assert owner._task.cancelled() is (victim == "its own task")


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_foreign_cancellation_before_the_start_is_told() -> None:
    async def main(started: Callable[[], None]) -> None:
        await anyio.sleep_forever()

    failures = Failures()
    owner = OwnerTask(main, failures.append)
    await checkpoint()
    owner._task.cancel()
    with pytest.raises(RuntimeError, match="something other than dayfly"):
        await owner.started()
    assert failures == []


def test_the_end_of_trio_is_not_silent() -> None:
    failures = Failures()

    async def leave_it() -> OwnerTask:
        owner = OwnerTask(forever, failures.append)
        await owner.started()
        return owner

    owner = anyio.run(leave_it, backend="trio")
    assert failures == [owner.error]
    assert "something other than dayfly" in str(owner.error)


def test_another_loop_is_refused_and_nothing_changes() -> None:
    home = asyncio.new_event_loop()

    async def make() -> OwnerTask:
        owner = OwnerTask(forever, Failures().append)
        await owner.started()
        return owner

    async def check(owner: OwnerTask) -> None:
        with pytest.raises(RuntimeError, match="belongs to another event loop"):
            owner.check_loop()

    try:
        owner = home.run_until_complete(make())
        asyncio.run(check(owner))
        home.run_until_complete(owner.end())
    finally:
        home.close()


async def test_the_loop_is_the_same_in_every_task() -> None:
    seen = []

    async def look() -> None:
        seen.append(event_loop())

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(look)
        tasks.start_soon(look)
    assert seen[0] is seen[1] is event_loop()


def test_outside_of_a_loop_it_is_an_error() -> None:
    with pytest.raises(RuntimeError):
        event_loop()


async def test_a_module_that_another_thread_is_importing_is_not_asked(monkeypatch: pytest.MonkeyPatch, anyio_backend_name: str) -> None:
    if anyio_backend_name == "trio":
        return
    monkeypatch.setitem(sys.modules, "trio", types.ModuleType("trio"))
    assert event_loop() is asyncio.get_running_loop()


@pytest.mark.parametrize("end", ["", "raise KeyError('a fault')"])
def test_trio_in_guest_mode_is_trio(end: str) -> None:
    """asyncio has a running loop there too. In a process of its own: guest mode sets signal
    handlers."""
    program = f"""
    import asyncio, trio, anyio
    from dayfly._owner import OwnerTask, event_loop

    async def main(started):
        started()
        {end or "await trio.sleep_forever()"}

    async def guest():
        failures = []
        token = trio.lowlevel.current_trio_token()
        assert event_loop() is token
        owner = OwnerTask(main, failures.append)
        if {not end}:
            await owner.started()
        owner.check_loop()
        await owner._over.wait() if {bool(end)} else await owner.end()
        assert [type(error) for error in failures] == {"[KeyError]" if end else "[]"}, failures
        return "done"

    async def host():
        loop, done = asyncio.get_running_loop(), asyncio.Future()
        trio.lowlevel.start_guest_run(
            guest, run_sync_soon_threadsafe=loop.call_soon_threadsafe, done_callback=done.set_result
        )
        print((await done).unwrap())
        assert event_loop() is loop

    asyncio.run(host())
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "done\n", done.stderr
