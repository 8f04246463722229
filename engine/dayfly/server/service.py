"""The sandbox behind the server: started and started again until it stands, looked after, run in, and closed. Nothing here knows HTTP.

A sandbox is started once (`AsyncSandbox.initialize`), so each try makes a new one. While none stands, runs raise NotReady with the
reason. Readiness is a fact kept up to date by one task, which asks the engine every few seconds: whoever reads it, however often, costs
the engine nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable

import anyio
import msgspec

from dayfly import AsyncSandbox, DayflyError, EngineError, Job, Piece, PoolClosed, Result, Stats
from dayfly.engine_api import EngineAPI

from .config import Config
from .metrics import Metrics
from .problems import NotReady, invalid
from .tracing import Tracing

log = logging.getLogger("dayfly.server")

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 10.0
"""Seconds between two tries to start."""
REFILL = 5.0
"""Seconds that the pool may be empty, between one run and the next container, before the server is not ready."""
LOOK_EVERY = 2.0
"""Seconds between two looks at the engine, and how long one may take."""


class Run(msgspec.Struct, frozen=True):
    """A result, and how long the program waited for its container."""

    result: Result
    queue_ms: float


class Service:
    """The sandbox of a server. `start` returns at once."""

    def __init__(self, config: Config, tracing: Tracing) -> None:
        self._config = config
        self._tracing = tracing
        self._sandbox: AsyncSandbox | None = None
        self._reason = "the sandbox is being started"
        self._broken = asyncio.Event()
        self._alive = 0.0
        """When a container was last seen warm or at work."""
        self._task: asyncio.Task[None] | None = None
        self.metrics = Metrics(self.stats, lambda: self.not_ready is None)

    # Its life.

    def start(self) -> None:
        """Begin to keep a sandbox up."""
        self._task = asyncio.create_task(self._keep_up(), name="dayfly server: sandbox")

    async def stop(self) -> None:
        """End what still runs, and remove every container. Bounded in time by the sandbox's own bound."""
        self._reason = "the server is stopping"
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _keep_up(self) -> None:
        pause = FIRST_PAUSE
        while True:
            sandbox = self._config.sandbox()
            try:
                await sandbox.initialize()
            except DayflyError as error:
                self.metrics.starts.labels("failed").inc()
                self.metrics.engine_errors.inc(isinstance(error, EngineError))
                self._reason = f"the sandbox cannot be started: {type(error).__name__}"
                log.error("the sandbox cannot be started, next try in %g s: %s", pause, error)  # noqa: TRY400 - expected, and said in full
                await asyncio.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
                continue
            pause = FIRST_PAUSE
            try:
                self.metrics.starts.labels("ok").inc()
                log.info("the sandbox is up: %d containers are warm", sandbox.stats().warm)
                self._broken.clear()
                self._sandbox, self._reason, self._alive = sandbox, "", time.monotonic()
                await self._look_after()
            finally:
                self._sandbox = None
                self._reason = self._reason or "the sandbox is being started again"
                await sandbox.close()
            log.warning("the sandbox has ended by itself, and is started again")

    async def _look_after(self) -> None:
        """Keep the reason why nothing can run up to date; return when the sandbox has ended."""
        while not self._broken.is_set():
            reason = ""
            try:
                # A connection of its own each time: one that stands says nothing about the next.
                with anyio.fail_after(LOOK_EVERY):
                    async with EngineAPI(self._config.docker_host):
                        pass
            except (DayflyError, TimeoutError) as error:
                reason = "the engine does not answer"
                self.metrics.engine_errors.inc()
                if not self._reason:
                    log.error("the engine does not answer: %s", str(error) or "no answer in time")  # noqa: TRY400 - expected
            if self._reason and not reason:
                log.info("the engine answers again")
            self._reason = reason
            _ = self.not_ready  # which notes whether a container is alive
            with contextlib.suppress(TimeoutError, asyncio.TimeoutError):
                await asyncio.wait_for(self._broken.wait(), LOOK_EVERY)

    # Its use.

    @property
    def not_ready(self) -> str | None:
        """Why runs cannot be taken, or None if they can: the engine answers, and a container is warm or at work, or was a moment ago."""
        stats = self.stats()
        if stats is None or self._reason:
            return self._reason or "the sandbox is being started"
        now = time.monotonic()
        if stats.warm or stats.running:
            self._alive = now
        return None if now - self._alive < REFILL else "no container is warm"

    def stats(self) -> Stats | None:
        """Return the sandbox's, None while there is none."""
        if self._sandbox is None:
            return None
        try:
            return self._sandbox.stats()
        except PoolClosed:
            return None

    def check(self, job: Job) -> None:
        """Raise a problem if the job asks for more than the server gives."""
        if job.timeout_ms is not None and job.timeout_ms > self._config.max_timeout_ms:
            raise invalid(f"timeoutMs is {job.timeout_ms:g}; the most that this server gives is {self._config.max_timeout_ms:g}")

    async def run(
        self,
        job: Job,
        *,
        key: str,
        on_start: Callable[[float], None] | None = None,
        on_output: Callable[[Piece], None] | None = None,
    ) -> Run:
        """Run a job for a key. `on_start` is told the milliseconds in the queue, once.

        Raises what AsyncSandbox.run raises (a ValueError becomes a problem), and NotReady. Cancelling it ends the run.
        """
        self.check(job)
        sandbox = self._sandbox
        if sandbox is None:
            raise NotReady(self._reason or "the sandbox is being started")
        begun = time.monotonic()
        queue_ms = -1.0

        def started() -> None:
            nonlocal queue_ms
            if queue_ms < 0:
                queue_ms = (time.monotonic() - begun) * 1_000
                self.metrics.queue.observe(queue_ms / 1_000)
                if on_start is not None:
                    on_start(queue_ms)

        with self._tracing.run() as attributes:
            try:
                result = await sandbox.run(job, on_output=on_output, on_start=started)
            except ValueError as error:  # over a limit of the sandbox's, or an interpreter that the image lacks
                raise invalid(str(error)) from None
            except DayflyError as error:
                attributes["dayfly.error"] = type(error).__name__
                self.metrics.errors.labels(type(error).__name__).inc()
                self.metrics.engine_errors.inc(isinstance(error.__cause__ or error, EngineError))
                if isinstance(error, PoolClosed):
                    self._broken.set()
                else:
                    log.warning("a run failed: %s: %s", type(error).__name__, error)
                if queue_ms < 0:
                    self.metrics.queue.observe(time.monotonic() - begun)
                raise
            except asyncio.CancelledError:
                self.metrics.gone.inc()
                raise
            attributes |= {"dayfly.outcome": result.outcome.value, "dayfly.queue_ms": queue_ms, "dayfly.wall_ms": result.wall_ms}
        self.metrics.runs.labels(result.outcome.value, key).inc()
        self.metrics.run_seconds.observe(result.wall_ms / 1_000)
        return Run(result, queue_ms)
