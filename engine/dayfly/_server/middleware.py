"""The outermost ASGI application: what holds for every request, whatever becomes of it inside.

It makes the request context, answers HEAD like GET, applies the allowed networks and the bound on
requests at once, adds headers, counts, and writes the one line of the log.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import re
import secrets
import time
from collections.abc import Mapping
from typing import Any

import msgspec
import structlog
from litestar.types import ASGIApp, Message, Receive, Scope, Send

from . import docs
from .config import networks
from .connections import Connection, Connections
from .context import AppContext, RequestContext
from .guards import elsewhere
from .logs import LogLimiter
from .problems import MEDIA_TYPE, RUN_CODE, Problem, too_late
from .tracing import Tracing

log = structlog.stdlib.get_logger("dayfly.server")

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
"""For load balancers, from any address. They say nothing of use to anybody else."""
UNREADABLE = "unknown"
"""The client's address where a trusted proxy said one that cannot be read. In no network."""
UNREAD_BODY = 65_536
"""Bytes of a refused request's body that are read, so that its connection can be used again."""
UNREAD_SECONDS = 0.05
LOGGED_PATH = 200
"""Characters of a path in the log."""

_REQUEST_ID = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_HOP = re.compile(r"\[(?P<v6>[^]]+)](?::\d{1,5})?|(?P<v4>\d+\.\d+\.\d+\.\d+):\d{1,5}")


class Middleware:
    """The middleware around the routes of `app`."""

    def __init__(
        self,
        app: ASGIApp,
        context: AppContext,
        tracing: Tracing,
        routes: frozenset[str],
        connections: Connections | None,
    ) -> None:
        self._app = app
        self._context = context
        self._tracing = tracing
        self._routes = routes
        self._patterns = {
            re.sub(r":\w+}", "}", route): re.compile(re.sub(r"\{[^}]+\}", "[^/]+", route)) for route in routes if "{" in route
        }
        self._connections = connections
        self._allowed = networks("allowed_networks", context.config.allowed_networks)
        self._hosts = frozenset(host.lower() for host in context.config.allowed_hosts)
        self._proxies = networks("trusted_proxies", context.config.trusted_proxies)
        self._under_way = 0
        self._limiter = LogLimiter()

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {k.decode("latin-1"): v.decode("latin-1") for k, v in scope["headers"]}
        given = headers.get("x-request-id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else secrets.token_hex(8)
        context = RequestContext(request_id, self._client(scope))
        method = scope["method"]
        # A copy: the server looks at its own for whether the answer has a body.
        scope = {**scope, "dayfly.request": context, "dayfly.app": self._context}
        if method == "HEAD":
            scope["method"] = "GET"
        route = self._route(scope["path"])
        connection = self._connections.of(scope) if self._connections else None
        body = _Body(receive, headers, connection)
        answer = _Answer(send, context, body)
        begun = time.monotonic()
        self._under_way += 1
        try:
            with self._tracing.request(f"{method} {route}", headers) as attributes:
                try:
                    refusal = self._refusal(scope, context, headers)
                    if refusal is not None:
                        await _say(refusal, context, answer)
                    else:
                        await self._app(scope, body, answer)
                finally:
                    attributes |= {
                        "http.request.method": method,
                        "http.route": route,
                        "http.response.status_code": answer.status,
                    }
        finally:
            self._under_way -= 1
            if connection is not None:
                connection.finished()
            self._note(context, route, method, scope["path"], status=answer.status, begun=begun)

    def _route(self, path: str) -> str:
        """The path's route, for metrics; a place in it that holds an id stays a name."""
        if path in self._routes:
            return path
        return next((route for route, pattern in self._patterns.items() if pattern.fullmatch(path)), "other")

    def _note(
        self,
        context: RequestContext,
        route: str,
        method: str,
        path: str,
        *,
        status: int,
        begun: float,
    ) -> None:
        seconds = time.monotonic() - begun
        metrics = self._context.service.metrics
        metrics.requests.labels(route, str(status or "none")).observe(seconds)
        if "problem" in context.notes:
            metrics.refused.labels(context.notes["problem"]).inc()
        if (context.key is None or context.stranger) and route not in ALWAYS_OPEN:
            left_out = self._limiter.passes()
            if left_out is None:
                return
            if left_out:
                context.notes["lines_left_out"] = left_out
        log.log(
            10 if route in ALWAYS_OPEN else 20,
            "request",
            request_id=context.id,
            method=method[:20],
            path=path[:LOGGED_PATH],
            status=status or None,  # None: the client went away before there was one
            ms=round(seconds * 1_000, 1),
            client=context.client,
            key=context.key_name,
            **context.notes,
        )

    def _refusal(self, scope: Scope, context: RequestContext, headers: Mapping[str, str]) -> Problem | None:
        names = [name for name, _ in scope["headers"]]
        if names.count(b"host") > 1 or (b"content-length" in names and b"transfer-encoding" in names):
            detail = "Host is given twice, or Content-Length and Transfer-Encoding together"
            return Problem(400, "malformed", "The request cannot be read", detail)
        if scope["path"] in ALWAYS_OPEN:
            return None
        if self._allowed and not _within(context.client, self._allowed):
            return Problem(
                403,
                "address",
                "This address may not use the server",
                f"The IP {context.client} is not allowed to call the API",
            )
        if self._hosts and (problem := elsewhere(headers, self._hosts)):
            return problem
        if self._under_way > self._context.config.max_requests:
            detail = "too many requests are under way"
            if scope["path"] == RUN_CODE:
                return too_late(detail)
            return Problem(503, "overloaded", "The server is overloaded", detail, retry_after=1, delivered=False)
        return None

    def _client(self, scope: Any) -> str:
        """The client's address: the peer's, or what trusted proxies say.

        Read from the last proxy back to the first address that is not trusted. A proxy that says
        what is not an address leaves the client unknown: it must not pass for the proxy itself.
        """
        client = str((scope.get("client") or ("",))[0])
        given = [value for name, value in scope["headers"] if name == b"x-forwarded-for"]
        hops = b",".join(given).decode("latin-1").split(",") if given else []
        while hops and _within(client, self._proxies):
            hop = hops.pop().strip()
            match = _HOP.fullmatch(hop)
            try:
                client = str(ipaddress.ip_address(match["v6"] or match["v4"] if match else hop))
            except ValueError:
                return UNREADABLE
        return client


class _Body:
    """`receive`, noting when the request has arrived whole."""

    def __init__(self, receive: Receive, headers: dict[str, str], connection: Connection | None) -> None:
        self._receive = receive
        self._connection = connection
        self._expects = "expect" in headers
        empty = headers.get("content-length", "0") == "0" and "transfer-encoding" not in headers
        self.whole = empty
        if connection is not None:
            connection.begun(whole=empty)

    async def __call__(self) -> Any:
        """See ASGI."""
        message = await self._receive()
        ended = message["type"] == "http.request" and not message.get("more_body", False)
        if ended and not self.whole:
            self.whole = True
            if self._connection is not None:
                self._connection.arrived()
        return message

    async def read_rest(self) -> None:
        """Read a small rest of the body that nobody wanted; leave a large one, or a late one."""
        if self.whole or self._expects:
            return
        size = 0
        with contextlib.suppress(asyncio.TimeoutError, TimeoutError):
            while not self.whole and size <= UNREAD_BODY:
                message = await asyncio.wait_for(self(), UNREAD_SECONDS)
                if message["type"] == "http.disconnect":
                    return
                size += len(message.get("body", b""))


class _Answer:
    """`send`, adding what every answer has."""

    def __init__(self, send: Send, context: RequestContext, body: _Body) -> None:
        self._send = send
        self._context = context
        self._body = body
        self.status = 0

    async def __call__(self, message: Message) -> None:
        """See ASGI."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            await self._body.read_rest()
            own = {name for name, _ in message["headers"]}
            headers = [(name, _with_head(name, value)) for name, value in message["headers"]]
            headers += [pair for pair in HEADERS if pair[0] not in own]
            headers.append((b"x-request-id", self._context.id.encode()))
            if not self._body.whole:  # what is left of it would be taken for the next request
                headers.append((b"connection", b"close"))
            message["headers"] = headers
        await self._send(message)


def _with_head(name: bytes, value: bytes) -> bytes:
    if name.lower() != b"allow":
        return value
    methods = [method.strip() for method in value.split(b",")]
    return value + b", HEAD" if b"GET" in methods and b"HEAD" not in methods else value


def _within(address: str, allowed: tuple[Any, ...]) -> bool:
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False
    mapped = getattr(ip, "ipv4_mapped", None) or ip  # as an IPv6 socket sees a client of IPv4
    return any(mapped in network for network in allowed if network.version == mapped.version)


async def _say(told: Problem, context: RequestContext, send: Send) -> None:
    context.notes["problem"] = told.slug
    body = msgspec.json.encode(told.details(context.id))
    headers = {
        "content-type": MEDIA_TYPE,
        "content-length": str(len(body)),
        **{name.lower(): value for name, value in told.headers.items()},
    }
    pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": told.status, "headers": pairs})
    await send({"type": "http.response.body", "body": body, "more_body": False})
