"""POST /mcp: the Model Context Protocol over streamable HTTP, with the server's keys and quotas.

Each request is for itself (no session is kept), and is answered in JSON. A client that goes away
ends its run.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

import anyio
import msgspec
from litestar import asgi
from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler
from litestar.types import Receive, Scope, Send
from mcp import MCPError
from mcp.server.transport_security import TransportSecuritySettings

from dayfly import Job, Result
from dayfly._mcp import INTERNAL_ERROR, Facts, packages_by, server
from dayfly.judge import Case, Cases, JudgeResult

from . import bodies
from .config import Config
from .context import AppContext, RequestContext, app_context, request_context
from .guards import require_json, require_key
from .problems import NotReady, Problem
from .quotas import Refused
from .runs import gone_noted, note_job, note_run, note_verdict, unless_gone
from .service import Service

PATH = "/mcp"
MOST_VALUES = 100_000
"""JSON values in a request, of all cases together."""


class Mcp:
    """The protocol's side of one server. `running` holds while it serves."""

    def __init__(self, config: Config, service: Service) -> None:
        self._config = config
        self._service = service
        self._packages: list[str] | None = None
        self._asking = anyio.Lock()
        self._server = server(self._run, self._judge, facts=self._facts, max_seconds=config.max_timeout_ms / 1_000)
        # The hosts and pages that are served are those of every other route: the middleware and the
        # guard have looked at them.
        security = TransportSecuritySettings(enable_dns_rebinding_protection=False)
        self._server.streamable_http_app(
            stateless_http=True, json_response=True, transport_security=security, max_request_body_size=config.max_request_bytes
        )

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Serve requests for the duration of a block."""
        async with self._server.session_manager.run():
            yield

    async def _facts(self) -> Facts:
        config, service = self._config, self._service
        async with self._asking:
            if self._packages is None and "3" in service.pythons:
                with contextlib.suppress(NotReady):
                    self._packages = await packages_by(service.ask)
        return Facts(
            python=service.pythons.get(config.python, config.python),
            memory_mb=config.memory_mb,
            max_seconds=config.max_timeout_ms / 1_000,
            case_seconds=config.timeout_ms / 1_000,
            packages=self._packages if config.python == "3" else None,
            preload=service.preload,
        )

    @staticmethod
    async def _run(job: Job, call: Any) -> Result:
        scope = call.request_context.request.scope
        app, context = app_context(scope), request_context(scope)
        if app.config.python == "2":  # which has neither
            job = msgspec.structs.replace(job, figures=False, last_value=False)
        note_job(app.config, context, job)
        with _place(app, context):
            done = await app.service.run(job, key=context.key_name)
        note_run(app.config, context, done)
        return done.result

    @staticmethod
    async def _judge(code: str, cases: Sequence[Case], call: Any) -> JudgeResult:
        scope = call.request_context.request.scope
        app, context = app_context(scope), request_context(scope)
        context.notes |= {"code_bytes": len(code), "cases": len(cases)}
        with _place(app, context):
            told = await app.service.judge(
                code.encode("utf-8", "surrogatepass"),
                Cases(cases=cases),
                key=context.key_name,
                concurrency=app.config.judge_concurrency,
                max_seconds=app.config.judge_seconds,
            )
        note_verdict(context, told)
        return told

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """See ASGI."""
        app, context = app_context(scope), request_context(scope)
        assert context.key is not None
        sending: Any = send  # the same thing, by another framework's types
        with gone_noted(context), app.bodies.hold(context.key.name) as take:
            body = await bodies.read(scope, receive, app.config.max_request_bytes, take)
            await bodies.count(body, MOST_VALUES)  # the SDK builds them all, before any quota
            await unless_gone(self._server.session_manager.handle_request(scope, _again(body), sending), receive)


@contextlib.contextmanager
def _place(app: AppContext, context: RequestContext) -> Iterator[None]:
    """Hold a place in the key's quotas. What is refused becomes an error of the protocol, what is
    over a limit of the sandbox one of the tool."""
    assert context.key is not None
    try:
        with app.quotas.run(context.key, time.monotonic()):
            yield
    except (Refused, NotReady) as error:
        raise MCPError(INTERNAL_ERROR, str(error)) from None
    except Problem as told:
        raise ValueError(told.detail) from None


def _again(body: bytes) -> Any:
    """Return a `receive` that gives a body which was read already. Whether the client goes is
    watched elsewhere."""
    given = False

    async def receive() -> dict[str, Any]:
        nonlocal given
        if given:
            await anyio.sleep_forever()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return receive


def _require_post(
    connection: ASGIConnection[Any, Any, Any, Any],
    handler: BaseRouteHandler,  # noqa: ARG001
) -> None:
    """Refuse GET before all else: by its status a client knows that there is no stream to listen
    to."""
    if connection.scope.get("method") != "POST":
        raise Problem(405, "method-not-allowed", "The resource has no such method", "only POST is served", headers={"Allow": "POST"})


def handler(mcp: Mcp) -> Any:
    """Return the route."""

    @asgi(PATH, guards=[_require_post, require_key, require_json], copy_scope=False)
    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        await mcp(scope, receive, send)

    return serve
