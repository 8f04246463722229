"""Sandbox: AsyncSandbox for threads, with its loop in a daemon thread; and what any such sandbox
needs for that.

Not a second implementation: what a call does and raises is AsyncSandbox's. Owned here is what
threads bring with them: a call that is interrupted (Ctrl-C) cancels its run before it raises,
callbacks run in the caller's thread, and an interpreter that exits without `close` closes.
"""

from __future__ import annotations

import atexit
import logging
import os
import queue
import threading
import warnings
import weakref
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import aclosing, closing
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Literal, Protocol, TypeVar

import anyio
from anyio.from_thread import BlockingPortal

from ._errors import PoolClosed
from ._events import Event, Fold
from ._job import Job, RunOptions
from ._limits import SESSION_IDLE, SESSION_RUNS, SESSION_SECONDS
from ._result import OnOutput, Piece, Result
from ._sandbox import AsyncSandbox, SandboxOptions
from ._stats import Stats

if TYPE_CHECKING:
    from anyio.abc import TaskGroup
    from typing_extensions import Self, Unpack

    from .judge._cases import Case
    from .judge._judging import JudgeOptions, OnCase
    from .judge._sources import Cases
    from .judge._verdicts import CaseResult, JudgeResult

log = logging.getLogger("dayfly.sync")

T = TypeVar("T")

CANCEL_WITHIN = 5.0
"""Seconds that an interrupted call waits for its run to be cancelled."""


class AnySandbox(Protocol):
    """What a sandbox of an event loop has: AsyncSandbox, AsyncRemoteSandbox."""

    async def initialize(self) -> None: ...

    async def close(self) -> None: ...

    async def run(self, code: Any, **options: Unpack[RunOptions]) -> Result: ...

    def _prepare(self, code: Any, options: RunOptions) -> Any:
        """Check what `run` was called with, and return what `events` takes."""

    def _events(self, wanted: Any) -> AsyncGenerator[Event, None]:
        """Run a program, and yield what happens."""


class AnySession(Protocol):
    """What a session of such a sandbox has. Its methods mean what those of AnySandbox mean."""

    runs: int

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    async def run(self, code: Any, *, clean: bool = False, **options: Unpack[RunOptions]) -> Result: ...

    def _prepare(self, code: Any, options: RunOptions, *, clean: bool) -> Any: ...

    def _events(self, wanted: Any) -> AsyncGenerator[Event, None]: ...


A = TypeVar("A", bound=AnySandbox)


class ThreadedSandbox(Generic[A]):
    """What Sandbox and RemoteSandbox share: a sandbox of an event loop, and the thread with its
    loop."""

    def __init__(self, sandbox: A) -> None:
        self._sandbox = sandbox
        self._loop: Loop | None = None

    def initialize(self) -> None:
        """See AsyncSandbox.initialize."""
        if self._loop is not None:
            raise RuntimeError("a sandbox is initialized once; make a new one")
        _open.add(self)
        # Set before anything is waited for, so that `close` finds it.
        self._loop = loop = Loop(self._sandbox.close)
        try:
            loop.begin()
            loop.call(self._sandbox.initialize)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """See Sandbox.close."""
        if self._loop is not None:
            self._loop.close()
        _open.discard(self)

    def __enter__(self) -> Self:
        self.initialize()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __del__(self) -> None:
        loop = getattr(self, "_loop", None)  # there is none if the constructor has failed
        if loop is not None and loop.open and loop.owner == os.getpid():
            warnings.warn(f"{self!r} was not closed", ResourceWarning, stacklevel=2, source=self)
            loop.start_closing()  # without waiting: this may be any thread, the loop's own among them

    def __repr__(self) -> str:
        return repr(self._sandbox).replace("Async", "", 1)

    def run(
        self,
        code: str | bytes | Job | Mapping[str, Any],
        *,
        on_output: OnOutput | None = None,
        on_start: Callable[[], None] | None = None,
        **options: Unpack[RunOptions],
    ) -> Result:
        """See AsyncSandbox.run. `on_output` and `on_start` are called in the thread that called
        `run`."""
        loop, sandbox = self._open_loop(), self._sandbox
        if on_output is None and on_start is None:
            return loop.call(lambda: sandbox.run(code, **options))
        wanted = sandbox._prepare(code, options)
        return _run(loop.iterate(lambda: sandbox._events(wanted)), Fold(on_output, on_start))

    def stream(self, code: str | bytes | Job | Mapping[str, Any], **options: Unpack[RunOptions]) -> Iterator[Piece | Result]:
        """Like `run`, and yield each Piece of output as it arrives, and the Result last. Leaving
        the loop early ends the run."""
        wanted = self._sandbox._prepare(code, options)
        yield from _stream(self._open_loop().iterate(lambda: self._sandbox._events(wanted)))

    def _open_loop(self) -> Loop:
        if self._loop is None or not self._loop.open:
            closed = self._loop is not None and self._loop.closing
            raise PoolClosed("the sandbox is closed" if closed else "the sandbox is not initialized yet")
        if self._loop.owner != os.getpid():
            raise PoolClosed(f"this sandbox belongs to process {self._loop.owner}, of which this one is a fork; make one here")
        return self._loop


class Sandbox(ThreadedSandbox[AsyncSandbox]):
    """The same as AsyncSandbox, for code without an event loop; `run` may be called from any number
    of threads at once.

    Takes AsyncSandbox's arguments. Use it as a context manager, or call `initialize` and `close`.
    """

    def __init__(
        self,
        pool_size: int = 1,
        timeout_ms: float = 10_000,
        memory_limit_mb: float = 50,
        **options: Unpack[SandboxOptions],
    ) -> None:
        for name in options:
            if name not in SandboxOptions.__annotations__:
                raise TypeError(f"Sandbox has no argument {name!r}; it may have {', '.join(SandboxOptions.__annotations__)}")
        super().__init__(AsyncSandbox(pool_size, timeout_ms, memory_limit_mb, **options))

    def close(self) -> None:
        """See AsyncSandbox.close. Runs in other threads raise PoolClosed.

        May be called from any thread, from a signal handler and from a callback of `run`, also
        while another call of it is in progress: all return when the sandbox is closed. From a
        signal handler that interrupts `initialize` as it begins it returns at once, and
        `initialize` raises PoolClosed. RuntimeError in the sandbox's own thread, which changes
        nothing.
        """
        super().close()

    def __reduce__(self) -> Any:
        raise TypeError("a sandbox cannot be pickled or copied: it owns containers")

    def session(self, *, max_runs: int = SESSION_RUNS, max_seconds: float = SESSION_SECONDS, idle_seconds: float = SESSION_IDLE) -> Session:
        """See AsyncSandbox.session."""
        loop = self._open_loop()
        return Session(loop, self._sandbox.session(max_runs=max_runs, max_seconds=max_seconds, idle_seconds=idle_seconds))

    def judge(
        self, code: str | bytes, cases: Sequence[Case] | Cases, *, on_case: OnCase | None = None, **options: Unpack[JudgeOptions]
    ) -> JudgeResult:
        """See AsyncSandbox.judge. `on_case` is called in the thread that called `judge`."""
        sandbox = self._sandbox
        return judged(self._open_loop(), lambda told: sandbox.judge(code, cases, on_case=told, **options), on_case)

    @property
    def pythons(self) -> Mapping[str, str]:
        """See AsyncSandbox.pythons."""
        return self._sandbox.pythons

    def stats(self) -> Stats:
        """See AsyncSandbox.stats. May be called from any thread."""
        return self._sandbox.stats()


class Session:
    """The same as AsyncSession, for threads; made by `Sandbox.session`."""

    def __init__(self, loop: Loop, session: AnySession) -> None:
        self._loop = loop
        self._session = session

    def open(self) -> None:
        """See AsyncSession.open."""
        self._loop.call(self._session.open)

    def close(self) -> None:
        """See AsyncSession.close. It is closed already where its sandbox is."""
        if self._loop.open and self._loop.owner == os.getpid():
            self._loop.call(self._session.close)

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        return repr(self._session).replace("Async", "", 1)

    @property
    def runs(self) -> int:
        """Programs that were handed over."""
        return self._session.runs

    def run(
        self,
        code: str | bytes | Job | Mapping[str, Any],
        *,
        clean: bool = False,
        on_output: OnOutput | None = None,
        on_start: Callable[[], None] | None = None,
        **options: Unpack[RunOptions],
    ) -> Result:
        """See AsyncSession.run. `on_output` and `on_start` are called in the thread that called
        `run`."""
        session = self._session
        if on_output is None and on_start is None:
            return self._loop.call(lambda: session.run(code, clean=clean, **options))
        wanted = session._prepare(code, options, clean=clean)
        return _run(self._loop.iterate(lambda: session._events(wanted)), Fold(on_output, on_start))

    def stream(
        self, code: str | bytes | Job | Mapping[str, Any], *, clean: bool = False, **options: Unpack[RunOptions]
    ) -> Iterator[Piece | Result]:
        """See AsyncSession.stream."""
        wanted = self._session._prepare(code, options, clean=clean)
        yield from _stream(self._loop.iterate(lambda: self._session._events(wanted)))


def judged(loop: Loop, judge: Callable[[OnCase | None], Awaitable[JudgeResult]], on_case: OnCase | None) -> JudgeResult:
    """Internal: judge on the loop, and call back in this thread."""
    if on_case is None:
        return loop.call(lambda: judge(None))
    found: list[JudgeResult] = []

    async def feed(put: Callable[[CaseResult], None]) -> None:
        found.append(await judge(put))

    with closing(loop.feed(feed)) as results:
        for result in results:
            on_case(result)
    return found[0]


def _run(events: Generator[Event, None, None], fold: Fold) -> Result:
    with closing(events):
        for event in events:
            for item in fold.take(event):
                if isinstance(item, Result):
                    return item
    raise AssertionError("a run ends with Ended, or raises")


def _stream(events: Generator[Event, None, None]) -> Iterator[Piece | Result]:
    fold = Fold()
    with closing(events):
        for event in events:
            yield from fold.take(event)


class _Call(Future[T]):
    """A call on the loop. Unlike the portal's own future, it is done only when nothing of the call
    is running any more."""

    def __init__(self) -> None:
        super().__init__()
        self.inner: Future[None] | None = None

    def cancel(self) -> bool:
        """Cancel the call if it is still in progress, and wait until it is over. Bounded in time;
        never raises."""
        if self.done() or self.inner is None:
            return False
        self.inner.cancel()
        try:
            self.exception(CANCEL_WITHIN)
        except BaseException as error:  # noqa: BLE001 - cancelled or late: the caller's own error is what counts
            log.debug("a cancelled call ended with %s", type(error).__name__)
        return True


class Loop:
    """An event loop in a daemon thread. Daemon, so that an interpreter that exits does not wait for
    a sandbox that was not closed."""

    def __init__(self, last: Callable[[], Awaitable[None]]) -> None:
        self.owner = os.getpid()
        self._last = last
        self._beginner = threading.get_ident()
        """The thread in `begin`."""
        self._ending = False
        # No lock: a signal handler may call `close` while its own thread holds it, and would then
        # wait for the loop's thread, which might need it. `setdefault` is one step for all threads.
        self._told: dict[Literal["close"], Future[None]] = {}
        self._started: Future[None] = Future()
        # Both are set in the loop's own thread.
        self._portal: BlockingPortal | None = None
        self._tasks: TaskGroup | None = None
        self._thread = threading.Thread(target=self._main, name="dayfly sandbox", daemon=True)

    def begin(self) -> None:
        """Start the thread, once."""
        try:
            self._thread.start()
            self._started.result()
        except BaseException:
            if not self.alive:  # it could not be started
                self._end()
            raise
        finally:
            self._beginner = 0

    @property
    def alive(self) -> bool:
        """Whether its thread was started."""
        return self._thread.ident is not None

    @property
    def open(self) -> bool:
        """Whether calls may be started."""
        return self._portal is not None and not self._told

    @property
    def closing(self) -> bool:
        """Whether it was closed, or is being closed."""
        return bool(self._told)

    def _main(self) -> None:
        async def serve() -> None:
            async with BlockingPortal() as portal, anyio.create_task_group() as tasks:
                self._portal, self._tasks = portal, tasks
                self._started.set_result(None)
                if self._told:  # before there was a loop
                    tasks.start_soon(self._close)
                await portal.sleep_until_stopped()

        try:
            anyio.run(serve)
        except BaseException as error:
            if self._started.done():
                raise
            self._started.set_exception(error)
        finally:
            self._end()

    def _end(self) -> None:
        """There is no loop any more: nobody waits for it."""
        closing = self._told.setdefault("close", Future())
        if not closing.done():
            closing.set_result(None)

    def start(self, call: Callable[[], Awaitable[T]]) -> _Call[T]:
        """Start a call on the loop."""
        if self._portal is None:
            raise PoolClosed("the sandbox is not initialized yet")
        if threading.get_ident() == self._thread.ident:
            raise RuntimeError("this is the sandbox's own thread; call the sandbox from another one")
        outer: _Call[T] = _Call()

        async def run() -> None:
            if not self.open:
                outer.set_exception(PoolClosed("the sandbox is closed"))
                return
            try:
                result = await call()
            except Exception as error:  # noqa: BLE001 - handed over to the caller
                outer.set_exception(error)
            except BaseException:
                outer.set_exception(PoolClosed("the call was cancelled", delivered=True))
                raise
            else:
                outer.set_result(result)

        try:
            outer.inner = self._portal.start_task_soon(run)
        except RuntimeError:  # the portal was stopped a moment ago
            raise PoolClosed("the sandbox is closed") from None
        return outer

    def call(self, call: Callable[[], Awaitable[T]]) -> T:
        """Make a call on the loop, and wait for it. Whatever interrupts the waiting cancels the
        call."""
        started = self.start(call)
        try:
            return started.result()
        finally:
            started.cancel()

    def iterate(self, make: Callable[[], AsyncGenerator[T, None]]) -> Generator[T, None, None]:
        """Iterate over what a generator yields on the loop, in this thread. Leaving the iteration
        closes it."""

        async def pump(put: Callable[[T], None]) -> None:
            async with aclosing(make()) as source:
                async for item in source:
                    put(item)

        return self.feed(pump)

    def feed(self, make: Callable[[Callable[[T], None]], Awaitable[None]]) -> Generator[T, None, None]:
        """Iterate in this thread over what a call on the loop puts. Leaving the iteration cancels
        the call."""
        items: queue.SimpleQueue[tuple[T] | None] = queue.SimpleQueue()

        async def fill() -> None:
            try:
                await make(lambda item: items.put((item,)))
            finally:
                items.put(None)

        call = self.start(fill)
        try:
            while (box := items.get()) is not None:
                yield box[0]
            call.result()
        finally:
            call.cancel()

    def start_closing(self) -> Future[None]:
        """Have the loop make the last call and end, if it has begun. All callers get one future."""
        closing = self._told.setdefault("close", Future())
        if self._portal is not None and self._tasks is not None:
            if threading.get_ident() == self._thread.ident:
                self._tasks.start_soon(self._close)
            else:
                try:
                    self._portal.start_task_soon(self._close)
                except RuntimeError:
                    pass  # it has ended already
        return closing

    async def _close(self) -> None:
        assert self._portal is not None
        if self._ending:
            return
        self._ending = True
        closing = self._told["close"]
        try:
            await self._last()
            closing.set_result(None)
        except Exception as error:  # noqa: BLE001 - raised by `close`
            closing.set_exception(error)
        finally:
            await self._portal.stop()

    def close(self) -> None:
        """Make the last call, end the loop, and wait for both.

        A signal handler that has interrupted `begin` cannot wait for it: the loop closes as soon as
        there is one.
        """
        if self.owner != os.getpid():
            return
        if threading.get_ident() == self._thread.ident:
            raise RuntimeError("close was called in the sandbox's own thread, which cannot wait for its own end")
        closing = self.start_closing()
        if threading.get_ident() == self._beginner:
            return
        try:
            closing.result()
        finally:
            if self.alive:
                self._thread.join()


_open: weakref.WeakSet[ThreadedSandbox[Any]] = weakref.WeakSet()


def _close_all() -> None:
    for sandbox in list(_open):
        try:
            sandbox.close()
        except BaseException:  # one that fails must not keep the others open
            log.exception("a sandbox could not be closed at exit")


atexit.register(_close_all)
