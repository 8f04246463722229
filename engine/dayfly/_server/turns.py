"""Fair turns: which key's run goes to the sandbox next. Round robin over the keys that wait.

The sandbox's own queue is first come, first served: one key with many long runs would delay all
others. So at most `slots` runs are in the sandbox, at most `share()` of one key, and the rest wait
here, in a queue for each key. Nothing here knows HTTP or Docker.
"""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from dayfly import PoolFull

PAUSE = 0.05
"""Seconds between two looks for room in the queue."""


class Turns:
    """Queues by key. `share` says how many runs of one key may run at once; it may change."""

    def __init__(self, slots: int, *, max_waiting: int, share: Callable[[], int]) -> None:
        self._slots = slots
        self._max_waiting = max_waiting
        self._share = share
        self._running: Counter[str] = Counter()
        self._total = 0
        self._queues: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()
        self.waiting = 0
        """Runs in all queues."""

    @asynccontextmanager
    async def turn(self, key: str, *, patient: bool = False) -> AsyncIterator[None]:
        """Wait for this key's turn, and hold it. PoolFull if too many runs wait already, unless it
        is patient: it waits for room then."""
        while True:
            try:
                await self._take(key)
                break
            except PoolFull:
                if not patient:
                    raise
            await asyncio.sleep(PAUSE)
        try:
            yield
        finally:
            self._release(key)

    def occupy(self) -> Callable[[], None]:
        """Take a slot that is nobody's turn, for a session, and return what gives it back.

        Call it while a turn is held that ends at once: the slot is that turn's own.
        """
        self._total += 1
        given_back = False

        def give_back() -> None:
            nonlocal given_back
            if not given_back:
                given_back = True
                self._total -= 1
                self._next()

        return give_back

    def spare(self, key: str) -> Callable[[], None] | None:
        """Take one more turn for a key that has one, if it is free and nobody waits; return what
        gives it back."""
        if self._queues or not self._free(key):
            return None
        self._grant(key)
        return lambda: self._release(key)

    async def _take(self, key: str) -> None:
        if key not in self._queues and self._free(key):
            self._grant(key)
            return
        if self.waiting >= self._max_waiting:
            self._make_space(key)
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queues.setdefault(key, deque()).append(place)
        self.waiting += 1
        try:
            await place
        except BaseException:
            if place.done() and not place.cancelled() and place.exception() is None:
                self._release(key)  # granted in the same tick as the cancellation
            else:
                self._forget(key, place)
            raise

    def _make_space(self, key: str) -> None:
        """Refuse the newest run of the longest queue, which may be the caller's own."""
        full = PoolFull("too many runs are waiting already")
        longest = max(self._queues, key=lambda name: len(self._queues[name]), default=key)
        own = len(self._queues.get(key, ()))
        if longest == key or len(self._queues.get(longest, ())) <= own + 1:
            raise full
        place = self._queues[longest][-1]
        self._forget(longest, place)
        place.set_exception(full)

    def _forget(self, key: str, place: asyncio.Future[None]) -> None:
        queue = self._queues.get(key)
        if queue is not None and place in queue:
            queue.remove(place)
            self.waiting -= 1
            if not queue:
                del self._queues[key]

    def _free(self, key: str) -> bool:
        return self._total < self._slots and self._running[key] < self._share()

    def _grant(self, key: str) -> None:
        self._running[key] += 1
        self._total += 1

    def _release(self, key: str) -> None:
        self._total -= 1
        self._running[key] -= 1
        if not self._running[key]:
            del self._running[key]
        self._next()

    def _next(self) -> None:
        for key in list(self._queues):
            while key in self._queues and self._free(key):
                place = self._queues[key][0]
                self._forget(key, place)
                if place.done():  # cancelled, and its task has not run yet
                    continue
                self._grant(key)
                place.set_result(None)
                if key in self._queues:
                    self._queues.move_to_end(key)
                break
            if self._total >= self._slots:
                return
