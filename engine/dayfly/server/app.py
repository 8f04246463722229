"""The HTTP face: who may come in, the routes, and the form of every answer.

In order, a request meets the `Edge` (an id, the log line, metrics, allowed networks, the bound on requests at once), then its route's
guards (the key, JSON and nothing else), its body's bounds, and its key's quotas; only then the queue. Each refusal is a problem of its
own kind, and none costs a container. A client that goes away takes its run with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import re
import secrets
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import msgspec
import structlog
from litestar import Litestar, MediaType, Request, Response, get, post
from litestar.connection import ASGIConnection
from litestar.exceptions import InternalServerException
from litestar.handlers import BaseRouteHandler
from litestar.openapi import OpenAPIConfig, ResponseSpec
from litestar.openapi.spec import Components, SecurityScheme
from litestar.types import ASGIApp, Message, Receive, Scope, Send
from prometheus_client import CONTENT_TYPE_LATEST

from dayfly import Job, Outcome, Result, __version__
from dayfly.job import UNSET

from . import docs
from .config import Config, is_loopback, networks
from .keys import ANONYMOUS, Key, Ring
from .problems import MEDIA_TYPE, Problem, ProblemDetails, problem
from .quotas import Quotas
from .service import Run, Service
from .tracing import Tracing

log = structlog.stdlib.get_logger("dayfly.server")

T = TypeVar("T")

KEEP_ALIVE = 10.0
"""Seconds of silence in a stream after which a comment is sent, so that proxies do not take it for dead."""
HEADERS = (
    (b"content-security-policy", docs.POLICY.encode()),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
)
"""Sent with every answer, whether a browser asked or not."""
ALWAYS_OPEN = ("/healthz", "/readyz")
"""For load balancers, from wherever they come. They say nothing of use to anybody else."""

_REQUEST_ID = re.compile(r"[A-Za-z0-9_.-]{1,64}")


class ClientGone(Exception):
    """Nobody is left to answer."""


class Visit(msgspec.Struct):
    """What is known of one request; it becomes one line of the log."""

    id: str
    client: str
    key: Key = ANONYMOUS
    read: bool = False
    """Its body was read and understood."""
    told: dict[str, Any] = {}
    """More for the line: outcome, times, the problem's name."""


class Context(msgspec.Struct, frozen=True):
    """What the routes share."""

    config: Config
    service: Service
    ring: Ring
    quotas: Quotas


# Bodies that are not the library's own.


class CompileRequest(msgspec.Struct, rename="camel"):
    """The body that code-execution-api-demo documents. What else is in it is ignored, as there."""

    code: str = ""
    v3: bool | None = None
    timeout_ms: float | None = None
    data: Any = UNSET


class CompileResult(msgspec.Struct, rename="camel"):
    """The answer that code-execution-api-demo documents."""

    stdout: str
    stderr: str
    combined: str
    is_error: bool
    timed_out: bool
    killed_by_container: bool
    """The program was killed inside its container, at its deadline or an output limit."""


class Readiness(msgspec.Struct):
    """Whether runs are taken, and if not, why."""

    ready: bool
    detail: str


class Offer(msgspec.Struct, rename="camel"):
    """What this server gives a program at most, and by default."""

    version: str
    key_required: bool
    timeout_ms: float
    max_timeout_ms: float
    memory_mb: float
    code_bytes: int
    input_bytes: int
    stdout_bytes: int
    stderr_bytes: int


# Who may come in.


def require_key(connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler) -> None:  # noqa: ARG001
    """Let a request in that has a key, in X-API-Key or as a bearer token; where no key is configured, one that was made to localhost."""
    context: Context = connection.app.state.context
    secret = connection.headers.get("x-api-key")
    if secret is None:
        scheme, _, token = connection.headers.get("authorization", "").partition(" ")
        secret = token.strip() if scheme.lower() == "bearer" else None
    key = context.ring.find(secret)
    if key is None:
        raise Problem(403, "key", "This needs a key", "No API key or incorrect value provided")
    if key is ANONYMOUS and not is_loopback(_host(connection.headers.get("host", ""))):
        # A web page whose name was made to mean 127.0.0.1 (DNS rebinding) comes with that name.
        raise Problem(403, "host", "This host is not served", "without a key, only requests to localhost are answered")
    _visit(connection.scope).key = key


def require_json(connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler) -> None:  # noqa: ARG001
    """Refuse any other type: a web page may send those to anywhere without asking, but not JSON."""
    headers = connection.headers
    is_json = headers.get("content-type", "").partition(";")[0].strip().lower() == "application/json"
    empty = headers.get("content-length", "0") == "0" and "transfer-encoding" not in headers
    if connection.scope["path"] == "/compile" and (empty or not is_json):
        raise no_code()  # as its body parser has it
    if not is_json:
        raise Problem(415, "no-json", "The request is no JSON", "the Content-Type must be application/json")
    if empty:
        raise Problem(400, "malformed", "The request cannot be read", "the body is empty")


def no_code() -> Problem:
    """The demo's answer to a request without code."""
    return Problem(400, "no-code", "There is no code", "No code provided")


def _host(header: str) -> str:
    return header[: header.index("]") + 1] if header.startswith("[") and "]" in header else header.partition(":")[0]


def _visit(scope: Any) -> Visit:
    visit: Visit = scope["dayfly.visit"]
    return visit


# The routes.


def _problems(*statuses: int) -> dict[int, ResponseSpec]:
    return {
        status: ResponseSpec(ProblemDetails, generate_examples=False, media_type=MEDIA_TYPE, description=_MEANING[status])
        for status in statuses
    }


_MEANING = {
    400: "It cannot be read, or there is no code.",
    403: "The key, or the address.",
    413: "The body is too large.",
    415: "It is no JSON.",
    422: "It makes no sense, or asks for more than this server gives.",
    429: "The key is over its rate or its concurrency; see Retry-After.",
    502: "The container was lost; the program may have run.",
    503: "The queue is full, the wait was too long, or the sandbox is not ready: see `type` and Retry-After.",
}
_RUN_PROBLEMS = (400, 403, 413, 415, 422, 429, 502, 503)


@post(
    "/compile",
    status_code=200,
    guards=[require_key, require_json],
    responses=_problems(*_RUN_PROBLEMS),
    tags=["runs"],
    security=[{"key": []}],
)
async def compile_(request: Request[Any, Any, Any], data: CompileRequest) -> CompileResult:
    """Run a program: the contract of code-execution-api-demo."""
    if not data.code:
        raise no_code()
    job = _job(lambda: Job(code=data.code, v3=data.v3, timeout_ms=data.timeout_ms, data=data.data))
    result = (await _run(request, job)).result
    return CompileResult(
        stdout=result.stdout,
        stderr=result.stderr,
        combined=result.combined,
        is_error=result.is_error,
        timed_out=result.timed_out,
        killed_by_container=result.outcome in (Outcome.TIMEOUT, Outcome.OUTPUT_LIMIT),
    )


@post(
    "/v1/run",
    status_code=200,
    guards=[require_key, require_json],
    responses=_problems(*_RUN_PROBLEMS),
    tags=["runs"],
    security=[{"key": []}],
)
async def run(request: Request[Any, Any, Any], data: Job) -> Response[Result]:
    """Run a program, and return all that is known of it."""
    done = await _run(request, data)
    return Response(done.result, headers={"Server-Timing": _timing(done)})


@post(
    "/v1/run/stream",
    status_code=200,
    guards=[require_key, require_json],
    responses={
        200: ResponseSpec(
            str,
            generate_examples=False,
            media_type="text/event-stream",
            description="Events: `started` {queueMs}; `output` {stream, text}, as written; last, `result` (a Result) or `error`.",
        ),
        **_problems(*_RUN_PROBLEMS),
    },
    tags=["runs"],
    security=[{"key": []}],
)
async def run_stream(request: Request[Any, Any, Any], data: Job) -> ASGIApp:
    """Run a program, and send its output as server-sent events while it writes. Closing the connection ends the run."""
    return _EventStream(request.app.state.context, data, _visit(request.scope))


@get("/v1/limits", tags=["about"])
async def limits(request: Request[Any, Any, Any]) -> Offer:
    """What this server gives a program at most, and by default."""
    context: Context = request.app.state.context
    config = context.config
    return Offer(
        version=__version__,
        key_required=not context.ring.open,
        timeout_ms=config.timeout_ms,
        max_timeout_ms=config.max_timeout_ms,
        memory_mb=config.memory_mb,
        code_bytes=config.limits.code_bytes,
        input_bytes=config.limits.input_bytes,
        stdout_bytes=config.limits.stdout_bytes,
        stderr_bytes=config.limits.stderr_bytes,
    )


@get("/healthz", tags=["about"])
async def healthz() -> dict[str, bool]:
    """Whether this process answers."""
    return {"ok": True}


@get(
    "/readyz", tags=["about"], responses={503: ResponseSpec(Readiness, generate_examples=False, description="Not now; `detail` says why.")}
)
async def readyz(request: Request[Any, Any, Any]) -> Response[Readiness]:
    """Whether the engine answers and a container is warm."""
    context: Context = request.app.state.context
    reason = context.service.not_ready
    return Response(Readiness(reason is None, reason or "ready"), status_code=200 if reason is None else 503)


@get("/metrics", guards=[require_key], media_type=MediaType.TEXT, tags=["about"], responses=_problems(403), security=[{"key": []}])
async def metrics(request: Request[Any, Any, Any]) -> Response[str]:
    """Metrics in Prometheus's text format. Prometheus sends the key as a bearer token (`authorization`)."""
    context: Context = request.app.state.context
    return Response(context.service.metrics.text().decode(), headers={"Content-Type": CONTENT_TYPE_LATEST})


# A run on behalf of a request.


def _job(make: Callable[[], Job]) -> Job:
    try:
        return make()
    except (TypeError, ValueError) as error:
        raise Problem(422, "invalid", "The request cannot be run", str(error)) from None


async def _run(request: Request[Any, Any, Any], job: Job) -> Run:
    context: Context = request.app.state.context
    visit = _visit(request.scope)
    with context.quotas.run(visit.key, time.monotonic()):
        _note_job(context.config, visit, job)
        done = await _unless_gone(context.service.run(job, key=visit.key.name), request.receive)
        _note_run(context.config, visit, done)
        return done


async def _unless_gone(work: Awaitable[T], receive: Receive) -> T:
    """Return what `work` gives; cancel it, and raise ClientGone, if the client goes away first."""
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_gone(receive))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGone
        return task.result()
    finally:
        for each in (task, gone):
            each.cancel()
        await asyncio.wait((task, gone))
        if not task.cancelled():
            task.exception()  # looked at, also where somebody else's cancellation goes first


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class _EventStream:
    """The answer to /v1/run/stream: an ASGI application for one request. Until the program starts, a refusal is still a plain problem."""

    def __init__(self, context: Context, job: Job, visit: Visit) -> None:
        self._context = context
        self._job = job
        self._visit = visit
        self._events: asyncio.Queue[bytes] = asyncio.Queue()
        """Bounded by the limits on output, not by itself: a container's stream must be read."""

    async def __call__(self, _: Scope, receive: Receive, send: Send) -> None:
        with self._context.quotas.run(self._visit.key, time.monotonic()):
            _note_job(self._context.config, self._visit, self._job)
            with contextlib.suppress(ClientGone):
                await _unless_gone(self._answer(send), receive)

    async def _answer(self, send: Send) -> None:
        work = asyncio.ensure_future(
            self._context.service.run(
                self._job,
                key=self._visit.key.name,
                on_start=lambda queue_ms: self._event("started", {"queueMs": round(queue_ms, 3)}),
                on_output=lambda piece: self._event("output", {"stream": piece.stream, "text": piece.text}),
            )
        )
        try:
            event: asyncio.Future[bytes] = asyncio.ensure_future(self._events.get())
            await asyncio.wait((work, event), return_when=asyncio.FIRST_COMPLETED)
            if not event.done():
                event.cancel()
                work.result()  # it never started
            headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"x-accel-buffering", b"no")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await self._body(send, event.result())
            while not (work.done() and self._events.empty()):
                event = asyncio.ensure_future(self._events.get())
                await asyncio.wait((work, event), timeout=KEEP_ALIVE, return_when=asyncio.FIRST_COMPLETED)
                if event.done():
                    await self._body(send, event.result())
                else:
                    event.cancel()
                    if not work.done():
                        await self._body(send, b": still running\n\n")
            self._end(work)
            await send({"type": "http.response.body", "body": self._events.get_nowait(), "more_body": False})
        finally:
            work.cancel()
            await asyncio.wait((work,))
            if not work.cancelled():
                work.exception()

    def _end(self, work: asyncio.Future[Run]) -> None:
        try:
            done = work.result()
        except Exception as error:
            told = problem(error)
            self._visit.told["problem"] = told.slug
            if told.status == 500:
                log.exception("a run raised what nobody foresaw", exc_info=error)
            self._event("error", told.details(self._visit.id))
        else:
            _note_run(self._context.config, self._visit, done)
            self._event("result", done.result)

    def _event(self, name: str, value: Any) -> None:
        # JSON has no raw line break in it, so one `data:` line is enough.
        self._events.put_nowait(b"event: " + name.encode() + b"\ndata: " + msgspec.json.encode(value) + b"\n\n")

    @staticmethod
    async def _body(send: Send, data: bytes) -> None:
        await send({"type": "http.response.body", "body": data, "more_body": True})


def _timing(done: Run) -> str:
    return f"queue;dur={done.queue_ms:.1f}, run;dur={done.result.wall_ms:.1f}"


def _note_job(config: Config, visit: Visit, job: Job) -> None:
    visit.read = True
    visit.told["code_bytes"] = len(job.source)
    if config.log_programs:
        visit.told["code"] = job.source.decode(errors="replace")


def _note_run(config: Config, visit: Visit, done: Run) -> None:
    visit.told |= {"outcome": done.result.outcome.value, "queue_ms": round(done.queue_ms, 1), "wall_ms": round(done.result.wall_ms, 1)}
    if config.log_programs:
        visit.told |= {"stdout": done.result.stdout, "stderr": done.result.stderr}


# The edge.


class Edge:
    """The outermost ASGI application: what holds for every request, whatever becomes of it inside."""

    def __init__(self, app: ASGIApp, context: Context, tracing: Tracing, routes: frozenset[str]) -> None:
        self._app = app
        self._context = context
        self._tracing = tracing
        self._routes = routes
        self._allowed = networks("allowed_networks", context.config.allowed_networks)
        self._proxies = networks("trusted_proxies", context.config.trusted_proxies)
        self._under_way = 0

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        given = headers.get("x-request-id", "")
        visit = Visit(given if _REQUEST_ID.fullmatch(given) else secrets.token_hex(8), self._client(scope))
        scope["dayfly.visit"] = visit
        route = scope["path"] if scope["path"] in self._routes else "other"
        begun = time.monotonic()
        status = 0

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                own = {name for name, _ in message["headers"]}
                added = [pair for pair in HEADERS if pair[0] not in own]
                message["headers"] = [*message["headers"], *added, (b"x-request-id", visit.id.encode())]
            await send(message)

        self._under_way += 1
        try:
            with self._tracing.request(f"{scope['method']} {route}", headers) as attributes:
                try:
                    if (refusal := self._refusal(scope["path"], visit)) is not None:
                        await _say(refusal, visit, answer)
                    else:
                        await self._app(scope, receive, answer)
                finally:
                    attributes |= {"http.request.method": scope["method"], "http.route": route, "http.response.status_code": status}
        finally:
            self._under_way -= 1
            seconds = time.monotonic() - begun
            self._context.service.metrics.requests.labels(route, str(status or "none")).observe(seconds)
            if "problem" in visit.told:
                self._context.service.metrics.refused.labels(visit.told["problem"]).inc()
            log.log(
                10 if route in ALWAYS_OPEN else 20,
                "request",
                request_id=visit.id,
                method=scope["method"],
                path=scope["path"],
                status=status or None,  # None: the client went away before there was one
                ms=round(seconds * 1_000, 1),
                client=visit.client,
                key=visit.key.name,
                **visit.told,
            )

    def _refusal(self, path: str, visit: Visit) -> Problem | None:
        if path in ALWAYS_OPEN:
            return None
        if self._allowed and not _within(visit.client, self._allowed):
            return Problem(403, "address", "This address may not use the server", f"The IP {visit.client} is not allowed to call the API")
        if self._under_way > self._context.config.max_requests:
            return Problem(503, "overloaded", "The server is overloaded", "too many requests are under way", retry_after=1, delivered=False)
        return None

    def _client(self, scope: Any) -> str:
        """The client's address: the peer's, or what trusted proxies say, read from the last one back to the first that is not trusted."""
        client = str((scope.get("client") or ("",))[0])
        header = b",".join(value for name, value in scope["headers"] if name == b"x-forwarded-for").decode("latin-1")
        hops = [hop.strip() for hop in header.split(",") if hop.strip()]
        while hops and _within(client, self._proxies):
            try:
                client = str(ipaddress.ip_address(hops.pop()))
            except ValueError:
                break
        return client


def _within(address: str, allowed: tuple[Any, ...]) -> bool:
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False
    mapped = getattr(ip, "ipv4_mapped", None) or ip  # as an IPv6 socket sees a client of IPv4
    return any(mapped in network for network in allowed if network.version == mapped.version)


async def _say(told: Problem, visit: Visit, send: Send) -> None:
    visit.told["problem"] = told.slug
    body = msgspec.json.encode(told.details(visit.id))
    headers = {
        "content-type": MEDIA_TYPE,
        "content-length": str(len(body)),
        **{name.lower(): value for name, value in told.headers.items()},
    }
    pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": told.status, "headers": pairs})
    await send({"type": "http.response.body", "body": body, "more_body": False})


def _on_error(request: Request[Any, Any, Any], error: Exception) -> Response[ProblemDetails]:
    visit = _visit(request.scope)
    if not visit.read and isinstance(error, InternalServerException):
        error = ClientGone()  # Litestar's word for a body that never came to its end
    if not visit.read and isinstance(error, (RecursionError, UnicodeDecodeError)):
        error = Problem(400, "malformed", "The request cannot be read", str(error))
    told = problem(error)
    visit.told["problem"] = told.slug
    if isinstance(error, ClientGone):
        visit.told["problem"] = "client-gone"
    elif told.status == 500:
        log.error("a handler raised what nobody foresaw", request_id=visit.id, exc_info=error)
    return Response(told.details(visit.id), status_code=told.status, headers=told.headers, media_type=MEDIA_TYPE)


def application(context: Context, tracing: Tracing) -> ASGIApp:
    """Return the whole ASGI application. Its lifespan starts the sandbox, and closes it."""

    @contextlib.asynccontextmanager
    async def lifespan(_: Litestar) -> Any:
        context.service.start()
        try:
            yield
        finally:
            await context.service.stop()
            tracing.close()

    handlers = [compile_, run, run_stream, limits, healthz, readyz, metrics, *docs.handlers(playground=context.config.playground)]
    app = Litestar(
        handlers,
        lifespan=[lifespan],
        exception_handlers={Exception: _on_error},
        request_max_body_size=context.config.request_bytes,
        openapi_config=OpenAPIConfig(
            title="dayfly",
            version=__version__,
            description="Untrusted Python code in single-use, hardened containers.",
            components=Components(security_schemes={"key": SecurityScheme(type="apiKey", name="X-API-Key", security_scheme_in="header")}),
            path="/schema",
            render_plugins=docs.PLUGINS,
            use_handler_docstrings=True,
        ),
        debug=False,
        logging_config=None,
    )
    app.state.context = context
    return Edge(app, context, tracing, frozenset(route.path for route in app.routes))
