"""Ray: a sandbox on each node of a cluster that has a Docker Engine. The extra `ray`.

    from dayfly.adapters.ray import Fleet

    with Fleet(pool_size=8) as fleet:
        result = fleet.run("print(6 * 7)")
        for result in fleet.map(jobs):
            ...

Nothing that may have run is tried again. An actor that is lost is never used again: its runs are
ContainerLost, and another actor is made if its node is still there. Jobs and answers travel as
bytes of JSON and msgpack, so no exception is pickled.
"""

from __future__ import annotations

import functools
import itertools
import logging
import math
import queue
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import ray
from ray.exceptions import RayError, RayTaskError, TaskCancelledError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

import dayfly
from dayfly import AsyncSandbox, ContainerLost, DayflyError, EngineUnreachable, Job, PoolClosed, PoolTimeout, Result, Sandbox
from dayfly._job import RunOptions, as_job, to_json
from dayfly.judge import Case, Cases, JudgeResult

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

    from dayfly.judge._judging import JudgeOptions

log = logging.getLogger("dayfly.adapters.ray")

START_SECONDS = 120.0
CLOSE_SECONDS = 20.0
LOOK_SECONDS = 1.0
"""Between two looks for nodes."""

Runnable = str | bytes | Job | Mapping[str, Any]


class SandboxActor:
    """The actor: a sandbox on its node. It has one life, as a container has."""

    def __init__(self, arguments: Mapping[str, Any]) -> None:
        self._sandbox = AsyncSandbox(**arguments)

    async def start(self) -> bytes:
        """Initialize the sandbox."""
        return await _answered(self._sandbox.initialize())

    async def run(self, job: bytes) -> bytes:
        """Run a job. Cancelling the call ends its container."""
        return await _answered(self._sandbox.run(msgspec.json.decode(job, type=Job)))

    async def judge(self, code: str | bytes, cases: Sequence[Case] | Cases, options: JudgeOptions) -> bytes:
        """Judge a submission."""
        return await _answered(self._sandbox.judge(code, cases, **options))

    async def close(self) -> None:
        """Remove all containers."""
        await self._sandbox.close()


class _Answer(msgspec.Struct):
    result: Result | None = None
    messages: list[bytes] = []
    """JSON as bytes. A Result holds it as `msgspec.Raw`, which would not be valid in msgpack."""
    displays: list[bytes] = []
    last_value: bytes = b"null"
    verdict: JudgeResult | None = None
    error: str = ""
    message: str = ""
    about: dict[str, Any] = {}


async def _answered(work: Awaitable[Result | JudgeResult | None]) -> bytes:
    try:
        result = await work
    except (DayflyError, TypeError, ValueError) as error:
        kind = type(error) if isinstance(error, DayflyError) else TypeError if isinstance(error, TypeError) else ValueError
        about = {name: value for name, value in vars(error).items() if name in ("delivered", "sent", "status")}
        return msgspec.msgpack.encode(_Answer(error=kind.__name__, message=str(error), about=about))
    if result is None:
        return msgspec.msgpack.encode(_Answer())
    if isinstance(result, JudgeResult):
        return msgspec.msgpack.encode(_Answer(verdict=_plain(result, _NIL)))
    messages, displays = [*map(bytes, result.messages_raw)], [*map(bytes, result.displays_raw)]
    return msgspec.msgpack.encode(_Answer(_bare(result, _NIL), messages, displays, bytes(result.last_value_raw)))


_NIL, _NULL = msgspec.Raw(b"\xc0"), msgspec.Raw(b"null")
"""No value, in msgpack and in JSON."""


def _bare(result: Result, nothing: msgspec.Raw) -> Result:
    """Return a result without the JSON that its program sent."""
    bare: Result = msgspec.structs.replace(result, messages_raw=[], displays_raw=[], last_value_raw=nothing)
    return bare


def _plain(told: JudgeResult, nothing: msgspec.Raw) -> JudgeResult:
    """Return a report whose results hold no JSON: a verdict says nothing of what a
    submission sends."""
    cases = [one if one.result is None else msgspec.structs.replace(one, result=_bare(one.result, nothing)) for one in told.cases]
    plain: JudgeResult = msgspec.structs.replace(told, cases=cases)
    return plain


def _read(data: bytes) -> Any:
    """Return the Result or JudgeResult of an answer, None where there is none, or raise its
    error."""
    answer = msgspec.msgpack.decode(data, type=_Answer)
    if answer.error:
        kind = {"TypeError": TypeError, "ValueError": ValueError}.get(answer.error) or getattr(dayfly, answer.error)
        raise kind(answer.message, **answer.about)
    if answer.result is None:
        return answer.verdict if answer.verdict is None else _plain(answer.verdict, _NULL)
    messages, displays = [*map(msgspec.Raw, answer.messages)], [*map(msgspec.Raw, answer.displays)]
    value = msgspec.Raw(answer.last_value)
    return msgspec.structs.replace(answer.result, messages_raw=messages, displays_raw=displays, last_value_raw=value)


class _Node:
    """A node with its actor."""

    def __init__(self, id: str, actor: Any) -> None:  # noqa: A002 - Ray's own word
        self.id = id
        self.actor = actor
        self.up = False
        self.flying = 0
        """Runs that were given to it and have not ended."""


class _Flight(NamedTuple):
    reference: Any
    answer: Future[bytes]


class Fleet:
    """One sandbox on each node of the cluster that has `mark` among its resources or labels, and
    runs spread over them.

    Takes AsyncSandbox's arguments, which hold for each node. Use it as a context manager, or call
    `initialize` and `close`, after `ray.init`. Methods may be called from any thread. dayfly and
    the runner image are on each of these nodes.
    """

    actor: type[SandboxActor] = SandboxActor
    """What stands on each node."""

    def __init__(
        self, pool_size: int = 1, timeout_ms: float = 10_000, memory_limit_mb: float = 50, *, mark: str = "dayfly", **options: Any
    ) -> None:
        self._arguments = {"pool_size": pool_size, "timeout_ms": timeout_ms, "memory_limit_mb": memory_limit_mb, **options}
        self._each = AsyncSandbox(**self._arguments).max_containers  # which checks them, too
        self._queue_seconds = options.get("queue_timeout_ms", 60_000) / 1_000
        self._mark = mark
        self._nodes: dict[str, _Node] = {}
        self._changed = threading.Condition()
        self._open = False
        self._looked = -math.inf
        self._dead: list[Any] = []
        """Actors to kill. That is not done where their loss is seen: Ray must not be called in its
        own callbacks."""
        self._failure: BaseException | None = None
        """Of the actor that failed last."""

    def initialize(self) -> None:
        """Make an actor on each node, and wait until each stands or has failed. Raises why if none
        stands."""
        self._open = True
        self._look()
        with self._changed:
            self._changed.wait_for(lambda: all(node.up for node in self._nodes.values()), START_SECONDS)
        if not self.capacity:
            self.close()
            raise self._failure or EngineUnreachable(f"no node of the cluster has the resource or label {self._mark!r}", sent=False)

    def close(self) -> None:
        """End the runs in progress, and remove every container. May be called twice."""
        with self._changed:
            self._open = False
            nodes = [*self._nodes.values()]
            self._nodes.clear()
            self._changed.notify_all()
        closing = [node.actor.close.remote() for node in nodes]
        if closing:
            ray.wait(closing, num_returns=len(closing), timeout=CLOSE_SECONDS)
        self._dead += [node.actor for node in nodes]
        self._bury()

    def __enter__(self) -> Self:
        self.initialize()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    @property
    def capacity(self) -> int:
        """Runs at once on the nodes that there are now."""
        return self._each * sum(node.up for node in [*self._nodes.values()])

    def run(self, code: Runnable, **options: Unpack[RunOptions]) -> Result:
        """Run a program on the node that has the least to do. See AsyncSandbox.run, which has the
        same arguments and errors.

        Where all are busy it waits, for `queue_timeout_ms` at most. ContainerLost if the node is
        lost.
        """
        job = to_json(as_job(code, **options))
        result: Result = self._call(functools.partial(_run, job))
        return result

    def judge(self, code: str | bytes, cases: Sequence[Case] | Cases, **options: Unpack[JudgeOptions]) -> JudgeResult:
        """Judge a submission on the node that has the least to do, where it takes the place of one
        run. See AsyncSandbox.judge.

        A checker that is a function is run on the node. Messages of the submission do not come
        back.
        """
        verdict: JudgeResult = self._call(lambda actor: actor.judge.remote(code, cases, options))
        return verdict

    def _call(self, method: Callable[[Any], Any]) -> Any:
        flight = self._send(self._take(), method)
        try:
            return _result(flight)
        except BaseException:
            ray.cancel(flight.reference)  # where this call was interrupted
            raise

    def map(self, jobs: Iterable[Runnable], **options: Unpack[RunOptions]) -> Iterator[Result | Exception]:
        """Run many programs, and yield the Result of each, in their order. What `run` would raise
        for one stands in its place.

        A job is taken from `jobs` when there is room for it: at most twice `capacity` are under way
        or wait to be yielded. Leaving the loop early ends those under way. PoolTimeout if there is
        no node to run on.
        """
        return (outcome for _, outcome in self._outcomes(jobs, options, ordered=True))

    def as_completed(self, jobs: Iterable[Runnable], **options: Unpack[RunOptions]) -> Iterator[tuple[int, Result | Exception]]:
        """Like `map`, and yield the number of each job, from 0, with its outcome, as they end."""
        return self._outcomes(jobs, options, ordered=False)

    def _outcomes(self, jobs: Iterable[Runnable], options: RunOptions, *, ordered: bool) -> Iterator[tuple[int, Result | Exception]]:
        flying: dict[int, _Flight] = {}
        kept: dict[int, Result | Exception] = {}
        ended: queue.SimpleQueue[int] = queue.SimpleQueue()
        numbered = enumerate(jobs)
        following = next(numbered, None)
        turns = itertools.count()
        turn = next(turns)
        try:
            while following or flying or kept:
                while following and len(flying) + len(kept) < 2 * max(1, self.capacity):
                    number, code = following
                    try:
                        job = to_json(as_job(code, **options))
                    except (TypeError, ValueError) as error:
                        kept[number] = error
                    else:
                        node = self._take(wait=not flying and not kept)
                        if node is None:
                            break
                        flying[number] = self._send(node, functools.partial(_run, job))
                        flying[number].answer.add_done_callback(functools.partial(_note, ended, number))
                    following = next(numbered, None)
                if flying and not (turn in kept if ordered else kept):
                    number = ended.get()
                    kept[number] = _outcome(flying.pop(number))
                while turn in kept if ordered else kept:
                    number = turn if ordered else next(iter(kept))
                    yield number, kept.pop(number)
                    turn = next(turns)
        finally:
            for flight in flying.values():
                ray.cancel(flight.reference)

    # Nodes.

    def _take(self, *, wait: bool = True) -> Any:
        """Return the node with the least to do, or None if all are busy and `wait` is false.
        PoolTimeout, PoolClosed."""
        until = time.monotonic() + self._queue_seconds
        while True:
            with self._changed:
                if not self._open:
                    raise PoolClosed("the fleet is closed, or was not initialized")
                free = [node for node in self._nodes.values() if node.up and node.flying < self._each]
                if free:
                    node = min(free, key=lambda node: node.flying)
                    node.flying += 1
                    return node
                left = until - time.monotonic()
                if left <= 0:
                    raise PoolTimeout(f"no node was free within {self._queue_seconds:g} s (queue_timeout_ms)") from self._failure
            self._look()
            if not wait:
                return None
            with self._changed:
                self._changed.wait(min(left, LOOK_SECONDS))

    def _send(self, node: _Node, method: Callable[[Any], Any]) -> _Flight:
        try:
            reference = method(node.actor)
        except BaseException:  # an argument that cannot be pickled: nothing flies
            self._landed(node)
            raise
        answer: Future[bytes] = reference.future()
        answer.add_done_callback(functools.partial(self._ended, node))
        return _Flight(reference, answer)

    def _landed(self, node: _Node) -> None:
        with self._changed:
            node.flying -= 1
            self._changed.notify_all()

    def _ended(self, node: _Node, answer: Future[bytes]) -> None:
        self._landed(node)
        if _is_loss(error := answer.exception()):
            self._drop(node, error)

    def _drop(self, node: _Node, error: BaseException | None) -> None:
        with self._changed:
            if self._nodes.get(node.id) is not node:
                return
            del self._nodes[node.id]
            self._failure = error
            self._dead.append(node.actor)
            self._changed.notify_all()
        log.warning("the actor on node %s is lost: %s", node.id, error)

    def _look(self) -> None:
        """Make an actor on each node that has none."""
        with self._changed:
            if time.monotonic() - self._looked < LOOK_SECONDS:
                return
            self._looked = time.monotonic()
        self._bury()
        there = [one["NodeID"] for one in ray.nodes() if one["Alive"] and (self._mark in one["Resources"] or self._mark in one["Labels"])]
        with self._changed:
            for id in there if self._open else ():  # noqa: A001
                if id not in self._nodes:
                    self._nodes[id] = node = _Node(id, self._made(id))
                    node.actor.start.remote().future().add_done_callback(functools.partial(self._started, node))

    def _bury(self) -> None:
        while self._dead:
            ray.kill(self._dead.pop())

    def _made(self, id: str) -> Any:  # noqa: A002
        kind = ray.remote(num_cpus=0, max_restarts=0, max_task_retries=0, max_concurrency=2 * self._each + 2)(self.actor)
        return kind.options(scheduling_strategy=NodeAffinitySchedulingStrategy(id, soft=False)).remote(self._arguments)

    def _started(self, node: _Node, answer: Future[bytes]) -> None:
        try:
            _read(answer.result())
        except Exception as error:  # noqa: BLE001 - whatever it is, the node is not used
            self._drop(node, error)
        else:
            with self._changed:
                node.up = True
                self._changed.notify_all()


def _run(job: bytes, actor: Any) -> Any:
    return actor.run.remote(job)


def _note(ended: queue.SimpleQueue[int], number: int, _: Future[bytes]) -> None:
    ended.put(number)


def _is_loss(error: BaseException | None) -> bool:
    """Whether Ray has lost the actor or its answer: the run may have ended, go on, or never have
    begun."""
    return isinstance(error, RayError) and not isinstance(error, (RayTaskError, TaskCancelledError))


def _result(flight: _Flight) -> Any:
    try:
        data = flight.answer.result()
    except RayError as error:
        if _is_loss(error):
            raise ContainerLost(f"the node was lost, or the way to it: {error}", delivered=True) from error
        raise
    return _read(data)


def _outcome(flight: _Flight) -> Result | Exception:
    try:
        result: Result = _result(flight)
        return result
    except Exception as error:  # noqa: BLE001 - it is handed on
        return error


def _text(value: Any) -> str | bytes:
    """Return a cell of a column: bytes as bytes, numpy's own among them, and all else as text."""
    return bytes(value) if isinstance(value, bytes) else str(value)


class Batches:
    """For `map_batches` of `ray.data`: runs the programs of a column, and adds the columns outcome,
    exit_code, stdout, stderr and error.

        dataset.map_batches(
            Batches,
            fn_constructor_kwargs={"pool_size": 8},
            **{"concurrency": NODES, "resources": {"dayfly": 1}, "num_cpus": 0},
            **{"max_restarts": 0, "max_task_retries": 0, "batch_size": 64},
        )

    column: of the programs, text or bytes. A column `stdin` is their standard input. The other
    arguments are Sandbox's. Without `max_task_retries=0`, `ray.data` itself runs a batch again that
    was lost.
    """

    def __init__(self, column: str = "code", **options: Any) -> None:
        self._column = column
        self._sandbox = Sandbox(**options)
        self._sandbox.initialize()
        self._threads = ThreadPoolExecutor(AsyncSandbox(**options).max_containers)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Run a batch. What fails has an empty outcome, and says why in `error`."""
        codes = batch[self._column]
        rows = [*self._threads.map(self._row, codes, batch.get("stdin", [""] * len(codes)))]
        return {**batch, **{name: [row[name] for row in rows] for name in ("outcome", "exit_code", "stdout", "stderr", "error")}}

    def _row(self, code: Any, stdin: Any) -> dict[str, Any]:
        try:
            result = self._sandbox.run(_text(code), stdin=None if stdin is None else _text(stdin))
        except (DayflyError, ValueError) as error:
            return {"outcome": "", "exit_code": None, "stdout": "", "stderr": "", "error": f"{type(error).__name__}: {error}"}
        return {
            "outcome": result.outcome.value,
            "exit_code": result.exit_code,
            "stdout": result.stdout,
            "stderr": result.stderr,
            "error": "",
        }


__all__ = ["Batches", "Fleet", "SandboxActor"]
