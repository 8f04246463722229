"""AsyncSession: one container that runs many programs of one owner, each in a fresh process.

The container is leased from the sandbox's pool when the session opens, and ended when it closes:
there is no way back. Between two programs the runner removes all that the first one left but its
files.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

import anyio

from . import _events as events
from ._errors import ContainerLost, DayflyError, RunnerMisbehaved, SandboxError, SessionLost
from ._events import Event, Leased
from ._job import Job, RunOptions
from ._limits import MAX_SECONDS, MAX_SESSION_RUNS, integer, number
from ._messages import Request
from ._result import OnOutput, Piece, Result
from ._spec import SHARED_MEMORY, TEMPORARY_DIR, WORKING_DIR

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ._container import Container
    from ._pool import Lease, Pool

log = logging.getLogger("dayfly.session")

TRIES = 3
"""Containers that are asked to open a session."""


class Provider(Protocol):
    """What a session needs of its sandbox."""

    _sessions: int

    def _prepare(self, code: str | bytes | Job | Mapping[str, Any], options: RunOptions, *, clean: bool = False) -> Request:
        """Check what `run` was called with, and return what is sent."""

    def _pool_for(self, python: str) -> Pool[Container]:
        """Return the pool, if its containers have this Python. Raises PoolClosed or ValueError."""

    def _note(self, what: Event | DayflyError) -> None:
        """Count how a run ended."""


class AsyncSession:
    """A session of a sandbox; made by `AsyncSandbox.session`, which describes the arguments.

    One program at a time. A time-out, an OOM kill or a crash ends a program, not the session. A run
    that is cancelled, or left before its end, ends its program.
    """

    def __init__(self, sandbox: Provider, *, max_runs: int, max_seconds: float, idle_seconds: float) -> None:
        self.max_runs = integer("max_runs", max_runs, least=1, most=MAX_SESSION_RUNS)
        self.max_seconds = number("max_seconds", max_seconds, least=0.001, most=MAX_SECONDS)
        self.idle_seconds = number("idle_seconds", idle_seconds, least=0.001, most=MAX_SECONDS)
        self.runs = 0
        """Programs that were handed over."""
        self._sandbox = sandbox
        self._lease: Lease[Container] | None = None
        self._opened_at: float | None = None
        self._opened = False
        self._closed = False
        self._busy = False
        self._moving = False
        """Another container is being leased."""
        self._counted = False
        self._ended = anyio.Event()

    async def open(self) -> None:
        """Lease a container and prepare it. Raises what `AsyncSandbox.run` raises where there is
        none."""
        if self._opened_at is not None:
            raise RuntimeError("a session is opened once; make a new one")
        self._opened_at = time.monotonic()
        await self._begin()
        self._opened = True

    async def _begin(self) -> None:
        pool = self._sandbox._pool_for("3")
        self._moving = True
        try:
            await self._lease_one(pool)
        finally:
            self._moving = False
            self._look()

    async def _lease_one(self, pool: Pool[Container]) -> None:
        for tries_left in reversed(range(TRIES)):
            lease = await pool.acquire()
            lease.worker.on_end = self._look
            try:
                await lease.worker.open_session([WORKING_DIR, TEMPORARY_DIR], [SHARED_MEMORY])
            except BaseException as error:
                lease.end()
                if not isinstance(error, SandboxError) or not tries_left:
                    raise
                continue
            if self._closed:  # meanwhile
                lease.end()
                raise SessionLost("the session is closed", delivered=False)
            self._lease = lease
            self._rest()
            log.debug("%s: session opened", lease.worker.id[:12])
            return

    async def close(self) -> None:
        """End the container. Does not wait for it; may be called twice."""
        self._closed = True
        if self._lease is not None:
            self._lease.end()
        self._look()

    @property
    def over(self) -> str | None:
        """Why the session has no container, or None while it has one."""
        why = self._over()
        if why is not None or self._moving or self._lease is None or self._lease.worker.usable:
            return why
        return self._why(self._lease.worker)

    async def ended(self) -> str:
        """Wait until the session has lost its container, whatever ended it, and return why."""
        await self._ended.wait()
        return self.over or "it is over"

    def _look(self) -> None:
        """Count the session as long as it has a container, and say when it is over."""
        lives = not self._closed and self._lease is not None and (self._moving or self._lease.worker.usable)
        if lives != self._counted:
            self._counted = lives
            self._sandbox._sessions += 1 if lives else -1
        if not lives and self._opened:
            self._ended.set()

    async def __aenter__(self) -> AsyncSession:
        await self.open()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    def __repr__(self) -> str:
        state = "closed" if self._closed else "open" if self._opened else "not open"
        return f"<{type(self).__name__}, {state}, {self.runs} of {self.max_runs} runs>"

    async def run(
        self,
        code: str | bytes | Job | Mapping[str, Any],
        *,
        clean: bool = False,
        on_output: OnOutput | None = None,
        on_start: Callable[[], None] | None = None,
        **options: Unpack[RunOptions],
    ) -> Result:
        """Run one program in a fresh process of the session's container, and return what it did.

        Takes what `AsyncSandbox.run` takes. `clean`: the files of earlier programs are wiped first.
        Raises SessionLost if the session cannot go on, and RuntimeError while another program runs.
        """
        wanted = self._prepare(code, options, clean=clean)
        return await events.run(self._events(wanted), events.Fold(on_output, on_start))

    async def stream(
        self, code: str | bytes | Job | Mapping[str, Any], *, clean: bool = False, **options: Unpack[RunOptions]
    ) -> AsyncIterator[Piece | Result]:
        """Like `run`, and yield each Piece of output as it arrives, and the Result last."""
        wanted = self._prepare(code, options, clean=clean)
        async with aclosing(events.stream(self._events(wanted))) as items:
            async for item in items:
                yield item

    def _prepare(self, code: str | bytes | Job | Mapping[str, Any], options: RunOptions, *, clean: bool) -> Request:
        """Check what `run` was called with, and return what is sent."""
        return self._sandbox._prepare(code, options, clean=clean)

    async def _events(self, wanted: Request) -> AsyncGenerator[Event, None]:
        """Run a program and yield what happens."""
        if self._busy:
            raise RuntimeError("a session runs one program at a time; wait for the other, or open a second session")
        self._sandbox._pool_for(wanted.run.python)
        self._busy = True
        container = None
        try:
            container = await self._usable(wanted)
            container.end_at(float("inf"))
            yield Leased()
            self.runs += 1
            try:
                # A program that is handed over in part would break the dialogue. The container's
                # own deadlines bound it.
                with anyio.CancelScope(shield=True):
                    execution = await container.run(wanted)
                async for event in execution:
                    self._sandbox._note(event)
                    yield event
            except (ContainerLost, RunnerMisbehaved) as error:
                raise SessionLost(f"the session has lost its container: {error}", delivered=error.delivered) from error
        except DayflyError as error:
            self._sandbox._note(error)
            raise
        except BaseException:
            if container is not None:
                container.stop()  # cancelled, or left: the program must end
            raise
        finally:
            self._busy = False
            self._rest()

    def _feed(self, data: bytes) -> None:
        """Give the program that runs more input, if its request is live.

        b"" is the end of it.
        """
        if self._lease is not None:
            self._lease.worker.feed(data)

    async def _usable(self, wanted: Request) -> Container:
        """Return the container. A program that wants no files of earlier ones gets a new one if
        need be."""
        why = self._over()
        if why is None and self._lease is not None:
            container = self._lease.worker
            await container.until_free()  # whether it can be cleaned is known then
            if container.usable:
                return container
            why = self._why(container)
            if wanted.run.clean and not container.expired:
                log.debug("%s: session goes on in another container", container.id[:12])
                self._lease.end()
                await self._begin()
                return self._lease.worker
        cause = None if self._lease is None else self._lease.worker.failure
        raise SessionLost(f"the session is over: {why}", delivered=False) from cause

    def _over(self) -> str | None:
        if self._closed:
            return "it is closed"
        if not self._opened or self._opened_at is None:
            return "it is not open"
        if self.runs >= self.max_runs:
            return f"it has run {self.runs} programs (max_runs)"
        if time.monotonic() - self._opened_at >= self.max_seconds:
            return f"it is older than {self.max_seconds:g} s (max_seconds)"
        return None

    def _why(self, container: Container) -> str:
        if container.expired:
            return f"no program was run for {self.idle_seconds:g} s (idle_seconds)"
        if container.spent is not None:
            return f"the container could not be cleaned after the last program: {container.spent!a:.300}"
        return "its container has ended"

    def _rest(self) -> None:
        """Let the container end when the session is idle for too long, or too old."""
        if self._lease is not None and self._opened_at is not None:
            now = time.monotonic()
            if self.runs >= self.max_runs:
                self._lease.end()
            self._lease.worker.end_at(min(now + self.idle_seconds, max(now, self._opened_at + self.max_seconds)))
