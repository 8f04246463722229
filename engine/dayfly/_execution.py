"""A run's events on their way from the container's task to the caller."""

from __future__ import annotations

from collections import deque

import anyio

from ._events import Event


class Execution:
    """One run in progress: an async iterator of events, filled by the container's own task.

    It raises the error of the container, if there is one, in place of `Ended`. What waits in it is
    bounded by the run's limits on output and messages.
    """

    def __init__(self) -> None:
        self._events: deque[Event] = deque()
        self._error: Exception | None = None
        self.over = False
        self._wake = anyio.Event()

    def put(self, event: Event) -> None:
        """Add an event."""
        self._events.append(event)
        self._wake.set()

    def finish(self, error: Exception | None = None) -> None:
        """Add no more. The first call counts."""
        if not self.over:
            self.over, self._error = True, error
            self._wake.set()

    def __aiter__(self) -> Execution:
        return self

    async def __anext__(self) -> Event:
        while not self._events:
            if self.over:
                raise self._error or StopAsyncIteration
            self._wake = anyio.Event()
            await self._wake.wait()
        return self._events.popleft()
