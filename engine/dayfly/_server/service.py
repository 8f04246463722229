"""The sandbox behind the server: started and started again until it stands, looked after, run in,
and closed. Nothing here knows HTTP.

A sandbox is started once (`AsyncSandbox.initialize`), so each try makes a new one. While none
stands, runs raise NotReady with the reason. Readiness is a fact kept up to date by one task, which
asks the engine every few seconds: whoever reads it, however often, costs the engine nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ParamSpec, TypeVar

import anyio
import msgspec

from dayfly import (
    AsyncSandbox,
    AsyncSession,
    DayflyError,
    EngineError,
    Job,
    Piece,
    PoolClosed,
    PoolFull,
    PoolTimeout,
    Result,
    SessionLost,
    Stats,
)
from dayfly._endpoint import Endpoint
from dayfly._engine_api import EngineAPI
from dayfly.judge import CaseResult, Cases, JudgeResult
from dayfly.judge._judging import Judging

from .config import Config
from .metrics import Metrics
from .problems import NotReady, invalid
from .tracing import Tracing
from .turns import Turns

log = logging.getLogger("dayfly.server")
P = ParamSpec("P")
T = TypeVar("T")

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 10.0
"""Seconds between two tries to start."""
REFILL = 5.0
"""Seconds that the pool may be empty, between one run and the next container, before the server is
not ready."""
LOOK_EVERY = 2.0
"""Seconds between two looks at the engine, and how long one may take."""


MANY_CASES = 200
"""Cases above which they are checked in a thread: one takes some ten microseconds."""


async def off_loop(cases: int, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call what looks at so many cases, in a thread if they are many: other requests are served
    meanwhile."""
    return call(*args, **kwargs) if cases <= MANY_CASES else await asyncio.to_thread(call, *args, **kwargs)


class Run(msgspec.Struct, frozen=True):
    """A result, and how long the program waited for its container."""

    result: Result
    queue_ms: float


class Service:
    """The sandbox of a server. `start` returns at once.

    endpoint: the engine, resolved once. key_count: how many keys there are now. on_death: called
    if the task that keeps the sandbox up ends by itself, which leaves a server that cannot recover.
    """

    def __init__(
        self,
        config: Config,
        tracing: Tracing,
        endpoint: Endpoint,
        *,
        key_count: Callable[[], int] = lambda: 0,
        on_death: Callable[[], None] = lambda: None,
    ) -> None:
        self._config = config
        self._tracing = tracing
        self._endpoint = endpoint
        self._on_death = on_death
        self._sandbox: AsyncSandbox | None = None
        self._reason = "the sandbox is being started"
        self._broken = asyncio.Event()
        self._alive = 0.0
        """When a container was last seen warm or at work."""
        self._task: asyncio.Task[None] | None = None
        self._stopping = False
        self._turns = Turns(
            config.slots,
            max_waiting=config.max_waiting,
            share=lambda: config.running_share(key_count()),
        )
        self.metrics = Metrics(self.stats, lambda: self.not_ready is None, lambda: self._turns.waiting)

    # Its life.

    def start(self) -> None:
        """Begin to keep a sandbox up."""
        self._task = asyncio.create_task(self._keep_up(), name="dayfly server: sandbox")
        self._task.add_done_callback(self._died)

    async def stop(self) -> None:
        """End what still runs, and remove every container. Bounded in time by the sandbox's own
        bound."""
        self._reason = "the server is stopping"
        self._stopping = True
        if self._task is not None:
            self._task.remove_done_callback(self._died)
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    def _died(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        self._reason = "the server is stopping"
        log.critical("the task that keeps the sandbox up has ended; so does the server", exc_info=error)
        self._on_death()

    async def _keep_up(self) -> None:
        """Start a sandbox, look after it, and start again when it has ended. Raises nothing."""
        pause = FIRST_PAUSE
        while True:
            began = time.monotonic()
            try:
                sandbox = self._config.sandbox(self._endpoint)
                await sandbox.initialize()
            except Exception as error:  # noqa: BLE001 - whatever it is, the next try may do
                self._failed(error, pause)
            else:
                await self._serve(sandbox)
                log.warning("the sandbox has ended by itself, and is started again")
            if self._stopping:  # what has ended the sandbox came in place of the cancellation
                return
            if time.monotonic() - began > LONGEST_PAUSE + pause:
                pause = FIRST_PAUSE
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    def _failed(self, error: Exception, pause: float) -> None:
        self.metrics.starts.labels("failed").inc()
        self.metrics.engine_errors.inc(isinstance(error, EngineError))
        self._reason = f"the sandbox cannot be started: {type(error).__name__}"
        log.error(
            "the sandbox cannot be started, next try in %g s: %s",
            pause,
            error,
            exc_info=None if isinstance(error, DayflyError) else error,  # expected, and said in full
        )

    async def _serve(self, sandbox: AsyncSandbox) -> None:
        """Let runs use the sandbox until it has ended, and close it. Raises nothing."""
        try:
            self.metrics.starts.labels("ok").inc()
            log.info("the sandbox is up: %d containers are warm", sandbox.stats().warm)
            self._broken.clear()
            self._sandbox, self._reason, self._alive = sandbox, "", time.monotonic()
            while not self._broken.is_set():
                await self._look_after()
                with contextlib.suppress(TimeoutError, asyncio.TimeoutError):
                    await asyncio.wait_for(self._broken.wait(), LOOK_EVERY)
        except Exception:
            log.exception("the sandbox cannot be looked after")
        finally:
            self._sandbox = None
            self._reason = self._reason or "the sandbox is being started again"
            try:
                await sandbox.close()
            except Exception:
                log.exception("the sandbox cannot be closed")

    async def _look_after(self) -> None:
        """Keep the reason why nothing can run up to date. Raises nothing."""
        reason = ""
        try:
            # A connection of its own each time: one that stands says nothing about the next.
            with anyio.fail_after(LOOK_EVERY):
                async with EngineAPI(self._endpoint):
                    pass
        except Exception as error:
            reason = "the engine does not answer"
            self.metrics.engine_errors.inc()
            if not self._reason:
                log.error(  # noqa: TRY400 - with its traceback where it was not expected
                    "the engine does not answer: %s",
                    str(error) or "no answer in time",
                    exc_info=None if isinstance(error, (DayflyError, TimeoutError)) else error,
                )
        if self._reason and not reason:
            log.info("the engine answers again")
        self._reason = reason
        _ = self.not_ready  # which notes whether a container is alive

    # Its use.

    @property
    def not_ready(self) -> str | None:
        """Why runs cannot be taken, or None if they can: the engine answers, and a container is
        warm or at work, or was a moment ago."""
        stats = self.stats()
        if stats is None or self._reason:
            return self._reason or "the sandbox is being started"
        now = time.monotonic()
        if stats.warm or stats.running:
            self._alive = now
        return None if now - self._alive < REFILL else "no container is warm"

    @property
    def pythons(self) -> Mapping[str, str]:
        """Interpreters of the image; none while no sandbox stands."""
        return {} if self._sandbox is None else self._sandbox.pythons

    @property
    def preload(self) -> Sequence[str]:
        """Modules that every program finds imported; none while no sandbox stands."""
        return () if self._sandbox is None else self._sandbox.preload

    def stats(self) -> Stats | None:
        """Return the sandbox's, None while there is none."""
        if self._sandbox is None:
            return None
        try:
            return self._sandbox.stats()
        except PoolClosed:
            return None

    async def run(
        self,
        job: Job,
        *,
        key: str,
        session: AsyncSession | None = None,
        clean: bool = False,
        wait_seconds: float | None = None,
        on_start: Callable[[float], None] | None = None,
        on_output: Callable[[Piece], None] | None = None,
    ) -> Run:
        """Run a job for a key, in a container of its own or in a session, which waits in no queue.

        `on_start` is told the milliseconds in the queue, once. `clean` as for AsyncSession.run.
        `wait_seconds`: time in the queue at most, and before it where it is full; None: as the
        settings say, and PoolFull where it is full. Raises what AsyncSandbox.run raises (a
        ValueError becomes a problem), and NotReady. Cancelling it ends the run.
        """
        begun = time.monotonic()
        queue_ms = -1.0
        queue = self._queue(wait_seconds)

        def started() -> None:
            nonlocal queue_ms
            queue.deadline = math.inf
            if queue_ms < 0:
                queue_ms = (time.monotonic() - begun) * 1_000
                self.metrics.queue.observe(queue_ms / 1_000)
                if on_start is not None:
                    on_start(queue_ms)

        with self._tracing.run() as attributes:
            try:
                with self._failures(attributes, in_session=session is not None):
                    if session is not None:
                        result: Result | None = await session.run(job, clean=clean, on_output=on_output, on_start=started)
                    else:
                        result = None
                        self._standing()  # before the wait, which would be for nothing
                        with queue:
                            async with self._turns.turn(key, patient=wait_seconds is not None):
                                result = await self._standing().run(job, on_output=on_output, on_start=started)
                    if result is None:
                        raise PoolTimeout("no container became free within the queue's time limit")
            except DayflyError:
                if queue_ms < 0:
                    self.metrics.queue.observe(time.monotonic() - begun)
                raise
            attributes |= {"dayfly.outcome": result.outcome.value, "dayfly.queue_ms": queue_ms, "dayfly.wall_ms": result.wall_ms}
        self.metrics.runs.labels(result.outcome.value, key).inc()
        self.metrics.run_seconds.observe(result.wall_ms / 1_000)
        return Run(result, queue_ms)

    async def ask(self, job: Job) -> Result:
        """Run a job of the server's own, which no metric counts."""
        return await self._standing().run(job)

    async def open_session(
        self, key: str, *, max_runs: int, max_seconds: float, idle_seconds: float
    ) -> tuple[AsyncSession, Callable[[], None]]:
        """Open a session for a key, and return it with what gives its container's slot back when it
        has ended.

        It waits its turn as a run does, and raises what `run` raises before a program is delivered.
        """
        session: AsyncSession | None = None
        give_back = None
        with self._failures({}):
            self._standing()
            with self._queue():
                async with self._turns.turn(key):
                    opening = self._standing().session(max_runs=max_runs, max_seconds=max_seconds, idle_seconds=idle_seconds)
                    await opening.open()
                    session, give_back = opening, self._turns.occupy()
            if session is None or give_back is None:
                raise PoolTimeout("no container became free within the queue's time limit")
        self.metrics.sessions.labels(key).inc()
        return session, give_back

    async def judge(
        self,
        code: bytes,
        cases: Cases,
        *,
        key: str,
        concurrency: int,
        on_start: Callable[[float], None] | None = None,
        on_case: Callable[[CaseResult], None] | None = None,
        **options: Any,
    ) -> JudgeResult:
        """Judge a submission for a key, in as many containers as are free, `concurrency` at most.

        It waits for its turn and its first container as a run does; `on_start` is told for how
        many milliseconds. Raises what `run` raises before a program is delivered. Cancelling it
        ends the judging.
        """
        begun = time.monotonic()
        told: JudgeResult | None = None
        with self._failures({}), contextlib.ExitStack() as spare:
            # Before the wait, which would be for nothing.
            judging = await off_loop(len(cases), Judging, self._standing(), code, cases, **options)
            with self._queue() as queue:

                def started() -> None:
                    queue.deadline = math.inf
                    if on_start is not None:
                        on_start((time.monotonic() - begun) * 1_000)

                async with self._turns.turn(key):
                    if judging.sandbox is not self._standing():
                        judging = await off_loop(len(cases), Judging, self._standing(), code, cases, **options)
                    while judging.workers < min(concurrency, len(cases)) and (give_back := self._turns.spare(key)) is not None:
                        spare.callback(give_back)
                        judging.workers += 1
                    told = await judging.run(on_case, started)
            if told is None:
                raise PoolTimeout("no container became free within the queue's time limit")
        self.metrics.judgings.labels(told.verdict.value, key).inc()
        return told

    def _queue(self, seconds: float | None = None) -> anyio.CancelScope:
        """One deadline for both queues: this server's turns, and the pool's."""
        return anyio.CancelScope(deadline=anyio.current_time() + (self._config.queue_timeout_ms / 1_000 if seconds is None else seconds))

    @contextlib.contextmanager
    def _failures(self, attributes: dict[str, Any], *, in_session: bool = False) -> Iterator[None]:
        """Count what goes wrong. A ValueError becomes a problem."""
        try:
            yield
        except ValueError as error:  # over a limit of the sandbox's, or an interpreter that the image lacks
            raise invalid(str(error)) from None
        except DayflyError as error:
            attributes["dayfly.error"] = type(error).__name__
            self.metrics.errors.labels(type(error).__name__).inc()
            self.metrics.engine_errors.inc(isinstance(error.__cause__ or error, EngineError))
            if isinstance(error, PoolClosed) and not in_session:  # a session may be of the sandbox before
                self._broken.set()
            elif isinstance(error, SessionLost):
                log.info("a run failed: SessionLost")  # why may name what the program has left
            elif not isinstance(error, (PoolClosed, PoolFull, PoolTimeout)):
                log.warning("a run failed: %s: %s", type(error).__name__, error)
            raise
        except asyncio.CancelledError:
            self.metrics.gone.inc()
            raise

    def _standing(self) -> AsyncSandbox:
        if self._sandbox is None:
            raise NotReady(self._reason or "the sandbox is being started")
        return self._sandbox
