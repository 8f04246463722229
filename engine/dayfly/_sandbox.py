"""AsyncSandbox: checks its arguments, keeps a pool of containers, and runs each program in one of
them.

Everything that lives longer than a call (the pool, the containers, the clean-up) lives in one task
of its own, so that `initialize` and `close` may be called from different tasks, and the
cancellation of a caller touches nothing but its own run.
"""

from __future__ import annotations

import logging
import os
import re
import time
import warnings
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, TypedDict

import anyio

from . import _events as events
from . import _orphans as orphans
from . import _requirements as requirements
from . import _spec as spec
from ._cleaner import Cleaner
from ._container import Container
from ._endpoint import Endpoint
from ._engine_api import EngineAPI
from ._errors import DayflyError, EngineError, ImageMissing, PoolClosed, SandboxError, StartFailed
from ._events import Ended, Event, Leased
from ._job import Job, RunOptions, as_job, check_timeout, request
from ._ledger import Ledger, State
from ._limits import (
    MAX_CONTAINERS,
    MAX_MEMORY_MB,
    MAX_POOL,
    MAX_QUEUE_MS,
    MAX_WAITING,
    MIN_MEMORY_MB,
    SESSION_IDLE,
    SESSION_RUNS,
    SESSION_SECONDS,
    Limits,
    integer,
    number,
)
from ._messages import MAX_MODULES, MODULE_LENGTH, PROTOCOL, Request
from ._names import DEFAULT_IMAGE, PRELOAD_LABEL, PROTOCOL_LABEL
from ._owner import OwnerTask
from ._pool import Pool
from ._result import OnOutput, Piece, Result
from ._session import AsyncSession
from ._stats import Stats
from ._watchdog import Watchdog

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .judge._cases import Case
    from .judge._judging import JudgeOptions, OnCase
    from .judge._sources import Cases
    from .judge._verdicts import JudgeResult

log = logging.getLogger("dayfly.sandbox")
logging.getLogger("dayfly").addHandler(logging.NullHandler())

DEFAULT_UIDS = range(1_900_000_000, 2_000_000_000)
"""Above every range that systemd and shadow give out (uids.systemd.io), below 2^31, where old
interfaces end."""
REMAPPED_UIDS = range(20_000, 60_000)
"""Where the engine maps uids itself (rootless, userns-remap) a container has 65,536 of them."""
TRIES = 3
"""Containers that a program is offered to, as long as none of them has received it."""
REFILL_DELAY = 0.2
"""Seconds. Creating a container keeps two processors busy for a tenth of a second: a burst of short
programs is over by then."""
CALL_DEADLINE_AT_CLOSE = 5.0
"""Seconds that any call to the engine may last once `close` was called."""
CLOSE_DEADLINE = 15.0
"""Seconds for all of the clean-up by `close`, from its call."""
CLOSE_MARGIN = 3.0
"""Seconds on top for closing connections and the watchdog, after which `close` returns in any
case."""

_LABEL = re.compile(r"[a-zA-Z0-9/][a-zA-Z0-9_./:@-]*")


class SandboxOptions(TypedDict, total=False):
    """The keyword arguments of a sandbox; see AsyncSandbox."""

    image: str
    limits: Limits | None
    runtime: str | None
    docker_host: str | Endpoint | None
    python: Literal["3", "2"]
    max_waiting: int
    queue_timeout_ms: float
    max_containers: int | None
    uids: range | None
    cgroup_parent: str | None
    preload: Sequence[str] | None


class AsyncSandbox:
    """Runs untrusted Python code, each program in a fresh, hardened container, of which `pool_size`
    are kept warm.

    Works on asyncio and trio. Use it as an async context manager, or call `initialize` and `close`.
    The constructor only checks its arguments: TypeError or ValueError for one that makes no sense.

    pool_size: containers kept ready, 1 or more. timeout_ms: wall time of a program unless its run
    says otherwise. memory_limit_mb: memory of a container, in 10^6 bytes, tmpfs included; 16 or
    more.

    image: name or id of a runner image (`dayfly image build`). limits: all other limits of a
    program. runtime: a runtime of the engine (`crun`, `runsc`); None: the engine's default. Never
    another than this one. docker_host: the engine's address; None: DOCKER_HOST, the Docker context,
    the usual sockets. python: "3" or "2", for runs that do not say. max_waiting: callers in the
    queue at most. queue_timeout_ms: time in the queue at most. max_containers: containers alive at
    all, whatever their state; None: twice pool_size, so that as many programs run as are kept warm.
    uids: the range that containers' uids are taken from; None: one that suits the engine.
    cgroup_parent: a cgroup of the host that bounds all containers together. preload: modules to
    import in each container before it counts as warm; every program finds them imported. None:
    those of the image (`dayfly image build --preload`), which has none unless it was asked for.
    """

    _closed = True  # for __del__, where __init__ never came to its end

    def __init__(
        self,
        pool_size: int = 1,
        timeout_ms: float = 10_000,
        memory_limit_mb: float = 50,
        *,
        image: str = DEFAULT_IMAGE,
        limits: Limits | None = None,
        runtime: str | None = None,
        docker_host: str | Endpoint | None = None,
        python: Literal["3", "2"] = "3",
        max_waiting: int = 10_000,
        queue_timeout_ms: float = 60_000,
        max_containers: int | None = None,
        uids: range | None = None,
        cgroup_parent: str | None = None,
        preload: Sequence[str] | None = None,
    ) -> None:
        self.pool_size = integer("pool_size", pool_size, least=1, most=MAX_POOL)
        self.timeout_ms = check_timeout(timeout_ms)
        self.memory_bytes = int(number("memory_limit_mb", memory_limit_mb, least=MIN_MEMORY_MB, most=MAX_MEMORY_MB) * 1_000_000)
        if limits is not None and not isinstance(limits, Limits):
            raise TypeError(f"limits must be a Limits, not {type(limits).__name__}")
        self.limits = limits or Limits()
        self.image = _name("image", image)
        self.runtime = None if runtime is None else _name("runtime", runtime)
        self.cgroup_parent = None if cgroup_parent is None else _name("cgroup_parent", cgroup_parent)
        if python not in ("2", "3"):
            raise ValueError(f"python must be '3' or '2', not {python!r:.80}")
        self.python = python
        most = 2 * self.pool_size if max_containers is None else max_containers
        self.max_containers = integer("max_containers", most, least=self.pool_size, most=MAX_CONTAINERS)
        self._max_waiting = integer("max_waiting", max_waiting, least=0, most=MAX_WAITING)
        self._queue_timeout = number("queue_timeout_ms", queue_timeout_ms, least=1, most=MAX_QUEUE_MS) / 1_000
        self._uids = None if uids is None else _uid_range(uids)
        self._preload = None if preload is None else _modules(preload)
        self._engine = EngineAPI(docker_host)
        self._pool: Pool[Container] | None = None
        self._ledger: Ledger | None = None
        self._cleaner: Cleaner | None = None
        self._owner: OwnerTask | None = None
        self._close_by = float("inf")
        self._pythons: dict[str, str] = {}
        self._pid = 0
        self._judge_pairs: anyio.Semaphore | None = None
        """Judgings that may hold two containers at once."""
        self._sessions = 0
        """Sessions that are open."""
        self._outcomes: Counter[str] = Counter()
        self._errors: Counter[str] = Counter()

    # Its life.

    async def initialize(self) -> None:
        """Check the engine, remove orphans of dead processes, return when `pool_size` containers
        are warm.

        Raises ImageMissing, EngineUnreachable, EngineRefused, EngineError (too old, or without what
        isolation needs), or StartFailed; nothing is left behind then. A second call is a
        RuntimeError.
        """
        if self._owner is not None:
            raise RuntimeError("a sandbox is initialized once; make a new one")
        begun = time.monotonic()
        self._owner = OwnerTask(self._live, self._fail)
        self._pid, self._closed = os.getpid(), False
        try:
            await self._owner.started()
            await self._filled()
        except BaseException:
            with anyio.CancelScope(shield=True):
                await self.close()
            raise
        log.info("initialized: %d containers are warm after %.1f s", self.pool_size, time.monotonic() - begun)

    async def _filled(self) -> None:
        if self._pool is None:
            raise PoolClosed("the sandbox was closed while it was being initialized")
        await self._pool.filled()

    async def close(self) -> None:
        """End all runs, remove all containers, and return when they are gone.

        Bounded in time (18 s); may be called twice, also at once, and before `initialize`. Runs in
        progress raise PoolClosed. RuntimeError on another event loop than `initialize`'s, which
        changes nothing.
        """
        if self._owner is None or self._pid != os.getpid():
            self._closed = True
            return
        self._owner.check_loop()
        if not self._closed:
            self._closed = True
            self._close_by = time.monotonic() + CLOSE_DEADLINE
            if self._pool is not None:
                self._pool.close()
            self._engine.hurry(CALL_DEADLINE_AT_CLOSE)
        with anyio.move_on_after(max(0.0, self._close_by - time.monotonic()) + CLOSE_MARGIN, shield=True):
            await self._owner.end()
            log.info("closed")
            return
        log.warning("close gave up after %g s; the clean-up goes on in the background", CLOSE_DEADLINE + CLOSE_MARGIN)

    async def __aenter__(self) -> AsyncSandbox:
        await self.initialize()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    def __del__(self) -> None:
        if not self._closed and self._pid == os.getpid():
            warnings.warn(f"{self!r} was not closed", ResourceWarning, stacklevel=2, source=self)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.pool_size} at {self._engine.address}>"

    def __reduce__(self) -> Any:
        raise TypeError("a sandbox cannot be pickled or copied: it owns containers")

    def _fail(self, error: BaseException) -> None:
        """The owner task has failed: whoever waits or comes later is told why."""
        if self._pool is not None:
            self._pool.close(error)

    async def _live(self, started: Callable[[], None]) -> None:
        async with self._engine as engine:
            blueprint, uids, max_creating = await self._examine(engine)
            instance = blueprint.profile.labels[orphans.LABEL]
            self._ledger = ledger = Ledger(
                size=self.pool_size,
                max_alive=self.max_containers,
                max_creating=max_creating,
                max_waiting=self._max_waiting,
                max_wait=self._queue_timeout,
                refill_delay=REFILL_DELAY,
            )
            self._cleaner = cleaner = Cleaner(engine, ledger, instance, lambda: pool.step())  # noqa: PLW0108 - there is no pool yet
            any_warm = False

            async def live(key: int, on_warm: Callable[[Container], None]) -> None:
                # What a warm container shows of the profile holds for all others: only the uid
                # differs.
                container = Container(key, blueprint, uids, engine=engine, ledger=ledger, cleaner=cleaner, preload=self.preload)

                def warm(_: Container) -> None:
                    nonlocal any_warm
                    any_warm = True
                    assert container.ready is not None
                    self._pythons = container.ready.pythons
                    on_warm(container)

                await container.live(warm, first=not any_warm)

            self._pool = pool = Pool(ledger, live)
            watchdog = Watchdog(engine.endpoint, instance)
            left = ["all of them"]
            try:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._clean, cleaner, pool, name="dayfly cleaner")
                    started()
                    await pool.serve()
            finally:
                with anyio.CancelScope(shield=True):
                    try:
                        left = await cleaner.finish(min(CLOSE_DEADLINE, max(0.1, self._close_by - time.monotonic())))
                    finally:
                        if left:
                            watchdog.go_on()
                            log.warning("could not confirm removal; the watchdog process will retry: %s", ", ".join(left))
                        else:
                            await watchdog.done()
                        orphans.retire(instance)

    @property
    def _build_command(self) -> str:
        tag = "" if self.image == DEFAULT_IMAGE else f" --tag {self.image}"
        return f"dayfly image build{tag}{' --python2' * (self.python == '2')}"

    @staticmethod
    async def _clean(cleaner: Cleaner, pool: Pool[Container]) -> None:
        try:
            await cleaner.work()
        except BaseException as error:
            pool.fail(error)  # at once: those who wait are not told otherwise while the rest ends
            raise

    async def _examine(self, engine: EngineAPI) -> tuple[spec.Blueprint, range, int]:
        """Everything that can be known before the first container: the image, the runtime, what the
        engine enforces."""
        info = await engine.info()
        try:
            image = await engine.inspect_image(self.image)
        except ImageMissing as error:
            raise ImageMissing(f"{error}; make it with `{self._build_command}`") from error
        labels = image.get("Config", {}).get("Labels") or {}
        label = labels.get(PROTOCOL_LABEL)
        if label != str(PROTOCOL):
            speaks = "is not a runner image" if label is None else f"speaks protocol {label}"
            raise StartFailed(
                f"the image {self.image!r} {speaks}, and this dayfly needs {PROTOCOL}: build it again with `{self._build_command}`"
            )
        if self._preload is None:
            self._preload = _modules(labels.get(PRELOAD_LABEL, "").split())
        runtimes = info.get("Runtimes", {})
        if self.runtime is not None and self.runtime not in runtimes:
            raise EngineError(f"the engine has no runtime {self.runtime!r}; it has {', '.join(sorted(runtimes))}")
        if missing := requirements.missing(info):
            raise EngineError(f"the engine at {engine.address} does not enforce {', '.join(missing)}; see `dayfly doctor`")
        options = requirements.security_options(info)
        remapped = not options.keys().isdisjoint({"rootless", "userns"})
        await orphans.reap(engine)
        socket_limit, udp = spec.accounting(info, self.runtime)
        profile = spec.Profile(
            image_id=image["Id"],
            memory_bytes=self.memory_bytes,
            limits=self.limits,
            runtime=self.runtime,
            cgroup_parent=self.cgroup_parent,
            labels=orphans.labels(),
            socket_limit=socket_limit,
            udp=udp,
        )
        uids = self._uids or (REMAPPED_UIDS if remapped else DEFAULT_UIDS)
        return spec.Blueprint(profile), uids, min(max(2, 2 * int(info.get("NCPU") or 1)), 16)

    # Its use.

    async def run(
        self,
        code: str | bytes | Job | Mapping[str, Any],
        *,
        on_output: OnOutput | None = None,
        on_start: Callable[[], None] | None = None,
        **options: Unpack[RunOptions],
    ) -> Result:
        """Run one program in a container of its own and return what it did.

        `code` is Python source, a Job, or a mapping with the JSON form's names. What is given
        beside it (RunOptions: the fields of a Job, and `stdin` as str or bytes) wins over a Job's
        own. `on_output` is called with each Piece of output as it arrives, on the event loop.
        `on_start` is called when the wait for a container is over; again, should that container die
        before it has the program. What they raise ends the run and is raised here.

        Raises TypeError and ValueError for bad input, before any container is touched; PoolClosed,
        PoolFull, PoolTimeout if no container becomes available; SandboxError if the container
        fails. Cancelling it ends the program and its container.
        """
        return await events.run(self._events(self._prepare(code, options)), events.Fold(on_output, on_start))

    async def stream(self, code: str | bytes | Job | Mapping[str, Any], **options: Unpack[RunOptions]) -> AsyncIterator[Piece | Result]:
        """Like `run`, and yield each Piece of output as it arrives, and the Result last.

        A consumer that is slow costs memory, up to the limits on output; it changes no verdict.
        Leaving the loop early ends the program and its container; close the iterator then
        (`contextlib.aclosing`), as with any async generator.
        """
        async with aclosing(events.stream(self._events(self._prepare(code, options)))) as items:
            async for item in items:
                yield item

    def session(
        self, *, max_runs: int = SESSION_RUNS, max_seconds: float = SESSION_SECONDS, idle_seconds: float = SESSION_IDLE
    ) -> AsyncSession:
        """Return a session: one container that runs many programs, each in a fresh process, files
        kept.

        Use it as an async context manager, or call `open` and `close`. `max_runs`: programs at
        most. `max_seconds`: age from which no program is started. `idle_seconds`: time without a
        program after which the session ends.
        """
        return AsyncSession(self, max_runs=max_runs, max_seconds=max_seconds, idle_seconds=idle_seconds)

    async def judge(
        self, code: str | bytes, cases: Sequence[Case] | Cases, *, on_case: OnCase | None = None, **options: Unpack[JudgeOptions]
    ) -> JudgeResult:
        """Run one submission on many cases and return the verdict; see `dayfly.judge` for cases and
        checkers.

        Each case runs in a fresh process of a container that this judging alone uses; what is
        expected stays on the host. `on_case` is called with each CaseResult, in the order of the
        cases. `options` are those of JudgeOptions.

        Raises TypeError and ValueError for bad input, before any container is touched, and what
        `run` raises if there is no container. Where the sandbox fails later, the verdict of that
        case is `judge_error`.
        """
        from .judge._judging import Judging  # noqa: PLC0415 - who does not judge need not load it

        return await Judging(self, code, cases, **options).run(on_case)

    def _prepare(self, code: str | bytes | Job | Mapping[str, Any], options: RunOptions, *, clean: bool = False) -> Request:
        """Check what `run` was called with, and return what is sent."""
        job = as_job(code, **options)
        return request(job, self.limits, timeout_ms=self.timeout_ms, python=self.python, clean=clean)

    async def _events(self, wanted: Request) -> AsyncGenerator[Event, None]:
        """Run a program and yield what happens. A program that no container received is
        offered to another."""
        pool = self._pool_for(wanted.run.python)
        try:
            for tries_left in reversed(range(TRIES)):
                try:
                    async with pool.lease() as container:
                        yield Leased()
                        async for event in await container.run(wanted):
                            self._note(event)
                            yield event
                        return
                except SandboxError as error:
                    if error.delivered or not tries_left:
                        raise
        except DayflyError as error:
            self._note(error)
            raise

    @property
    def pythons(self) -> Mapping[str, str]:
        """Interpreters that the image has, by what `python` may be: `{"3": "3.11.2", "2": "2.7"}`.
        Empty before `initialize`."""
        return dict(self._pythons)

    @property
    def preload(self) -> Sequence[str]:
        """Modules that every program finds imported. Before `initialize`, those of the image are
        not known."""
        return self._preload or ()

    def _note(self, what: Event | DayflyError) -> None:
        """Count how a run ended."""
        if isinstance(what, Ended):
            self._outcomes[what.outcome.value] += 1
        elif isinstance(what, DayflyError):
            self._errors[type(what).__name__] += 1

    def _pool_for(self, python: str) -> Pool[Container]:
        """The pool, if its containers have this Python. Raises PoolClosed or
        ValueError."""
        pool = self._open_pool()
        if python not in self._pythons:
            has = ", ".join(self._pythons.values())
            raise ValueError(f"the image {self.image!r} has no Python {python}, only {has}; see `dayfly image build --python2`")
        return pool

    def _open_pool(self) -> Pool[Container]:
        if self._pid and self._pid != os.getpid():
            raise PoolClosed(f"this sandbox belongs to process {self._pid}, of which this one is a fork; make one here")
        if self._owner is not None and self._owner.error is not None and not self._closed:
            raise PoolClosed("the sandbox has failed with an internal error") from self._owner.error
        if self._pool is None or self._owner is None or self._closed:
            raise PoolClosed("the sandbox is closed" if self._owner is not None else "the sandbox is not initialized yet")
        self._owner.check_loop()
        return self._pool

    def stats(self) -> Stats:
        """Return what the sandbox is doing and has done. PoolClosed before `initialize`."""
        ledger, cleaner = self._ledger, self._cleaner
        if ledger is None or cleaner is None:
            raise PoolClosed("the sandbox is not initialized yet")
        return Stats(
            warm=ledger.count(State.WARM),
            making=ledger.count(State.CREATING),
            running=ledger.count(State.LEASED),
            ending=ledger.count(State.ENDING),
            sessions=self._sessions,
            uncertain=ledger.count(State.UNCERTAIN),
            waiting=ledger.waiting,
            made=ledger.became_warm,
            failed=ledger.failed,
            forced=cleaner.forced,
            runs=dict(self._outcomes),
            errors=dict(self._errors),
        )


def _uid_range(value: Any) -> range:
    if not isinstance(value, range):
        raise TypeError(f"uids must be a range, not {type(value).__name__}")
    if value.step != 1 or not spec.FIRST_UID <= value.start < value.stop <= spec.LAST_UID + 1:
        raise ValueError(f"uids must be a range of step 1 within range({spec.FIRST_UID}, 2**31), not {value!r:.80}")
    return value


def _modules(value: Any) -> tuple[str, ...]:
    if isinstance(value, (str, bytes)) or not isinstance(value, Sequence):
        raise TypeError(f"preload must be a sequence of module names, not {type(value).__name__}")
    for name in value:
        if not isinstance(name, str):
            raise TypeError(f"preload must hold module names, not {name!r:.80}")
        if len(name) > MODULE_LENGTH or not all(part.isidentifier() for part in name.split(".")):
            raise ValueError(f"preload has {name!r:.80}, which is not the name of a module")
    if len(value) > MAX_MODULES:
        raise ValueError(f"preload has {len(value)} modules; {MAX_MODULES} are allowed")
    return tuple(value)


def _name(what: str, value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{what} must be a str, not {type(value).__name__}")
    if not _LABEL.fullmatch(value) or len(value) > 512:
        raise ValueError(f"{what} {value!r:.80} has characters that no name of this kind can have")
    return value
