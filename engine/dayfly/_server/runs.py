"""The answers to requests for a run, as ASGI applications: a whole result, or server-sent events.

In order: a place in the key's quotas, the body, its decoding, the queue, the run, the answer. The
place and the body's share of memory are held until the answer is sent, so that a client which does
not read has no more of them than one that does. A client that goes away ends its run.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar

import anyio
import msgspec
import structlog
from litestar.types import Receive, Scope, Send

from dayfly import Job, Outcome, Piece, Result
from dayfly.judge import JudgeResult

from . import bodies
from .config import Config
from .context import AppContext, RequestContext, app_context, request_context
from .problems import ClientGone, Problem, problem
from .results import encode_result
from .service import Run

if TYPE_CHECKING:
    from typing_extensions import Unpack

log = structlog.stdlib.get_logger("dayfly.server")

T = TypeVar("T")

KEEP_ALIVE = 10.0
"""Seconds of silence in a stream after which a comment is sent, against proxies' time-outs."""
CHUNK = 65_536
SLOWEST = 100_000
"""Bytes a second that a client must read of an answer, beside `client_seconds`."""


class CompileResult(msgspec.Struct, rename="camel"):
    """The answer that code-execution-api-demo documents."""

    stdout: str
    stderr: str
    combined: str
    is_error: bool
    timed_out: bool
    killed_by_container: bool
    """The program was killed inside its container, at its deadline or an output limit."""


def no_code() -> Problem:
    """The demo's answer to a request without code."""
    return Problem(400, "no-code", "There is no code", "No code provided")


class Callbacks(TypedDict, total=False):
    """What Service.run calls."""

    on_start: Callable[[float], None]
    on_output: Callable[[Piece], None]


class RunAnswer:
    """One request for a run. Subclasses decode the body and write the answer."""

    def __init__(self, *, combined: bool = True, session: str | None = None, clean: bool = False) -> None:
        self.combined = combined
        self.session = session
        """Id of the session to run in; None: in a container of its own."""
        self.clean = clean

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        with gone_noted(request_context(scope)):
            await self._serve(scope, receive, send)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        app, context = app_context(scope), request_context(scope)
        assert context.key is not None
        most = app.config.max_request_bytes
        if self.session is not None:
            app.sessions.find(context.key.name, self.session)  # before the body is read
        with (
            app.quotas.run(context.key, time.monotonic()),
            app.bodies.hold(context.key.name) as take,
        ):
            body = await bodies.read(scope, receive, most, take)
            job = await self.decode(body, app.config.max_timeout_ms)
            del body
            note_job(app.config, context, job)
            await unless_gone(self.answer(app, context, job, send), receive)

    async def decode(self, body: bytes, max_timeout_ms: float) -> Job:
        """Return the job. Problem if the body has none."""
        return await bodies.decode_job(body, max_timeout_ms)

    async def answer(self, app: AppContext, context: RequestContext, job: Job, send: Send) -> None:
        """Run the job, and send the answer."""
        assert context.key is not None
        done = await self.run(app, context.key.name, job)
        note_run(app.config, context, done)
        timing = f"queue;dur={done.queue_ms:.1f}, run;dur={done.result.wall_ms:.1f}"
        headers = {"content-type": "application/json", "server-timing": timing}
        await send_body(send, await self.encode(done.result), headers, app.config.client_seconds)

    async def run(self, app: AppContext, key: str, job: Job, **callbacks: Unpack[Callbacks]) -> Run:
        """Run the job, in the session if there is one."""
        if self.session is None:
            return await app.service.run(job, key=key, **callbacks)
        with app.sessions.use(key, self.session) as one:
            return await app.service.run(job, key=key, session=one.session, clean=self.clean, **callbacks)

    async def encode(self, result: Result) -> bytes:
        """Return the body of the answer."""
        return await encode_result(result, combined=self.combined)


class SessionAnswer:
    """The answer to POST /v1/sessions. Opening one costs what a run costs: a container, and a place
    in the quotas."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        app, context = app_context(scope), request_context(scope)
        assert context.key is not None
        with (
            gone_noted(context),
            app.quotas.run(context.key, time.monotonic()),
            app.bodies.hold(context.key.name) as take,
        ):
            body = await bodies.read(scope, receive, app.config.max_request_bytes, take)
            wanted = await bodies.decode(bodies.session_decoder, body)
            context.read = True
            state = await unless_gone(app.sessions.open(context.key.name, wanted), receive)
            headers = {"content-type": "application/json", "location": f"/v1/sessions/{state.id}"}
            await send_body(send, msgspec.json.encode(state), headers, app.config.client_seconds, status=201)


class CompileAnswer(RunAnswer):
    """The answer to POST /compile."""

    async def decode(self, body: bytes, max_timeout_ms: float) -> Job:
        """See RunAnswer."""
        if not body.strip():
            raise no_code()
        job = await bodies.decode_compile(body, max_timeout_ms)
        if job is None:
            raise no_code()
        return job

    async def encode(self, result: Result) -> bytes:
        """See RunAnswer."""
        killed = result.outcome in (Outcome.TIMEOUT, Outcome.OUTPUT_LIMIT)
        value = CompileResult(
            stdout=result.stdout,
            stderr=result.stderr,
            combined=result.combined,
            is_error=result.is_error,
            timed_out=result.timed_out,
            killed_by_container=killed,
        )
        if len(result.combined) <= bodies.THREAD_ABOVE:
            return msgspec.json.encode(value)
        return await asyncio.to_thread(msgspec.json.encode, value)


class StreamAnswer(RunAnswer):
    """The answer to POST /v1/run/stream. Before the program starts, a refusal is a plain
    problem."""

    async def answer(self, app: AppContext, context: RequestContext, job: Job, send: Send) -> None:
        """Run the job, and send its events as they come."""
        assert context.key is not None

        def start(put: Put) -> Awaitable[Run]:
            return self.run(app, context.key_name, job, on_start=started(put), on_output=lambda piece: put(event("output", _shown(piece))))

        async def last(done: Run) -> bytes:
            note_run(app.config, context, done)
            return b"event: result\ndata: " + await self.encode(done.result) + b"\n\n"

        await stream(context, send, start, last)


Put = Callable[[bytes], None]
"""Adds an event to a stream."""


def started(put: Put) -> Callable[[float], None]:
    """Return what adds the first event of a stream, given the milliseconds in the queue."""
    return lambda queue_ms: put(event("started", {"queueMs": round(queue_ms, 3)}))


async def stream(context: RequestContext, send: Send, start: Callable[[Put], Awaitable[T]], last: Callable[[T], Awaitable[bytes]]) -> None:
    """Send the events that a work puts, and what `last` makes of its outcome, or an event `error`
    if it fails. What it raises before the first event is raised."""
    # Bounded by the limits on output and on reports, not by itself: a container's stream must be
    # read.
    events: asyncio.Queue[bytes] = asyncio.Queue()
    work = asyncio.ensure_future(start(events.put_nowait))
    try:
        await _send_events(work, events, send)
        try:
            final = await last(work.result())
        except Exception as error:
            told = problem(error)
            context.notes["problem"] = told.slug
            if told.status == 500:
                log.exception("a run raised what nobody foresaw", exc_info=error)
            final = event("error", told.details(context.id))
        for begin in range(0, len(final), CHUNK):
            await _part(send, final[begin : begin + CHUNK])
        await send({"type": "http.response.body", "body": b"", "more_body": False})
    finally:
        await cancelled(work)


async def _send_events(work: asyncio.Future[Any], events: asyncio.Queue[bytes], send: Send) -> None:
    """Send events as they come, until the work is done. What it raises before the first one is
    raised."""
    begun = False
    while not (begun and work.done() and events.empty()):
        given = asyncio.ensure_future(events.get())
        try:
            await asyncio.wait(
                (work, given),
                timeout=KEEP_ALIVE if begun else None,
                return_when=asyncio.FIRST_COMPLETED,
            )
        finally:
            if not given.done():
                given.cancel()
        if not begun:
            if not given.done() or given.cancelled():
                work.result()  # it never started: this raises why
            headers = {
                "content-type": "text/event-stream; charset=utf-8",
                "x-accel-buffering": "no",
            }
            await _start(send, 200, headers)
            begun = True
        if given.done() and not given.cancelled():
            await _part(send, given.result())
        elif not work.done():
            await _part(send, b": still running\n\n")


def _shown(piece: Piece) -> dict[str, Any]:
    """Return a piece as JSON. `data`, in base64, is there where the text is not the whole of it."""
    shown: dict[str, Any] = {"stream": piece.stream, "text": piece.text}
    if piece.text.encode() != piece.data:
        shown["data"] = piece.data
    return shown


def event(name: str, value: Any) -> bytes:
    """Return one server-sent event. JSON has no raw line break, so one `data:` line is enough."""
    return b"event: " + name.encode() + b"\ndata: " + msgspec.json.encode(value) + b"\n\n"


async def send_body(send: Send, body: bytes, headers: Mapping[str, str], client_seconds: float, *, status: int = 200) -> None:
    """Send a whole answer in parts: each waits until the client has read most of those before."""
    with anyio.move_on_after(client_seconds + len(body) / SLOWEST) as scope:
        await _start(send, status, {**headers, "content-length": str(len(body))})
        for start in range(0, len(body), CHUNK):
            await _part(send, body[start : start + CHUNK])
        await send({"type": "http.response.body", "body": b"", "more_body": False})
    if scope.cancelled_caught:
        raise ClientGone


async def _start(send: Send, status: int, headers: Mapping[str, str]) -> None:
    pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": pairs})


async def _part(send: Send, data: bytes) -> None:
    await send({"type": "http.response.body", "body": data, "more_body": True})


@contextlib.contextmanager
def gone_noted(context: RequestContext) -> Iterator[None]:
    """Note a client that goes away in a block, which ends without an answer: nobody is left to read
    one."""
    try:
        yield
    except ClientGone:
        context.notes["problem"] = "client-gone"


async def unless_gone(work: Awaitable[T], receive: Receive) -> T:
    """Return what `work` gives; cancel it, and raise ClientGone, if the client goes away first."""
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_gone(receive))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGone
        return task.result()
    finally:
        await cancelled(task, gone)


async def cancelled(*tasks: asyncio.Future[Any]) -> None:
    """Cancel tasks, wait for their end, and look at what they raised."""
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    for task in tasks:
        if not task.cancelled():
            task.exception()  # looked at, also where somebody else's cancellation goes first


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def note_job(config: Config, context: RequestContext, job: Job) -> None:
    """Note the job for the log."""
    context.read = True
    context.notes["code_bytes"] = len(job.source)
    if config.log_programs:
        context.notes["code"] = job.source.decode(errors="replace")


def note_run(config: Config, context: RequestContext, done: Run) -> None:
    """Note the result for the log."""
    result = done.result
    context.notes |= {
        "outcome": result.outcome.value,
        "queue_ms": round(done.queue_ms, 1),
        "wall_ms": round(result.wall_ms, 1),
    }
    if config.log_programs:
        context.notes |= {"stdout": result.stdout, "stderr": result.stderr}


def note_verdict(context: RequestContext, told: JudgeResult) -> None:
    """Note the verdict for the log."""
    context.notes |= {"verdict": told.verdict.value, "passed": told.passed, "wall_ms": round(told.wall_ms, 1)}


Answer = Callable[[Scope, Receive, Send], Awaitable[None]]
