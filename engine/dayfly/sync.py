"""Sandbox: AsyncSandbox for threads. One daemon thread runs an event loop with the async sandbox in it; every call is handed over.

Not a second implementation: what a call does and raises is AsyncSandbox's. Owned here is what threads bring with them:
a call that is interrupted (Ctrl-C) cancels its run before it raises, and an interpreter that exits without `close` closes.
"""

from __future__ import annotations

import atexit
import os
import queue
import threading
import warnings
import weakref
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import Any, TypeVar

import anyio
from anyio.from_thread import BlockingPortal

from .container import OnOutput
from .errors import PoolClosed
from .job import UNSET, Job
from .result import Piece, Result
from .sandbox import AsyncSandbox
from .stats import Stats

T = TypeVar("T")


class Sandbox:
    """The same as AsyncSandbox, for code without an event loop; `run` may be called from any number of threads at once.

    Takes AsyncSandbox's arguments. Use it as a context manager, or call `initialize` and `close`.
    """

    def __init__(self, pool_size: int = 1, timeout_ms: float = 10_000, memory_limit_mb: float = 50, **options: Any) -> None:
        self._sandbox = AsyncSandbox(pool_size, timeout_ms, memory_limit_mb, **options)
        self._loop: _Loop | None = None

    def initialize(self) -> None:
        """See AsyncSandbox.initialize."""
        if self._loop is not None:
            raise RuntimeError("a sandbox is initialized once; make a new one")
        self._loop = _Loop()
        _open.add(self)
        try:
            self._loop.call(self._sandbox.initialize)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """See AsyncSandbox.close. Runs in other threads raise PoolClosed."""
        _open.discard(self)
        if self._loop is not None:
            self._loop.close(self._sandbox.close)

    def __enter__(self) -> Sandbox:
        self.initialize()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __del__(self) -> None:
        loop = getattr(self, "_loop", None)  # there is none if the constructor has failed
        if loop is not None and loop.open and loop.owner == os.getpid():
            warnings.warn(f"{self!r} was not closed", ResourceWarning, stacklevel=2, source=self)
            # Not from here: this may be any thread, the loop's own among them, and it must not wait.
            threading.Thread(target=loop.close, args=(self._sandbox.close,), name="dayfly close", daemon=True).start()

    def __repr__(self) -> str:
        return repr(self._sandbox).replace("AsyncSandbox", "Sandbox")

    def __reduce__(self) -> Any:
        raise TypeError("a sandbox cannot be pickled or copied: it owns containers")

    def run(
        self,
        code: str | Job | Mapping[str, Any],
        *,
        timeout_ms: float | None = None,
        v3: bool | None = None,
        data: Any = UNSET,
        stdin: str | bytes | None = None,
        args: Sequence[str] | None = None,
        env: Mapping[str, str] | None = None,
        on_output: OnOutput | None = None,
        on_start: Callable[[], None] | None = None,
    ) -> Result:
        """See AsyncSandbox.run. `on_output` is called in the thread that called `run`, `on_start` in the sandbox's own."""
        options: dict[str, Any] = {"timeout_ms": timeout_ms, "v3": v3, "data": data, "stdin": stdin, "args": args, "env": env}
        options["on_start"] = on_start
        if on_output is None:
            return self._open_loop().call(lambda: self._sandbox.run(code, **options))
        for item in self.stream(code, **options):
            if isinstance(item, Result):
                return item
            on_output(item)
        raise AssertionError("a stream ends with its Result")

    def stream(self, code: str | Job | Mapping[str, Any], **options: Any) -> Iterator[Piece | Result]:
        """Like `run`, and yield each Piece of output as it arrives, and the Result last. Leaving the loop early ends the run."""
        pieces: queue.SimpleQueue[Piece | None] = queue.SimpleQueue()
        future = self._open_loop().start(lambda: self._sandbox.run(code, on_output=pieces.put, **options))
        future.add_done_callback(lambda _: pieces.put(None))
        try:
            while (piece := pieces.get()) is not None:
                yield piece
            yield future.result()
        finally:
            _cancel(future)

    def stats(self) -> Stats:
        """See AsyncSandbox.stats."""
        return self._sandbox.stats()

    def _open_loop(self) -> _Loop:
        if self._loop is None or not self._loop.open:
            raise PoolClosed("the sandbox is not initialized yet" if self._loop is None else "the sandbox is closed")
        if self._loop.owner != os.getpid():
            raise PoolClosed(f"this sandbox belongs to process {self._loop.owner}, of which this one is a fork; make one here")
        return self._loop


class _Loop:
    """An event loop in a daemon thread. Daemon, so that an interpreter that exits does not wait for a sandbox that nobody closed."""

    def __init__(self) -> None:
        self.owner = os.getpid()
        self.open = True
        self._lock = threading.Lock()
        portal: Future[BlockingPortal] = Future()
        self._thread = threading.Thread(target=self._main, args=(portal,), name="dayfly sandbox", daemon=True)
        self._thread.start()
        self._portal = portal.result()

    def _main(self, started: Future[BlockingPortal]) -> None:
        async def serve() -> None:
            async with BlockingPortal() as portal:
                started.set_result(portal)
                await portal.sleep_until_stopped()

        try:
            anyio.run(serve)
        except BaseException as error:
            if started.done():
                raise
            started.set_exception(error)

    def start(self, call: Callable[[], Awaitable[T]]) -> Future[T]:
        """Start a call on the loop."""
        try:
            return self._portal.start_task_soon(call)
        except RuntimeError:  # the portal was stopped a moment ago
            raise PoolClosed("the sandbox is closed") from None

    def call(self, call: Callable[[], Awaitable[T]]) -> T:
        """Make a call on the loop, and wait for it. Whatever interrupts the waiting cancels the call."""
        future = self.start(call)
        try:
            return future.result()
        finally:
            _cancel(future)

    def close(self, last: Callable[[], Awaitable[None]]) -> None:
        """Make the last call, and end the loop. The second caller waits for the first."""
        if self.owner != os.getpid():
            return
        with self._lock:
            if self.open:
                try:
                    self.call(last)
                finally:
                    self.open = False
                    self.start(self._portal.stop)
                    self._thread.join()


def _cancel(future: Future[Any]) -> None:
    """Cancel a call that is still under way, and return when the loop has been told so: its container ends at once, by itself."""
    if not future.done():
        future.cancel()


_open: weakref.WeakSet[Sandbox] = weakref.WeakSet()


def _close_all() -> None:
    for sandbox in list(_open):
        sandbox.close()


atexit.register(_close_all)
