"""Run programs on another machine: `dayfly serve` there, and the interface of a sandbox here.

    from dayfly.remote import RemoteSandbox

    with RemoteSandbox("https://sandbox.example:8000", key) as sandbox:
        result = sandbox.run('print("Hello, world!")', timeout_ms=2_000)

`run`, `stream` and `session` take, return and raise what those of a Sandbox do. A run is sent again
only where it cannot have run: the server was not reached, or has said so. Only httpx is needed, not
the extra `server`.
"""

from __future__ import annotations

import contextlib
import hashlib
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import anyio
import httpx
import msgspec

from . import _events as events
from ._errors import (
    ContainerLost,
    DayflyError,
    EngineRefused,
    EngineUnreachable,
    PoolClosed,
    PoolFull,
    PoolTimeout,
    SessionLost,
    StartFailed,
)
from ._events import Event, Leased
from ._job import Job, RunOptions, as_job, to_json
from ._limits import MAX_QUEUE_MS, MAX_TIMEOUT_MS, SESSION_IDLE, SESSION_RUNS, SESSION_SECONDS, number
from ._result import OnOutput, Piece, Result
from ._sync import Session, ThreadedSandbox, judged
from .judge._cases import Case
from .judge._checkers import Checker
from .judge._judging import JudgeOptions, OnCase
from .judge._sources import Cases
from .judge._verdicts import CaseResult, JudgeResult

if TYPE_CHECKING:
    import ssl

    from typing_extensions import Unpack

CONNECT_SECONDS = 5.0
IDLE_SECONDS = 5.0
"""A connection that was idle for so long is not used again. Servers keep them longer, so that none
is cut off just as a run is sent."""
RETRY_SECONDS = 0.2
"""Before the server is asked again where it has not said when."""


class Order(msgspec.Struct, frozen=True):
    """A job, and the route that runs it."""

    path: str
    job: Job
    clean: bool = False
    in_session: bool = False


class AsyncRemoteSandbox:
    """A sandbox on another machine, behind `dayfly serve`. Works on asyncio and trio.

    Use it as an async context manager, or call `initialize` and `close`.

    url: of the server, without a path of its routes. key: an API key of the server's.
    queue_timeout_ms: for so long a run is offered again that the server cannot take yet.
    answer_seconds: the server may be silent for so long beyond a program's time-out.
    verify: certificates, as for httpx.
    """

    def __init__(
        self,
        url: str,
        key: str | None = None,
        *,
        queue_timeout_ms: float = 60_000,
        answer_seconds: float = 60,
        verify: ssl.SSLContext | bool = True,
    ) -> None:
        self._url = _server_url(url)
        self._queue_seconds = number("queue_timeout_ms", queue_timeout_ms, least=1, most=MAX_QUEUE_MS) / 1_000
        self._answer_seconds = number("answer_seconds", answer_seconds, least=0.001, most=1e6)
        self._headers = {} if key is None else {"X-API-Key": _sendable(key)}
        self._verify = verify
        self._client: httpx.AsyncClient | None = None
        self._max_timeout_ms = MAX_TIMEOUT_MS
        self._closed = False
        self._waits: set[anyio.CancelScope] = set()

    async def initialize(self) -> None:
        """Ask the server for its limits, and whether the key is right.

        EngineUnreachable if there is no server, EngineRefused if it is not one of dayfly's or
        refuses the key.
        """
        if self._client is not None:
            raise RuntimeError("a sandbox is initialized once; make a new one")
        self._client = httpx.AsyncClient(
            base_url=self._url,
            headers=self._headers,
            verify=self._verify,
            timeout=httpx.Timeout(self._answer_seconds, connect=CONNECT_SECONDS),
            limits=httpx.Limits(keepalive_expiry=IDLE_SECONDS),
        )
        try:
            self._max_timeout_ms = float(await self._asked("/v1/limits", "maxTimeoutMs"))
            await self._asked("/v1/sessions")  # which needs the key
        except httpx.TransportError as error:
            await self.close()
            raise EngineUnreachable(f"no answer from {self._url}: {error}", sent=False) from error
        except (ValueError, KeyError, TypeError, RecursionError, httpx.RequestError) as error:
            await self.close()
            raise EngineRefused(f"{self._url} is not a dayfly server: {error!r}", status=200) from error
        except BaseException:
            with anyio.CancelScope(shield=True):
                await self.close()
            raise

    async def _asked(self, path: str, member: str | None = None) -> Any:
        assert self._client is not None
        answer = await self._client.get(path)
        if answer.status_code != 200:
            raise EngineRefused(f"{self._url}{path}: {_problem(answer).detail}", status=answer.status_code)
        return answer.json() if member is None else answer.json()[member]

    async def close(self) -> None:
        """Close the connections, which ends the runs in progress. May be called twice."""
        self._closed = True
        for scope in self._waits:
            scope.cancel()
        if self._client is not None:
            await self._client.aclose()

    async def __aenter__(self) -> AsyncRemoteSandbox:
        await self.initialize()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} at {self._url}>"

    async def run(
        self,
        code: str | bytes | Job | Mapping[str, Any],
        *,
        on_output: OnOutput | None = None,
        on_start: Callable[[], None] | None = None,
        **options: Unpack[RunOptions],
    ) -> Result:
        """See AsyncSandbox.run. What the server refuses as bad input is a ValueError."""
        return await events.run(self._events(self._prepare(code, options)), events.Fold(on_output, on_start))

    async def stream(self, code: str | bytes | Job | Mapping[str, Any], **options: Unpack[RunOptions]) -> AsyncIterator[Piece | Result]:
        """See AsyncSandbox.stream."""
        async with aclosing(events.stream(self._events(self._prepare(code, options)))) as items:
            async for item in items:
                yield item

    def session(
        self, *, max_runs: int = SESSION_RUNS, max_seconds: float = SESSION_SECONDS, idle_seconds: float = SESSION_IDLE
    ) -> AsyncRemoteSession:
        """See AsyncSandbox.session. What is over the server's bounds is a ValueError when it
        opens."""
        return AsyncRemoteSession(self, {"maxRuns": max_runs, "maxSeconds": max_seconds, "idleSeconds": idle_seconds})

    async def judge(
        self, code: str | bytes, cases: Sequence[Case] | Cases, *, on_case: OnCase | None = None, **options: Unpack[JudgeOptions]
    ) -> JudgeResult:
        """See AsyncSandbox.judge. A checker must be a Checker: a function cannot be sent.

        `Cases` are sent once, and then named by their hash, as long as the server keeps them. Of
        several servers behind one URL, each is sent them.
        """
        groups = options.get("groups", ())
        given = cases if isinstance(cases, Cases) else Cases(cases=list(cases))
        if groups:
            given = msgspec.structs.replace(given, groups=groups)
        wanted = judge_request(code, options)
        set_body = msgspec.json.encode(given)
        if isinstance(cases, Cases):
            wanted["caseSet"] = hashlib.sha256(set_body).hexdigest()
        else:
            wanted["cases"] = given
        try:
            return await self._judged(msgspec.json.encode(wanted), on_case)
        except _NoCases:
            async with self._exchange("POST", "/v1/cases", set_body):
                pass
        try:
            return await self._judged(msgspec.json.encode(wanted), on_case)
        except _NoCases:  # the url is that of several servers, and another one has them now
            del wanted["caseSet"]
            return await self._judged(msgspec.json.encode(wanted | {"cases": given}), on_case)

    async def _judged(self, body: bytes, on_case: OnCase | None) -> JudgeResult:
        told: JudgeResult | None = None
        kinds: dict[str, type] = {"verdict": JudgeResult} if on_case is None else {"verdict": JudgeResult, "case": CaseResult}
        happening = self._told("/v1/judge/stream", body, kinds, last="verdict", seconds=self._max_timeout_ms / 1_000)
        async with aclosing(happening) as items:
            async for name, value in items:
                if name == "verdict":
                    told = value
                elif name == "case" and on_case is not None:
                    on_case(value)
        assert told is not None
        return told

    def _prepare(self, code: str | bytes | Job | Mapping[str, Any], options: RunOptions) -> Order:
        """Check what `run` was called with."""
        return Order("/v1/run", as_job(code, **options))

    async def _events(self, wanted: Order) -> AsyncGenerator[Event, None]:
        """Run a job, and yield Leased when it begins, each Piece of output, and the
        Result."""
        job = wanted.job
        seconds = (self._max_timeout_ms if job.timeout_ms is None else job.timeout_ms) / 1_000
        params = {"clean": "true"} if wanted.clean else {}
        kinds: dict[str, type] = {"output": _Output, "result": Result}
        happening = self._told(
            f"{wanted.path}/stream", to_json(job), kinds, last="result", seconds=seconds, params=params, in_session=wanted.in_session
        )
        result: Result | None = None
        async with aclosing(happening) as items:
            async for name, value in items:
                match name:
                    case "started":
                        yield Leased()
                    case "output":
                        yield _piece(value)
                    case "result":  # the last one; the end is read too, so that the connection can be used again
                        result = value
        assert result is not None
        yield result

    async def _told(
        self,
        path: str,
        body: bytes,
        kinds: Mapping[str, type],
        *,
        last: str,
        seconds: float,
        params: Mapping[str, str] | None = None,
        in_session: bool = False,
    ) -> AsyncGenerator[tuple[str, Any], None]:
        """Send a request, and yield the name of each event of the answer with its value, of the
        kind that `kinds` has for it, or None. The event `last` is among them.

        `seconds`: the server may be silent for so long, and `answer_seconds` beyond. Raises what
        `run` raises.
        """
        whole = False
        seconds += self._answer_seconds
        async with self._exchange("POST", path, body, params=params, seconds=seconds, in_session=in_session) as answer:
            try:
                async for name, data in _sent(answer):
                    if name == "error":
                        raise _error(msgspec.json.decode(data, type=_Problem), in_session=in_session)
                    value = msgspec.json.decode(data, type=kinds[name]) if name in kinds else None
                    whole = whole or name == last
                    yield name, value
            except _BROKEN as error:
                if not whole:
                    raise self._lost(error, in_session=in_session) from error
            except _UNREADABLE as error:
                raise _lost(f"{self._url} sent what is not an event: {error}", in_session=in_session) from error
        if not whole:
            raise (
                self._ended() if self._closed else _lost(f"{self._url} has closed the connection before the {last}", in_session=in_session)
            )

    def _lost(self, error: Exception, *, in_session: bool) -> DayflyError:
        """Return what it means that a connection broke after a request was sent."""
        return self._ended() if self._closed else _lost(f"the connection to {self._url} was lost: {error!r}", in_session=in_session)

    @staticmethod
    def _ended() -> PoolClosed:
        return PoolClosed("the sandbox was closed while the program was running", delivered=True)

    @contextlib.contextmanager
    def _until_closed(self) -> Iterator[None]:
        """Let `close` end a block."""
        with anyio.CancelScope() as scope:
            self._waits.add(scope)
            try:
                yield
            finally:
                self._waits.discard(scope)

    @asynccontextmanager
    async def _exchange(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        *,
        params: Mapping[str, str] | None = None,
        seconds: float | None = None,
        in_session: bool = False,
    ) -> AsyncIterator[httpx.Response]:
        """Send a request until the server has taken it, and hold the answer, whose body
        is not read yet.

        `seconds`: the server may be silent for so long. Raises what `run` raises.
        """
        client = self._client
        if client is None:
            raise PoolClosed("the sandbox is not initialized yet")
        until = time.monotonic() + self._queue_seconds
        timeout = httpx.Timeout(self._answer_seconds if seconds is None else seconds, connect=CONNECT_SECONDS)
        headers = {"Content-Type": "application/json"} if body else {}
        while True:
            if self._closed:
                raise PoolClosed("the sandbox is closed")
            request = client.build_request(method, path, content=body, params=params, headers=headers, timeout=timeout)
            pause = RETRY_SECONDS
            answer: httpx.Response | None = None
            try:
                with self._until_closed():
                    answer = await client.send(request, stream=True)
            except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:  # nothing was sent
                told: Exception = PoolTimeout(f"{self._url} was not reached within {self._queue_seconds:g} s (queue_timeout_ms)")
                told.__cause__ = EngineUnreachable(f"no connection to {self._url}: {error}", sent=False)
            except _BROKEN as error:
                raise self._lost(error, in_session=in_session) from error
            else:
                if answer is None:
                    raise self._ended()
                try:
                    if answer.is_success:
                        yield answer
                        return
                    try:
                        await answer.aread()
                    except _BROKEN as error:
                        raise self._lost(error, in_session=in_session) from error
                finally:
                    with anyio.CancelScope(shield=True):
                        await answer.aclose()
                problem = _problem(answer)
                told = _error(problem, in_session=in_session)
                if not problem.may_be_tried_again:
                    raise told
                pause = _seconds(answer.headers.get("retry-after", ""), pause)
            pause *= 0.5 + random.random() / 2  # noqa: S311 - so that many clients do not come back at once
            if time.monotonic() + pause > until:
                raise told
            with self._until_closed():
                await anyio.sleep(pause)


class AsyncRemoteSession:
    """A session of a sandbox on another machine; made by `AsyncRemoteSandbox.session`. See
    AsyncSession."""

    def __init__(self, sandbox: AsyncRemoteSandbox, wanted: Mapping[str, float]) -> None:
        self._sandbox = sandbox
        self._wanted = dict(wanted)
        self._path = ""
        self._closed = False
        self.runs = 0
        """Programs that were handed over."""

    async def open(self) -> None:
        """See AsyncSession.open."""
        if self._path:
            raise RuntimeError("a session is opened once; make a new one")
        async with self._sandbox._exchange("POST", "/v1/sessions", msgspec.json.encode(self._wanted)) as answer:
            try:
                opened = msgspec.json.decode(await answer.aread(), type=_Opened)
            except (*_BROKEN, *_UNREADABLE) as error:
                raise SessionLost(f"the server has not said which session it has opened: {error!r}", delivered=False) from error
            self._path = f"/v1/sessions/{opened.id}"

    async def close(self) -> None:
        """End the session, and wait some seconds for that. May be called twice, and after its
        end."""
        if self._path and not self._closed:
            self._closed = True
            # Where the server is not reached, the session ends by itself when it has been idle.
            with contextlib.suppress(DayflyError), anyio.move_on_after(CONNECT_SECONDS):
                async with self._sandbox._exchange("DELETE", self._path):
                    pass

    async def __aenter__(self) -> AsyncRemoteSession:
        await self.open()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with anyio.CancelScope(shield=True):
            await self.close()

    async def run(
        self,
        code: str | bytes | Job | Mapping[str, Any],
        *,
        clean: bool = False,
        on_output: OnOutput | None = None,
        on_start: Callable[[], None] | None = None,
        **options: Unpack[RunOptions],
    ) -> Result:
        """See AsyncSession.run."""
        return await events.run(self._events(self._prepare(code, options, clean=clean)), events.Fold(on_output, on_start))

    async def stream(
        self, code: str | bytes | Job | Mapping[str, Any], *, clean: bool = False, **options: Unpack[RunOptions]
    ) -> AsyncIterator[Piece | Result]:
        """See AsyncSession.stream."""
        async with aclosing(events.stream(self._events(self._prepare(code, options, clean=clean)))) as items:
            async for item in items:
                yield item

    def _prepare(self, code: str | bytes | Job | Mapping[str, Any], options: RunOptions, *, clean: bool) -> Order:
        """Check what `run` was called with."""
        return Order(f"{self._path}/run", as_job(code, **options), clean=clean, in_session=True)

    async def _events(self, wanted: Order) -> AsyncGenerator[Event, None]:
        """Run a job, and yield what `AsyncRemoteSandbox._events` does."""
        if not self._path or self._closed:
            raise SessionLost(f"the session is over: it is {'closed' if self._closed else 'not open'}", delivered=False)
        async with aclosing(self._sandbox._events(wanted)) as happening:
            async for event in happening:
                self.runs += isinstance(event, Leased)
                yield event


class RemoteSandbox(ThreadedSandbox[AsyncRemoteSandbox]):
    """The same as AsyncRemoteSandbox, for threads. Takes its arguments; `run` may be called from
    any number of threads."""

    def __init__(
        self,
        url: str,
        key: str | None = None,
        *,
        queue_timeout_ms: float = 60_000,
        answer_seconds: float = 60,
        verify: ssl.SSLContext | bool = True,
    ) -> None:
        super().__init__(AsyncRemoteSandbox(url, key, queue_timeout_ms=queue_timeout_ms, answer_seconds=answer_seconds, verify=verify))

    def judge(
        self, code: str | bytes, cases: Sequence[Case] | Cases, *, on_case: OnCase | None = None, **options: Unpack[JudgeOptions]
    ) -> JudgeResult:
        """See AsyncRemoteSandbox.judge. `on_case` is called in the thread that called `judge`."""
        sandbox = self._sandbox
        return judged(self._open_loop(), lambda told: sandbox.judge(code, cases, on_case=told, **options), on_case)

    def session(
        self, *, max_runs: int = SESSION_RUNS, max_seconds: float = SESSION_SECONDS, idle_seconds: float = SESSION_IDLE
    ) -> RemoteSession:
        """See AsyncRemoteSandbox.session."""
        loop = self._open_loop()
        return RemoteSession(loop, self._sandbox.session(max_runs=max_runs, max_seconds=max_seconds, idle_seconds=idle_seconds))


class RemoteSession(Session):
    """The same as AsyncRemoteSession, for threads; made by `RemoteSandbox.session`."""


def _server_url(url: Any) -> str:
    if not isinstance(url, str):
        raise TypeError(f"url must be a str, not {type(url).__name__}")
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # of the port, or of an IPv6 address
        usable = False
    if not usable:
        raise ValueError(f"url must be the http or https URL of a server, not {url!r:.80}")
    return url.rstrip("/")


def _sendable(key: Any) -> str:
    """Return a key that can stand in a header. The errors do not show it."""
    if not isinstance(key, str):
        raise TypeError(f"key must be a str, not {type(key).__name__}")
    if not all("!" <= character <= "~" for character in key):
        raise ValueError("key must be visible ASCII characters, without blanks or line breaks")
    return key


# What goes over the wire, and what comes.


def judge_request(code: str | bytes, options: JudgeOptions) -> dict[str, Any]:
    """Return what a judging is asked for, without its cases. TypeError for what cannot be sent."""
    for name in options:
        if name not in JudgeOptions.__annotations__:
            raise TypeError(f"a judging has no keyword {name!r}; it may have {', '.join(JudgeOptions.__annotations__)}")
    checker = options.get("checker")
    if checker is not None and not isinstance(checker, Checker):
        raise TypeError("a checker that is a function cannot be sent to a server; use one of dayfly.judge's")
    if options.get("max_seconds") is not None:
        raise TypeError("max_seconds is the server's own (judge_seconds)")
    job = as_job(code)  # a lone surrogate is the submission's own
    wanted: dict[str, Any] = {"codeBytes": job.source, "checker": checker, "limits": options.get("limits"), "stop": options.get("stop")}
    for name, given in (("concurrency", "concurrency"), ("keep_output", "keepOutput")):
        if options.get(name) is not None:
            wanted[given] = options.get(name)
    return wanted


_BROKEN = (httpx.RequestError, httpx.StreamError)
"""A connection that is gone, and an answer that is not HTTP."""
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""Bytes that are not the JSON that was expected."""


class _Opened(msgspec.Struct):
    """The answer to what opens a session."""

    id: str


class _Output(msgspec.Struct):
    stream: Any
    text: str
    data: bytes | None = None


def _piece(output: _Output) -> Piece:
    return Piece(output.stream, output.text.encode() if output.data is None else output.data, output.text)


async def _sent(answer: httpx.Response) -> AsyncGenerator[tuple[str, bytes], None]:
    """Yield name and data of each server-sent event. `httpx` itself would cut lines at characters
    that JSON has unescaped."""
    buffer = bytearray()
    async for chunk in answer.aiter_bytes():
        start = max(0, len(buffer) - 1)
        buffer += chunk
        while (end := buffer.find(b"\n\n", start)) >= 0:
            block, start = bytes(buffer[:end]), 0
            del buffer[: end + 2]
            name, _, data = block.partition(b"\ndata: ")
            if name.startswith(b"event: "):
                yield name.removeprefix(b"event: ").decode("ascii", "replace"), data


class _Problem(msgspec.Struct):
    """What is known of a refusal: the server's problem, or what a proxy before it has said."""

    type: str = ""
    status: int = 0
    detail: str = ""
    delivered: bool | None = None

    @property
    def slug(self) -> str:
        return self.type.removeprefix("/problems/") if self.type.startswith("/problems/") else ""

    @property
    def may_be_tried_again(self) -> bool:
        """The server itself has said that nothing has run, and that it may be different later."""
        return bool(self.slug) and self.status in (429, 503)


def _problem(answer: httpx.Response) -> _Problem:
    try:
        problem = msgspec.json.decode(answer.content, type=_Problem)
    except _UNREADABLE:
        problem = _Problem()
    problem.status = answer.status_code
    problem.detail = problem.detail or f"HTTP status {answer.status_code} {answer.reason_phrase}"
    return problem


def _seconds(header: str, otherwise: float) -> float:
    """Return what Retry-After says in seconds. A proxy may send a date, which is left out."""
    return float(header) if header.isascii() and header.isdigit() else otherwise


def _lost(message: str, *, in_session: bool) -> DayflyError:
    return SessionLost(message, delivered=True) if in_session else ContainerLost(message, delivered=True)


_NOT_RUN: dict[str, type[PoolFull | PoolTimeout | PoolClosed | StartFailed]] = {
    "not-ready": PoolClosed,
    "queue-timeout": PoolTimeout,
    "sandbox-failed": StartFailed,
}
"""By the server's problem; PoolFull where it is none of them."""


class _NoCases(DayflyError):
    """The server does not have the cases, or no more."""


def _error(problem: _Problem, *, in_session: bool) -> Exception:
    """Return what the sandbox itself would have raised."""
    match problem.status, problem.slug:
        case ((400 | 413 | 415 | 422), _):
            return ValueError(problem.detail)
        case 404, "no-cases":
            return _NoCases(problem.detail)
        case ((404 | 410), "no-session" | "session-ended"):
            return SessionLost(problem.detail, delivered=False)
        case 409, "session-busy":
            return RuntimeError(problem.detail)
        case ((429 | 503), slug) if slug:
            return _NOT_RUN.get(slug, PoolFull)(problem.detail)
        case ((401 | 403 | 404 | 405), _):
            return EngineRefused(problem.detail, status=problem.status)
    # Also what a proxy says: the program may have run.
    kind = SessionLost if in_session else ContainerLost
    return kind(problem.detail, delivered=problem.delivered is not False)


__all__ = ["AsyncRemoteSandbox", "AsyncRemoteSession", "RemoteSandbox", "RemoteSession"]
