"""Executes the ledger's plan: starts workers, wakes waiters. Generic over the worker; knows no
Docker.

Each worker has one task for its whole life, from before it is created until nothing is left of it.
So there is one place that ends it, whatever happens, and no await of a caller stands between a
worker and its end. A lease always ends its worker, however it is left.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Generic, Protocol, TypeVar

import anyio
from anyio.abc import TaskGroup

from ._errors import DayflyError, PoolClosed, PoolTimeout
from ._ledger import Ledger, State, Ticket
from ._owner import cancelled_from_outside, cut_off, single

log = logging.getLogger("dayfly.pool")


class Worker(Protocol):
    """What a pool holds."""

    def end(self) -> None:
        """Let the worker end now. Never waits, never raises, and may be called twice."""


W = TypeVar("W", bound=Worker)
Live = Callable[[int, Callable[[W], None]], Awaitable[None]]
"""Lives the life of the worker with this key in the ledger. It calls back once, when the worker is
ready for use, and returns when it is over. It raises if the worker fails before it is leased;
failures during a lease are raised to the lease holder. It always cleans up, also when it is
cancelled, and notes in the ledger what cannot be confirmed."""


class _Waiter(Generic[W]):
    """One `lease` that waits, and the worker that it was assigned."""

    def __init__(self) -> None:
        self.answered = anyio.Event()
        self.worker: W | None = None


class Lease(Generic[W]):
    """The right to use one worker. `end` must be called, and ends the worker."""

    def __init__(self, pool: Pool[W], key: int, worker: W) -> None:
        self.worker = worker
        self._pool = pool
        self._key = key

    def end(self) -> None:
        """End the worker and the lease. Never waits; may be called twice."""
        self.worker.end()
        self._pool.release(self._key)


class Pool(Generic[W]):
    """Workers created ahead of use, each leased once. All methods belong to `serve`'s event
    loop."""

    def __init__(self, ledger: Ledger, live: Live[W], *, clock: Callable[[], float] = time.monotonic) -> None:
        self._ledger = ledger
        self._live = live
        self._clock = clock
        self._workers: dict[int, W] = {}
        self._waiters: dict[Ticket, _Waiter[W]] = {}
        self._tasks: TaskGroup | None = None
        self._changed = anyio.Event()
        self._wake_at: float | None = None
        self._full = anyio.Event()
        self.last_error: Exception | None = None

    async def serve(self) -> None:
        """Keep the pool full until cancelled. Return when the last worker has ended."""
        try:
            async with anyio.create_task_group() as self._tasks:
                try:
                    self.step()
                    await self._keep_time()
                except BaseException as error:
                    self.fail(error)
                    raise
                finally:
                    self.close()  # before the ends of the workers ask for new ones
        finally:
            self._tasks = None

    def close(self, cause: BaseException | None = None) -> None:
        """Refuse every waiter, now and from now on. Workers end when `serve` is cancelled."""
        self._ledger.close(cause)
        self.step()
        self._full.set()

    def fail(self, error: BaseException) -> None:
        """Close the pool because of what a task raises that it needs, unless that is a cancellation
        by dayfly itself."""
        if isinstance(error, Exception):
            self.close(single(error))
        elif cancelled_from_outside(error):
            self.close(cut_off(error))

    async def filled(self) -> None:
        """Wait until `size` workers were warm at once.

        Raises what kept one from being created, or PoolClosed if the pool is closed meanwhile.
        """
        await self._full.wait()
        if self.last_error is not None and self._ledger.failing:
            raise self.last_error
        if self._ledger.closed:
            raise PoolClosed("the sandbox was closed while it was being initialized") from self._ledger.closed_by

    @asynccontextmanager
    async def lease(self) -> AsyncIterator[W]:
        """Hold one worker for a block, as `acquire` does. Ends it on exit, however the block is
        left."""
        lease = await self.acquire()
        try:
            yield lease.worker
        finally:
            lease.end()

    async def acquire(self) -> Lease[W]:
        """Return a lease of one worker, after at most the ledger's `max_wait` in the queue.

        Raises PoolClosed, PoolFull or PoolTimeout if none becomes available. The worker may die at
        any time; callers must handle that.
        """
        asked_at = self._clock()
        ticket = self._ledger.ask(asked_at)
        self._waiters[ticket] = waiter = _Waiter[W]()
        try:
            self.step()
            if not waiter.answered.is_set():
                await waiter.answered.wait()
        except BaseException:
            self._ledger.withdraw(ticket)
            self.step()
            raise
        finally:
            self._waiters.pop(ticket, None)
        if ticket.worker is not None:
            assert waiter.worker is not None
            log.debug("%s: leased after %.1f ms", self._ledger.id(ticket.worker)[:12], (self._clock() - asked_at) * 1_000)
            return Lease(self, ticket.worker, waiter.worker)
        if not ticket.expired:
            raise PoolClosed("the sandbox was closed while this run was waiting for a container") from self._ledger.closed_by
        cause = self.last_error if self._ledger.failing else None
        reason = f"; creating one fails: {cause}" if cause else ""
        raise PoolTimeout(f"no container became free within {self._ledger.max_wait:g} s (queue_timeout_ms){reason}") from cause

    def release(self, key: int) -> None:
        """Note the end of a lease."""
        self._ledger.ending(key, self._clock())
        self.step()

    def step(self) -> None:
        """Carry out what the ledger plans now. Called after whatever the ledger was told."""
        if self._tasks is None and not self._ledger.closed:
            return  # `serve` has not begun: what is planned now would be done by nobody
        plan = self._ledger.plan(self._clock())
        for ticket in plan.answered:
            if waiter := self._waiters.get(ticket):
                # Looked up now: the worker may have died by the time its waiter wakes.
                waiter.worker = None if ticket.worker is None else self._workers[ticket.worker]
                waiter.answered.set()
        if self._tasks is not None:
            for key in plan.create:
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
            self.step()

    async def _life(self, key: int) -> None:
        def on_warm(worker: W) -> None:
            self._workers[key] = worker
            if self._ledger.failing:
                log.info("containers can be created again")
            self._ledger.warm(key)
            self.step()
            if self._ledger.count(State.WARM) >= self._ledger.size:
                self._full.set()

        try:
            await self._live(key, on_warm)
        except DayflyError as error:
            self.last_error = error
            log.warning("a container failed: %s", error)
        except Exception as error:  # one worker's failure must not end the others
            self.last_error = error
            log.exception("a container failed with an internal error")
        except BaseException as error:
            if not cancelled_from_outside(error):
                raise
            # A task group whose child is cancelled ends as if it had been told to. This task ends
            # here in any case.
            self.last_error = cut_off(error)
            log.error("a container failed: %s", self.last_error)  # noqa: TRY400 - where it waited says nothing
        finally:
            self._workers.pop(key, None)
            failed = self._ledger.failing
            self._ledger.over(key, self._clock())
            if self._ledger.failing and not failed:
                log.info("containers cannot be created, which will be tried again and again, ever more seldom")
            if self._ledger.failing:
                self._full.set()
            self.step()
