"""The pool, with workers that are plain async functions: whoever is cancelled wherever, no slot is
lost and every waiter is answered."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import anyio
import pytest
from anyio import CancelScope, create_task_group, wait_all_tasks_blocked
from anyio.lowlevel import checkpoint

from dayfly import _ledger as ledger_module
from dayfly._errors import PoolClosed, PoolFull, PoolTimeout
from dayfly._ledger import Ledger, Plan, State
from dayfly._pool import Pool


class Box:
    """A member. It lives until it is told to end, or to die."""

    def __init__(self) -> None:
        self.over = anyio.Event()
        self.cause: Exception | None = None

    def end(self, cause: Exception | None = None) -> None:
        self.cause = cause
        self.over.set()


class Factory:
    """Makes boxes in a few checkpoints, and clears up in a few more, cancelled or not."""

    def __init__(self, steps: int = 2) -> None:
        self.steps = steps
        self.broken: Exception | None = None
        self.gate: anyio.Event | None = None
        """While there is one, making waits for it."""
        self.tries = 0
        self.alive: list[Box] = []
        self.warm: list[Box] = []

    async def live(self, _: int, on_warm: Callable[[Box], None]) -> None:
        self.tries += 1
        self.alive.append(box := Box())
        try:
            for _ in range(self.steps):
                await checkpoint()
            if self.gate is not None:
                await self.gate.wait()
            if self.broken is not None:
                raise self.broken
            self.warm.append(box)
            on_warm(box)
            await box.over.wait()
            if box.cause is not None:
                raise box.cause
        finally:
            with CancelScope(shield=True):
                for _ in range(self.steps):
                    await checkpoint()
            self.alive.remove(box)


class Counting(Ledger):
    """Counts the plans."""

    plans = 0

    def plan(self, now: float) -> Plan:
        self.plans += 1
        return super().plan(now)


def book(size: int = 1, *, max_alive: int | None = None, max_waiting: int = 2_000, max_wait: float = 60.0) -> Counting:
    return Counting(size=size, max_alive=max_alive or 2 * size, max_creating=4, max_waiting=max_waiting, max_wait=max_wait)


@asynccontextmanager
async def serving(factory: Factory, ledger: Ledger, clock: Callable[[], float] = time.monotonic) -> AsyncIterator[Pool[Box]]:
    pool = Pool(ledger, factory.live, clock=clock)
    async with create_task_group() as tasks:
        tasks.start_soon(pool.serve)
        try:
            yield pool
        finally:
            tasks.cancel_scope.cancel()
    assert factory.alive == []
    assert ledger.alive == ledger.waiting == 0
    assert (pool._workers, pool._waiters) == ({}, {})


async def until(condition: Callable[[], bool]) -> None:
    with anyio.fail_after(20):
        while not condition():
            await anyio.sleep(0.002)


def whole(ledger: Ledger) -> bool:
    """Full of warm members, and of nothing else. More than its size only where one was given and
    came back unused."""
    return ledger.size <= ledger.count(State.WARM) == ledger.alive <= ledger.max_alive and ledger.waiting == 0


# Cancellation.


@pytest.mark.parametrize("warm", [True, False], ids=["a member is warm", "one must be waited for"])
@pytest.mark.parametrize("rivals", [0, 3])
@pytest.mark.parametrize("most", [1, 2], ids=["no spare", "one spare"])
async def test_a_lease_cancelled_at_any_step_loses_no_slot(warm: bool, rivals: int, most: int) -> None:
    served: list[int] = []

    async def use(number: int, scope: CancelScope) -> None:
        with scope:
            async with pool.lease():
                for _ in range(3):
                    await checkpoint()
            served.append(number)

    for step in range(200):
        factory, ledger = Factory(), book(1, max_alive=most)
        served.clear()
        async with serving(factory, ledger) as pool:
            if warm:
                await pool.filled()
            async with create_task_group() as tasks:
                scopes = [CancelScope() for _ in range(rivals + 1)]
                for number, scope in enumerate(scopes):
                    tasks.start_soon(use, number, scope)
                for _ in range(step):
                    await checkpoint()
                scopes[rivals // 2].cancel()
            await wait_all_tasks_blocked()
            assert whole(ledger)
            assert len(factory.alive) == ledger.alive
            assert set(served) | {rivals // 2} == set(range(rivals + 1))
        if rivals // 2 in served:
            break
    assert rivals // 2 in served, "the last time nothing was cancelled any more"
    assert step > 3


async def test_serve_cancelled_at_any_step_ends_every_member() -> None:
    outcomes: list[str] = []

    async def use() -> None:
        try:
            async with pool.lease():
                for _ in range(3):
                    await checkpoint()
        except PoolClosed:
            outcomes.append("closed")
        else:
            outcomes.append("served")

    for step in range(200):
        factory, ledger = Factory(), book(2, max_alive=3)
        pool = Pool(ledger, factory.live)
        outcomes.clear()
        with anyio.fail_after(20):
            async with create_task_group() as tasks:
                scope = CancelScope()

                async def serve() -> None:
                    with scope:  # noqa: B023 - it runs within this turn of the loop
                        await pool.serve()  # noqa: B023

                tasks.start_soon(serve)
                for _ in range(6):
                    tasks.start_soon(use)
                for _ in range(step):
                    await checkpoint()
                scope.cancel()
        assert len(outcomes) == 6
        assert factory.alive == []
        assert ledger.alive == ledger.waiting == 0
        with pytest.raises(PoolClosed):
            await pool.lease().__aenter__()
        if outcomes == ["served"] * 6:
            break
    assert outcomes == ["served"] * 6
    assert step > 3


def give(pool: Pool[Box], ledger: Ledger, box: Box) -> None:
    """What the life of the one member in the making does when it is warm, without a tick in which
    its user could wake."""
    (key,) = ledger._records
    pool._workers[key] = box
    ledger.warm(key)
    pool.step()
    assert ledger.count(State.LEASED) == 1


@pytest.mark.parametrize("cancelled", ["before", "after"])
async def test_a_waiter_cancelled_as_it_is_served_loses_no_member(cancelled: str) -> None:
    factory, ledger = Factory(), book(1, max_alive=1)
    factory.gate = anyio.Event()
    got: list[str] = []
    scope = CancelScope()

    async def use(name: str, scope: CancelScope) -> None:
        with scope:
            async with pool.lease() as box:
                got.append(name)
                assert box is given

    async with serving(factory, ledger) as pool, create_task_group() as tasks:
        tasks.start_soon(use, "first", scope)
        await wait_all_tasks_blocked()
        tasks.start_soon(use, "second", CancelScope())
        await wait_all_tasks_blocked()
        given = Box()
        if cancelled == "before":
            scope.cancel()
        give(pool, ledger, given)
        if cancelled == "after":
            scope.cancel()
        await wait_all_tasks_blocked()
        assert len(got) == 1
        assert given.over.is_set()
        if cancelled == "before":
            assert got == ["second"]
        tasks.cancel_scope.cancel()


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_task_cancelled_as_it_is_served_loses_no_member(anyio_backend: str) -> None:
    # Its cancellation overtakes an answer that has been given already; anyio's and trio's do not.
    factory, ledger = Factory(), book(1, max_alive=1)
    factory.gate = anyio.Event()

    async def use() -> Box:
        async with pool.lease() as box:
            return box

    async with serving(factory, ledger, clock=lambda: 0.0) as pool:  # no time passes: nothing but the withdrawal itself serves the next
        first, second = asyncio.create_task(use()), asyncio.create_task(use())
        await wait_all_tasks_blocked()
        given = Box()
        give(pool, ledger, given)
        first.cancel()
        assert await second is given
        assert first.cancelled()


async def test_a_lease_whose_use_fails_uses_its_member_up() -> None:
    factory, ledger = Factory(), book(1)
    async with serving(factory, ledger) as pool:
        with pytest.raises(ZeroDivisionError):
            async with pool.lease() as first:
                raise ZeroDivisionError
        async with pool.lease() as second:
            assert second is not first
        await wait_all_tasks_blocked()
        assert whole(ledger)


# Order.


async def test_a_thousand_waiters_are_served_once_each_in_order() -> None:
    factory, ledger = Factory(steps=0), book(1, max_alive=1)  # with more, several wake in one tick, in any order
    asked: list[int] = []
    served: list[int] = []
    boxes: list[Box] = []

    async def use(number: int) -> None:
        asked.append(number)
        async with pool.lease() as box:
            served.append(number)
            boxes.append(box)

    async with serving(factory, ledger) as pool:
        with anyio.fail_after(60):
            async with create_task_group() as tasks:
                for number in range(1_000):
                    tasks.start_soon(use, number)
        await wait_all_tasks_blocked()
        assert whole(ledger)
    assert served == asked
    assert sorted(served) == list(range(1_000))
    assert len(set(map(id, boxes))) == 1_000


async def test_never_more_are_alive_than_allowed() -> None:
    factory, ledger = Factory(), book(2, max_alive=3)
    most = 0

    async def use() -> None:
        nonlocal most
        async with pool.lease():
            await checkpoint()
            most = max(most, len(factory.alive))

    async with serving(factory, ledger) as pool, create_task_group() as tasks:
        for _ in range(50):
            tasks.start_soon(use)
    assert most == 3


# Closing.


async def test_close_answers_all_who_wait_and_all_who_come_later() -> None:
    factory, ledger = Factory(), book(1)
    factory.gate = anyio.Event()
    refused: list[int] = []

    async def use() -> None:
        with pytest.raises(PoolClosed, match="while this run was waiting"):
            await pool.lease().__aenter__()
        refused.append(1)

    async with serving(factory, ledger) as pool:
        async with create_task_group() as tasks:
            for _ in range(20):
                tasks.start_soon(use)
            await wait_all_tasks_blocked()
            pool.close()
        assert len(refused) == 20
        with pytest.raises(PoolClosed):
            await pool.lease().__aenter__()
        pool.close()


async def test_close_lets_a_use_that_has_begun_go_on() -> None:
    factory, ledger = Factory(), book(1)
    async with serving(factory, ledger) as pool, pool.lease():
        pool.close()
        await wait_all_tasks_blocked()
        assert ledger.count(State.LEASED) == 1


async def test_members_in_every_state_end_with_serve() -> None:
    factory, ledger = Factory(), book(3)
    never = anyio.Event()

    async def live(_: int, on_warm: Callable[[Box], None]) -> None:
        try:
            await factory.live(0, on_warm)
        finally:
            await never.wait()

    pool = Pool(ledger, live)
    async with create_task_group() as tasks:
        tasks.start_soon(pool.serve)
        await pool.filled()
        factory.gate = anyio.Event()
        async with pool.lease() as busy:
            async with pool.lease():
                pass
            await wait_all_tasks_blocked()
            counts = {State.CREATING: 2, State.WARM: 1, State.LEASED: 1, State.ENDING: 1, State.UNCERTAIN: 0}
            assert {state: ledger.count(state) for state in State} == counts
            tasks.cancel_scope.cancel()
    assert busy.over.is_set()
    assert factory.alive == []
    assert ledger.alive == 0


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_member_cancelled_from_outside_ends_no_other(caplog: pytest.LogCaptureFixture) -> None:
    factory, ledger = Factory(), book(2)
    async with serving(factory, ledger) as pool:
        await pool.filled()
        next(task for task in asyncio.all_tasks() if task.get_name() == "dayfly container 1").cancel()
        await until(lambda: ledger.failed == 1)
        await until(lambda: whole(ledger))
        assert not ledger.closed
    assert "something other than dayfly" in caplog.text


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_serve_cancelled_from_outside_tells_who_waits() -> None:
    factory, ledger = Factory(), book(1)
    factory.gate = anyio.Event()
    causes: list[BaseException | None] = []

    async def use() -> None:
        with pytest.raises(PoolClosed) as caught:
            await pool.lease().__aenter__()
        causes.append(caught.value.__cause__)

    pool = Pool(ledger, factory.live)
    serve = asyncio.create_task(pool.serve())
    async with create_task_group() as tasks:
        tasks.start_soon(use)
        await wait_all_tasks_blocked()
        serve.cancel()
    await use()
    with pytest.raises(asyncio.CancelledError):
        await serve
    assert ["something other than dayfly" in str(cause) for cause in causes] == [True, True]


async def test_an_internal_error_of_serve_is_the_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    factory, ledger = Factory(), book(1)
    fault, broken = KeyError("a fault of ours"), anyio.Event()

    async def keep_time() -> None:
        await broken.wait()
        raise fault

    pool = Pool(ledger, factory.live)
    monkeypatch.setattr(pool, "_keep_time", keep_time)

    async def serve() -> None:
        with pytest.raises(BaseException) as caught:  # noqa: PT011 - a group, or the error itself
            await pool.serve()
        assert "a fault of ours" in repr(caught.value)

    async with create_task_group() as tasks:
        tasks.start_soon(serve)
        await pool.filled()
        broken.set()
    with pytest.raises(PoolClosed) as caught:
        await pool.lease().__aenter__()
    assert caught.value.__cause__ is fault


async def test_what_is_no_exception_ends_serve_and_everything_with_it() -> None:
    class Stop(BaseException):
        pass

    async def live(_: int, on_warm: Callable[[Box], None]) -> None:
        on_warm(Box())
        await stop.wait()
        raise Stop

    stop, ledger = anyio.Event(), book(3)
    pool = Pool(ledger, live)

    async def use() -> None:
        await pool.filled()
        stop.set()

    with pytest.raises(BaseException) as caught:  # noqa: PT011 - a group, or a group of groups
        async with create_task_group() as tasks:
            tasks.start_soon(pool.serve)
            tasks.start_soon(use)
    assert "Stop" in repr(caught.value)
    assert ledger.alive == 0
    with pytest.raises(PoolClosed):
        await pool.lease().__aenter__()


# Before serve.


async def test_who_comes_before_serve_is_served_by_it() -> None:
    factory, ledger = Factory(), book(1)
    pool, served = Pool(ledger, factory.live), anyio.Event()

    async def use() -> None:
        async with pool.lease():
            served.set()

    async with create_task_group() as tasks:
        tasks.start_soon(use)
        await wait_all_tasks_blocked()
        tasks.start_soon(pool.serve)
        with anyio.fail_after(20):
            await served.wait()
        tasks.cancel_scope.cancel()


async def test_a_pool_that_is_closed_before_serve_makes_nothing() -> None:
    factory = Factory()
    pool = Pool(book(), factory.live)
    pool.close()
    with pytest.raises(PoolClosed):
        await pool.filled()
    async with create_task_group() as tasks:
        tasks.start_soon(pool.serve)
        await wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()
    assert factory.tries == 0


# Failure.


@pytest.fixture
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_module, "BACKOFF_FIRST", 0.005)
    monkeypatch.setattr(ledger_module, "BACKOFF_MOST", 0.02)


async def test_failing_creation_is_retried_without_a_busy_loop(hurry: None) -> None:
    factory, ledger = Factory(), book(1)
    factory.broken = OSError("no engine")
    async with serving(factory, ledger):
        await until(lambda: factory.tries >= 12)
        assert ledger.failing
        assert ledger.failed <= factory.tries <= ledger.failed + 1
        # One plan for the failure, one at the time to try again, one for the change of that time;
        # not one per turn of the loop.
        assert ledger.plans < 6 * factory.tries


async def test_an_idle_pool_does_nothing() -> None:
    factory, ledger = Factory(), book(3)
    async with serving(factory, ledger) as pool:
        await pool.filled()
        await wait_all_tasks_blocked()
        plans = ledger.plans
        await anyio.sleep(0.05)
        assert ledger.plans == plans


async def test_a_pool_recovers_and_serves_those_who_waited(hurry: None) -> None:
    factory, ledger = Factory(), book(3)
    factory.broken = ZeroDivisionError("a bug, even")
    served = anyio.Event()

    async def use() -> None:
        async with pool.lease():
            served.set()

    async with serving(factory, ledger) as pool, create_task_group() as tasks:
        tasks.start_soon(use)
        await until(lambda: factory.tries >= 5)
        assert not served.is_set()
        factory.broken = None
        await until(served.is_set)
        await until(lambda: whole(ledger))
        assert not ledger.failing


async def test_who_waits_in_vain_is_told_why(hurry: None) -> None:
    factory, ledger = Factory(), book(1, max_wait=0.05)
    factory.broken = OSError("no engine")
    async with serving(factory, ledger) as pool:
        await until(lambda: ledger.failing)  # a slow machine may need longer than max_wait for the first failure
        with pytest.raises(PoolTimeout, match=r"within 0\.05 s.*creating one fails: no engine") as caught:
            await pool.lease().__aenter__()
        assert caught.value.__cause__ is factory.broken


async def test_a_pool_that_is_merely_busy_blames_nobody() -> None:
    factory, ledger = Factory(), book(1, max_alive=1, max_wait=0.01)
    async with serving(factory, ledger) as pool:
        await pool.filled()  # on a busy machine, that takes longer than max_wait
        async with pool.lease():
            pool.last_error = OSError("long ago")
            with pytest.raises(PoolTimeout, match=r"within 0\.01 s \(queue_timeout_ms\)$") as caught:
                await pool.lease().__aenter__()
            assert caught.value.__cause__ is None


async def test_a_full_queue_refuses_at_once_and_keeps_its_order() -> None:
    factory, ledger = Factory(), book(1, max_alive=1, max_waiting=1)
    async with serving(factory, ledger) as pool, create_task_group() as tasks:
        async with pool.lease():
            tasks.start_soon(pool.lease().__aenter__)
            await wait_all_tasks_blocked()
            with pytest.raises(PoolFull):
                await pool.lease().__aenter__()
            assert ledger.waiting == 1
        tasks.cancel_scope.cancel()


async def test_a_warm_member_that_dies_is_replaced_and_not_handed_out(hurry: None) -> None:
    factory, ledger = Factory(), book(1)
    async with serving(factory, ledger) as pool:
        await pool.filled()
        (dead,) = factory.warm
        dead.end(OSError("killed"))
        await until(lambda: len(factory.warm) == 2 and whole(ledger))
        async with pool.lease() as box:
            assert box is not dead
        assert (ledger.became_warm, ledger.failed) == (2, 1)
        assert str(pool.last_error) == "killed"


async def test_a_member_that_dies_before_its_user_wakes_is_still_given() -> None:
    ledger, waiting, tries = book(1), anyio.Event(), []

    async def live(_: int, on_warm: Callable[[Box], None]) -> None:
        tries.append(1)
        await waiting.wait()
        if len(tries) == 1:
            on_warm(Box())
            raise OSError("dead in the same tick")
        await anyio.sleep_forever()

    pool = Pool(ledger, live)
    async with create_task_group() as tasks:
        tasks.start_soon(pool.serve)
        await wait_all_tasks_blocked()
        got: list[Box] = []

        async def use() -> None:
            async with pool.lease() as box:
                got.append(box)

        tasks.start_soon(use)
        await wait_all_tasks_blocked()
        waiting.set()
        await wait_all_tasks_blocked()
        assert len(got) == 1
        assert ledger.count(State.LEASED) == ledger.count(State.ENDING) == 0
        tasks.cancel_scope.cancel()


# Filling.


async def test_filled_returns_when_all_are_warm() -> None:
    factory, ledger = Factory(), book(3)

    async def live(_: int, on_warm: Callable[[Box], None]) -> None:
        factory.steps += 5  # one after the other
        await factory.live(0, on_warm)

    pool = Pool(ledger, live)
    async with create_task_group() as tasks:
        tasks.start_soon(pool.serve)
        await pool.filled()
        assert ledger.count(State.WARM) == ledger.became_warm == 3
        await pool.filled()
        tasks.cancel_scope.cancel()


async def test_filled_raises_what_keeps_a_member_from_being_made() -> None:
    factory, ledger = Factory(), book(3)
    factory.broken = OSError("no engine")
    async with serving(factory, ledger) as pool:
        with pytest.raises(OSError, match="no engine"):
            await pool.filled()


async def test_filled_raises_when_the_pool_is_closed_meanwhile() -> None:
    factory, ledger = Factory(), book(3)
    factory.gate = anyio.Event()
    async with serving(factory, ledger) as pool, create_task_group() as tasks:

        async def fill() -> None:
            with pytest.raises(PoolClosed):
                await pool.filled()

        tasks.start_soon(fill)
        await wait_all_tasks_blocked()
        pool.close()
