"""AsyncSandbox: the face. It checks what it is given, keeps a pool of containers, and runs each program in one of them.

Everything that lives longer than a call (the pool, the containers, the clean-up) lives in one task of its own, the sandbox's home, so that
`initialize` and `close` may be called from different tasks, and the cancellation of a caller touches nothing but its own run.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import warnings
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from types import TracebackType
from typing import Any, Literal

import anyio

from . import reaper, spec
from ._version import __version__
from .container import Container, OnOutput
from .engine_api import EngineAPI
from .errors import DayflyError, EngineError, ImageMissing, PoolClosed, SandboxError, StartFailed
from .job import UNSET, Job, as_job, check_timeout, request
from .ledger import Ledger, State
from .limits import Limits, integer, number
from .messages import PROTOCOL, Run
from .pool import Pool
from .result import Piece, Result
from .stats import Stats

log = logging.getLogger("dayfly")

DEFAULT_IMAGE = f"dayfly/python:{__version__}"
DEFAULT_UIDS = range(1_900_000_000, 2_000_000_000)
"""Above every range that systemd and shadow give out (uids.systemd.io), below 2^31, where old interfaces end."""
REMAPPED_UIDS = range(20_000, 60_000)
"""Where the engine maps uids itself (rootless, userns-remap) a container has 65,536 of them."""
TRIES = 3
"""Containers that a program is offered to, as long as none of them has got it."""
CALL_DEADLINE_AT_CLOSE = 5.0
REFILL_PAUSE = 0.2
"""Seconds. Making a container keeps two processors busy for a tenth of one: a burst of short programs is over by then."""
CLOSE_DEADLINE = 15.0
"""Seconds. At close no call to the engine lasts longer than the first, and all of the clean-up no longer than the second."""

_LABEL = re.compile(r"[a-zA-Z0-9/][a-zA-Z0-9_./:@-]*")


class AsyncSandbox:
    """Runs untrusted Python code, each program in a fresh, hardened container, of which `pool_size` are kept warm.

    Works on asyncio and trio. Use it as an async context manager, or call `initialize` and `close`. The constructor only checks its
    arguments: TypeError or ValueError for one that makes no sense.

    pool_size: containers kept ready, 1 or more. timeout_ms: wall time of a program unless its run says otherwise.
    memory_limit_mb: memory of a container, in 10^6 bytes, tmpfs included; 16 or more.

    image: name or id of a runner image (`dayfly image build`). limits: all other limits of a program.
    runtime: a runtime of the engine (`crun`, `runsc`); None: the engine's default. Never another than this one.
    docker_host: the engine's address; None: DOCKER_HOST, the Docker context, the usual sockets.
    python: "3" or "2", for runs that do not say.
    max_waiting: callers in the queue at most. queue_timeout_ms: time in the queue at most.
    max_containers: containers alive at all, whatever their state; None: twice pool_size, so that as many programs run as are kept warm.
    uids: the range that containers' uids are taken from; None: one that suits the engine.
    cgroup_parent: a cgroup of the host that bounds all containers together.
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
        docker_host: str | None = None,
        python: Literal["3", "2"] = "3",
        max_waiting: int = 10_000,
        queue_timeout_ms: float = 60_000,
        max_containers: int | None = None,
        uids: range | None = None,
        cgroup_parent: str | None = None,
    ) -> None:
        self.pool_size = integer("pool_size", pool_size, least=1, most=10_000)
        self.timeout_ms = check_timeout(timeout_ms)
        self.memory_bytes = int(number("memory_limit_mb", memory_limit_mb, least=spec.MIN_MEMORY_BYTES / 1e6, most=1e9) * 1_000_000)
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
        self.max_containers = integer("max_containers", most, least=self.pool_size, most=100_000)
        self._max_waiting = integer("max_waiting", max_waiting, least=0, most=10_000_000)
        self._queue_timeout = number("queue_timeout_ms", queue_timeout_ms, least=1, most=1e12) / 1_000
        self._uids = None if uids is None else _uid_range(uids)
        self._engine = EngineAPI(docker_host)
        self._pool: Pool[Container] | None = None
        self._ledger: Ledger | None = None
        self._janitor: reaper.Janitor | None = None
        self._home: _Home | None = None
        self._pythons: dict[str, str] = {}
        self._owner = 0
        self._outcomes: Counter[str] = Counter()
        self._errors: Counter[str] = Counter()

    # Its life.

    async def initialize(self) -> None:
        """Check the engine, remove leftovers of dead processes, and return when `pool_size` containers are warm.

        Raises ImageMissing, EngineUnreachable, EngineRefused, EngineError (too old, or without what isolation needs), or StartFailed;
        nothing is left behind then. Calling it again is an error: RuntimeError.
        """
        if self._home is not None:
            raise RuntimeError("a sandbox is initialized once; make a new one")
        self._owner, self._closed = os.getpid(), False
        self._home = _Home(self._live_at_home)
        try:
            await self._home.started()
            await self._filled()
        except BaseException:
            with anyio.CancelScope(shield=True):
                await self.close()
            raise

    async def _filled(self) -> None:
        if self._pool is None:
            raise PoolClosed("the sandbox was closed while it was being initialized")
        await self._pool.filled()

    async def close(self) -> None:
        """End all runs, remove all containers, and return when they are gone.

        Bounded in time; may be called twice, and before `initialize`. Runs in progress raise PoolClosed.
        """
        self._closed = True
        if self._home is None or self._owner != os.getpid():
            return
        self._home.check_loop()
        if self._pool is not None:
            self._pool.close()
        self._engine.hurry(CALL_DEADLINE_AT_CLOSE)
        with anyio.CancelScope(shield=True):
            await self._home.end()

    async def __aenter__(self) -> AsyncSandbox:
        await self.initialize()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    def __del__(self) -> None:
        if not self._closed and self._owner == os.getpid():
            warnings.warn(f"{self!r} was not closed", ResourceWarning, stacklevel=2, source=self)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.pool_size} at {self._engine.address}>"

    def __reduce__(self) -> Any:
        raise TypeError("a sandbox cannot be pickled or copied: it owns containers")

    async def _live_at_home(self, started: Callable[[], None]) -> None:
        async with self._engine as engine:
            blueprint, uids, most_making = await self._prepare(engine)
            instance = blueprint.profile.labels[reaper.LABEL]
            self._janitor = janitor = reaper.Janitor(engine, instance)
            self._ledger = Ledger(
                size=self.pool_size,
                max_alive=self.max_containers,
                max_making=most_making,
                max_waiting=self._max_waiting,
                max_wait=self._queue_timeout,
                pause=REFILL_PAUSE,
            )
            seen = False

            async def live(on_warm: Callable[[Container], None]) -> None:
                # The first one is the canary: what it shows of the profile holds for all others, which differ in their uid.
                nonlocal seen
                container = Container(engine, blueprint, janitor, uids)

                def warm(_: Container) -> None:
                    nonlocal seen
                    seen = True
                    assert container.ready is not None
                    self._pythons = container.ready.pythons
                    on_warm(container)

                await container.live(warm, inspect=not seen)

            self._pool = pool = Pool(self._ledger, live)
            watch = reaper.Watch(engine, instance)
            try:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(janitor.work)
                    started()
                    await pool.serve()
            finally:
                with anyio.CancelScope(shield=True):
                    if left := await janitor.finish(CLOSE_DEADLINE):
                        watch.go_on()
                        log.warning("not certain to be gone, and looked after by a process of their own: %s", ", ".join(left))
                    else:
                        await watch.done()
                reaper.retire(instance)

    async def _prepare(self, engine: EngineAPI) -> tuple[spec.Blueprint, range, int]:
        """Everything that can be known before the first container: the image, the runtime, what the engine enforces."""
        info = await engine.info()
        try:
            image = await engine.inspect_image(self.image)
        except ImageMissing as error:
            tag = "" if self.image == DEFAULT_IMAGE else f" --tag {self.image}"
            raise ImageMissing(f"{error}; make it with `dayfly image build{tag}{' --python2' * (self.python == '2')}`") from error
        label = ((image.get("Config") or {}).get("Labels") or {}).get("dayfly.protocol")
        if label != str(PROTOCOL):
            speaks = "is no runner image" if label is None else f"speaks protocol {label}"
            raise StartFailed(
                f"the image {self.image!r} {speaks}, and this dayfly needs {PROTOCOL}: build it anew with `dayfly image build`"
            )
        if self.runtime is not None and self.runtime not in info.get("Runtimes", {}):
            raise EngineError(f"the engine has no runtime {self.runtime!r}; it has {', '.join(sorted(info.get('Runtimes', {})))}")
        missing = [text for key, text in _NEEDED.items() if not info.get(key)]
        options = " ".join(info.get("SecurityOptions") or [])
        if "seccomp" not in options:
            missing.append("seccomp filters")
        if missing:
            raise EngineError(f"the engine at {engine.address} does not enforce {', '.join(missing)}; see `dayfly doctor`")
        remapped = "name=rootless" in options or "name=userns" in options
        await reaper.reap(engine)
        socket_limit, udp = spec.accounting(info, self.runtime)
        profile = spec.Profile(
            image_id=image["Id"],
            memory_bytes=self.memory_bytes,
            limits=self.limits,
            runtime=self.runtime,
            cgroup_parent=self.cgroup_parent,
            labels=reaper.labels(),
            socket_limit=socket_limit,
            udp=udp,
        )
        uids = self._uids or (REMAPPED_UIDS if remapped else DEFAULT_UIDS)
        return spec.Blueprint(profile), uids, min(max(2, 2 * int(info.get("NCPU") or 1)), 16)

    # Its use.

    async def run(
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
        """Run one program in a container of its own and return what it did.

        `code` is Python source, a Job, or a mapping with the JSON form's names; what is given beside it wins over a Job's own.
        `on_output` is called with each Piece of output as it arrives, on the event loop; what it raises ends the run and is raised here.
        `on_start` is called when the wait for a container is over; again, should that container die before it has the program.

        Raises TypeError and ValueError for bad input, before any container is touched; PoolClosed, PoolFull, PoolTimeout if there is no
        container to be had; SandboxError if the container fails. Cancelling it ends the program and its container.
        """
        job = as_job(code, timeout_ms=timeout_ms, v3=v3, data=data, stdin=stdin, args=args, env=env)
        return await self._run(request(job, self.limits, timeout_ms=self.timeout_ms, python=self.python), on_output, on_start)

    async def stream(self, code: str | Job | Mapping[str, Any], **options: Any) -> AsyncIterator[Piece | Result]:
        """Like `run`, and yield each Piece of output as it arrives, and the Result last. Takes what `run` takes but its callbacks.

        Leaving the loop early ends the program and its container; close the iterator then (`contextlib.aclosing`), as with any
        async generator.
        """
        job = as_job(code, **options)
        wanted = request(job, self.limits, timeout_ms=self.timeout_ms, python=self.python)
        # Without a bound of its own: what can pile up is bounded by the output limits, and a container's stream must be read.
        send, receive = anyio.create_memory_object_stream[Piece | Result](float("inf"))

        async def run() -> None:
            with send:
                send.send_nowait(await self._run(wanted, send.send_nowait))

        task = _Home(lambda _: run())
        try:
            with receive:
                async for item in receive:
                    yield item
            await task.outcome()
        finally:
            with anyio.CancelScope(shield=True):
                await task.end()

    async def _run(self, wanted: Run, on_output: OnOutput | None, on_start: Callable[[], None] | None = None) -> Result:
        pool = self._open_pool()
        if wanted.python not in self._pythons:
            has = ", ".join(self._pythons.values())
            raise ValueError(f"the image {self.image!r} has no Python {wanted.python}, only {has}; see `dayfly image build --python2`")
        try:
            result = await self._offer(pool, wanted, on_output, on_start)
        except DayflyError as error:
            self._errors[type(error).__name__] += 1
            raise
        self._outcomes[result.outcome.value] += 1
        return result

    @staticmethod
    async def _offer(
        pool: Pool[Container], wanted: Run, on_output: OnOutput | None, on_start: Callable[[], None] | None, tries: int = TRIES
    ) -> Result:
        """Run it in the first container that takes it: one that died between its hand-over and its use has not had the program."""
        async with pool.lease() as container:
            if on_start is not None:
                on_start()
            try:
                return await container.run(wanted, on_output)
            except SandboxError as error:
                if error.delivered or tries == 1:
                    raise
        return await AsyncSandbox._offer(pool, wanted, on_output, on_start, tries - 1)

    def _open_pool(self) -> Pool[Container]:
        if self._owner and self._owner != os.getpid():
            raise PoolClosed(f"this sandbox belongs to process {self._owner}, of which this one is a fork; make one here")
        if self._pool is None or self._home is None or self._closed:
            raise PoolClosed("the sandbox is closed" if self._home is not None else "the sandbox is not initialized yet")
        self._home.check_loop()
        return self._pool

    def stats(self) -> Stats:
        """Return what the sandbox is doing and has done. PoolClosed before `initialize`."""
        if self._ledger is None or self._pool is None or self._janitor is None:
            raise PoolClosed("the sandbox is not initialized yet")
        return Stats(
            warm=self._ledger.count(State.WARM),
            making=self._ledger.count(State.MAKING),
            running=self._ledger.count(State.BUSY),
            ending=self._ledger.count(State.ENDING),
            waiting=self._ledger.waiting,
            made=self._pool.made,
            failed=self._pool.failed,
            forced=self._janitor.forced,
            runs=dict(self._outcomes),
            errors=dict(self._errors),
        )


_NEEDED = {
    "MemoryLimit": "memory limits",
    "SwapLimit": "limits on swap",
    "PidsLimit": "limits on processes",
    "CpuCfsQuota": "processor quotas",
}


def _uid_range(value: Any) -> range:
    if not isinstance(value, range):
        raise TypeError(f"uids must be a range, not {type(value).__name__}")
    if value.step != 1 or not 1 <= value.start < value.stop <= 2**31:
        raise ValueError(f"uids must be a range of step 1 within range(1, 2**31), not {value!r:.80}")
    return value


def _name(what: str, value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{what} must be a str, not {type(value).__name__}")
    if not _LABEL.fullmatch(value) or len(value) > 512:
        raise ValueError(f"{what} {value!r:.80} has characters that no name of this kind can have")
    return value


_NEXT_PASS = 0.001
"""Seconds: any time but now."""


class _Home:
    """A task of its own for what outlives a call, on asyncio or trio: it belongs to no caller, so no caller's cancellation ends it."""

    def __init__(self, live: Callable[[Callable[[], None]], Coroutine[Any, Any, None]]) -> None:
        self._live = live
        self._scope = anyio.CancelScope()
        self._started = anyio.Event()
        self._over = anyio.Event()
        self._error: Exception | None = None
        self._loop = _event_loop()
        if isinstance(self._loop, asyncio.AbstractEventLoop):
            self._task = self._loop.create_task(self._main(), name="dayfly sandbox")
        else:
            import trio  # noqa: PLC0415 - not a dependency: it is there if its loop runs

            trio.lowlevel.spawn_system_task(self._main, name="dayfly sandbox")

    async def _main(self) -> None:
        try:
            with self._scope:
                await self._live(self._started.set)
        except Exception as error:  # noqa: BLE001 - it is raised where somebody waits for it; in a task of nobody's it would be lost
            self._error = _only(error)
        finally:
            self._started.set()
            self._over.set()

    def check_loop(self) -> None:
        """RuntimeError if the running event loop is not the one that it lives on."""
        if self._loop is not _event_loop():
            raise RuntimeError(
                "this sandbox belongs to another event loop, the one that `initialize` ran on; make one here, or use Sandbox"
            )

    async def started(self) -> None:
        """Wait until `live` says so; raises what it raised before it did."""
        await self._started.wait()
        if self._over.is_set():
            await self.outcome()

    async def outcome(self) -> None:
        """Wait for its end, and raise what it raised."""
        await self._over.wait()
        if self._error is not None:
            raise self._error

    async def end(self) -> None:
        """Cancel it, and wait for its end."""
        # By the clock, not from this task: one pass of asyncio's loop serves tasks, sockets and timers in this order, and with anyio (4.16)
        # a task that cancels another's read of a Unix socket which this very pass finds readable has the loop report an InvalidStateError.
        self._scope.deadline = anyio.current_time() + _NEXT_PASS
        await self._over.wait()


def _only(error: Exception) -> Exception:
    """Task groups wrap even a single error; the caller is told of the error itself."""
    inner: Sequence[BaseException] = getattr(error, "exceptions", ())
    return _only(inner[0]) if len(inner) == 1 and isinstance(inner[0], Exception) else error


def _event_loop() -> object:
    """The running event loop: asyncio's own, or trio's token of it."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        import trio  # noqa: PLC0415 - as above

        return trio.lowlevel.current_trio_token()
