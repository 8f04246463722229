"""The pool's hands: carries out the ledger's plan. It knows no Docker; what a member is, `live` knows.

Each member has one task for its whole life, from before it is made until nothing is left of it. So there is one place that ends it,
whatever happens, and no await of a caller stands between a member and its end: a caller that is cancelled can only let go.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Generic, TypeVar

import anyio
from anyio.abc import TaskGroup

from .errors import PoolClosed, PoolTimeout
from .ledger import Ledger, State, Ticket

log = logging.getLogger("dayfly")

M = TypeVar("M")
Live = Callable[[Callable[[M], None]], Awaitable[None]]
"""Lives one member's life: calls back once, when it is ready for use, and returns when nothing is left of it.
Raises what kept it from becoming ready, or ended it unused; what ends it in use is its user's to hear. It cleans up behind
itself in any case, cancellation too."""


class _Waiter(Generic[M]):
    """One `lease` that waits, and the member that it was given."""

    def __init__(self) -> None:
        self.answered = anyio.Event()
        self.member: M | None = None


class Pool(Generic[M]):
    """Members made ahead of use, each used once. All methods belong to the event loop that `serve` runs on."""

    def __init__(self, ledger: Ledger, live: Live[M], *, clock: Callable[[], float] = time.monotonic) -> None:
        self._ledger = ledger
        self._live = live
        self._clock = clock
        self._members: dict[int, M] = {}
        self._waiters: dict[Ticket, _Waiter[M]] = {}
        self._tasks: TaskGroup | None = None
        self._changed = anyio.Event()
        self._wake_at: float | None = None
        self._full = anyio.Event()
        self.last_error: Exception | None = None
        self.made = 0
        self.failed = 0

    async def serve(self) -> None:
        """Keep the pool full until it is cancelled; return when the last member is gone."""
        try:
            async with anyio.create_task_group() as self._tasks:
                try:
                    self._step()
                    await self._keep_time()
                finally:
                    self.close()  # before the members' ends ask for new ones
        finally:
            self._tasks = None

    def close(self) -> None:
        """Refuse every waiter, now and from now on. Members end when `serve` is cancelled."""
        self._ledger.close()
        self._step()
        self._full.set()

    async def filled(self) -> None:
        """Wait until all members were warm at once. Raises what kept one from being made; PoolClosed if the pool is closed meanwhile."""
        await self._full.wait()
        if self.last_error is not None and self._ledger.failing:
            raise self.last_error
        if self._ledger.closed:
            raise PoolClosed("the sandbox was closed while it was being initialized")

    @asynccontextmanager
    async def lease(self) -> AsyncIterator[M]:
        """Have one member for one use, after at most the ledger's `max_wait` in the queue.

        PoolClosed, PoolFull or PoolTimeout if there is none to be had. The member may be dead all the same, from one moment to the next.
        """
        key, member = await self._acquire()
        try:
            yield member
        finally:
            self._ledger.ending(key)
            self._step()

    async def _acquire(self) -> tuple[int, M]:
        ticket = self._ledger.ask(self._clock())
        self._waiters[ticket] = waiter = _Waiter[M]()
        try:
            self._step()
            if not waiter.answered.is_set():
                await waiter.answered.wait()
        except BaseException:
            self._ledger.withdraw(ticket)
            self._step()
            raise
        finally:
            self._waiters.pop(ticket, None)
        if ticket.member is not None:
            assert waiter.member is not None
            return ticket.member, waiter.member
        if not ticket.expired:
            raise PoolClosed("the sandbox was closed while this run was waiting for a container")
        cause = self.last_error if self._ledger.failing else None
        reason = f"; making one fails: {cause}" if cause else ""
        raise PoolTimeout(f"no container became free within {self._ledger.max_wait:g} s (queue_timeout_ms){reason}") from cause

    def _step(self) -> None:
        if self._tasks is None and not self._ledger.closed:
            return  # `serve` has not begun: what is planned now would be done by nobody
        plan = self._ledger.plan(self._clock())
        for ticket in plan.answered:
            if waiter := self._waiters.get(ticket):
                # Taken note of now: the member may have died by the time its waiter wakes.
                waiter.member = None if ticket.member is None else self._members[ticket.member]
                waiter.answered.set()
        if self._tasks is not None:
            for key in plan.make:
                self._tasks.start_soon(self._life, key, name=f"dayfly container {key}")
        if plan.wake_at != self._wake_at:
            self._wake_at = plan.wake_at
            self._changed.set()

    async def _keep_time(self) -> None:
        while True:
            self._changed = anyio.Event()
            pause = float("inf") if self._wake_at is None else max(0.0, self._wake_at - self._clock())
            with anyio.move_on_after(pause):
                await self._changed.wait()
            self._step()

    async def _life(self, key: int) -> None:
        def warm(member: M) -> None:
            self._members[key] = member
            self._ledger.made(key)
            self.made += 1
            self._step()
            if self._ledger.count(State.WARM) >= self._ledger.size:
                self._full.set()

        try:
            await self._live(warm)
        except Exception as error:  # noqa: BLE001 - one member's failure must not end the others
            self.last_error = error
            self.failed += 1
            log.warning("a container failed: %s", error)
        finally:
            self._members.pop(key, None)
            self._ledger.gone(key, self._clock())
            if self._ledger.failing:
                self._full.set()
            self._step()
